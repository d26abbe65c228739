"""Leads from a site to the residual stream, and from a direction there through the last norm and
the unembedding to logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.errors import ModelError
from saescope.models.partial import output
from saescope.names import split_hook
from saescope.precision import wide

_LARGE = 100.0
"""A norm's epsilon does not count beside it."""
_N_TOKENS = 8
_STEP = 0.05
"""The size of the step, as a share of the residual stream's norm."""
_LEAST_COSINE = 0.9
"""The least agreement of a step's effect on the logits, measured and told; half precision leaves
0.99, a head of another form 0."""
RESIDUAL_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "embed")


@dataclass(frozen=True, slots=True)
class Unembedding:
    """logits = ((r - mean if centred) / scale(r)) * gain @ W_U (+ constants), before a soft cap."""

    gain: Float[Tensor, " d_model"]
    centred: bool
    """LayerNorm subtracts the mean over d_model, RMSNorm does not."""
    W_U: Float[Tensor, "d_model d_vocab"]

    def logit_effects(self, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """How each direction moves every logit, up to the positive factor that the norm's scale
        is."""
        directions = directions.to(self.W_U.dtype)
        if self.centred:
            directions = directions - directions.mean(-1, keepdim=True)
        return (directions * self.gain) @ self.W_U


class Head(NamedTuple):
    """How logits come from what the unembedding reads: `scale (x @ W_U + bias)`, before a soft
    cap."""

    scale: float
    """Granite divides its logits by a number, Cohere multiplies them by one."""
    bias: Float[Tensor, " d_vocab"]


def read_head(bridge: Any, W_U: Float[Tensor, "d_model d_vocab"]) -> Head:
    """The scale, measured on a few tokens, and the bias."""
    read: list[Tensor] = []

    def keep(x: Tensor, hook: object) -> None:
        read.append(x.detach())

    bias = bridge.b_U.detach().to(W_U)
    if getattr(bridge.cfg, "output_logits_soft_cap", 0.0) > 0:  # without one it is -1
        return Head(1.0, bias)
    ids = torch.arange(_N_TOKENS, device=W_U.device)[None] % W_U.shape[1]
    with torch.no_grad(), bridge.hooks(fwd_hooks=[("unembed.hook_in", keep)]):
        logits = wide(bridge(ids))
    plain = wide(read[0].to(W_U) @ W_U + bias)
    scale = float((logits * plain).sum() / plain.square().sum())
    # Exactly 1 nearly always, and then so are the numbers.
    return Head(1.0 if abs(scale - 1) < torch.finfo(W_U.dtype).eps ** 0.5 else scale, bias)


def read_readout(
    bridge: Any, d_model: int, device: torch.device, dtype: torch.dtype
) -> Unembedding:
    """Gain and unembedding, the gain measured through the module itself: some families store it as
    `1 + weight`.

    Raises:
        ModelError: the model has no final norm of a kind that we know.
    """
    if "ln_final.hook_normalized" not in bridge.hook_dict:
        return _measured(bridge, d_model, device, dtype)
    kind = str(getattr(bridge.cfg, "normalization_type", None))
    if kind not in ("LN", "RMS"):
        raise ModelError(
            f"The final norm of this model is of an unknown kind ({kind}).",
            code="UNSUPPORTED_MODEL",
            got=kind,
            allowed=("LN", "RMS"),
            hint="Use another model: there is no setting that helps.",
        )
    draw = torch.Generator().manual_seed(0)
    probe = torch.randn(1, 1, d_model, generator=draw).to(device, dtype)
    outputs: list[Tensor] = []
    for value in (1.0, 0.0):
        with bridge.hooks(fwd_hooks=[("ln_final.hook_normalized", _constant(value))]):
            outputs.append(bridge.ln_final(probe)[0, 0].detach())
    return Unembedding(outputs[0] - outputs[1], kind == "LN", bridge.W_U.detach())


def _measured(bridge: Any, d_model: int, device: torch.device, dtype: torch.dtype) -> Unembedding:
    """The readout of a final norm that is called as it is, or of none at all: gain, and whether it
    takes the mean out, from what it gives."""
    norm, W_U = getattr(bridge, "ln_final", None), bridge.W_U.detach()
    if norm is None:
        return Unembedding(torch.ones_like(W_U[:, 0]), False, W_U)
    signs = torch.ones(1, 1, d_model, device=device, dtype=dtype)
    signs[..., 1::2] = -1
    high, low = (norm(_LARGE * value)[0, 0].detach() for value in (signs, -signs))
    shifted = norm(_LARGE * (signs + 1))[0, 0].detach()
    centred = torch.allclose(shifted, high, rtol=0, atol=1e-2 * float((high - low).abs().max()))
    return Unembedding((high - low) / 2 * signs[0, 0], centred, W_U)


def reads_linearly(bridge: Any, readout: Unembedding, last_layer: int) -> bool:
    """Whether small steps of the last block's output move the logits, before a soft cap, as the
    readout says."""
    site, logits = f"blocks.{last_layer}.hook_resid_post", list[Tensor]()
    told = list[Tensor]()

    def step(x: Tensor, hook: object) -> Tensor:
        steps = _steps(readout, x[0]) * (-1.0 if told else 1.0)
        told.append(readout.logit_effects(steps).float())
        return x + steps

    def keep(x: Tensor, hook: object) -> None:
        logits.append(x[0].detach().float())

    if site not in bridge.hook_dict or len(readout.W_U) != bridge.cfg.d_model:
        return False
    ids = _some_ids(readout)
    for _ in range(2):
        with torch.no_grad(), bridge.hooks(fwd_hooks=[(site, step), ("unembed.hook_out", keep)]):
            bridge(ids)
    if not told:  # where norms stand behind the sums, as in GPT-1, there is no such site
        return False
    return _agree(logits[0] - logits[1], told[0])


def head_reads_linearly(bridge: Any, readout: Unembedding, n_layers: int) -> bool:
    """Whether small steps of the stream behind the first `n_layers`, which are all that is loaded,
    move what the final norm and the unembedding make of it as the readout says."""
    norm, site = getattr(bridge, "ln_final", None), f"blocks.{n_layers - 1}.hook_resid_post"
    if norm is None or site not in bridge.hook_dict or len(readout.W_U) != bridge.cfg.d_model:
        return False
    x = output(bridge, bridge.blocks[n_layers], _some_ids(readout))
    steps = _steps(readout, x[0])
    with torch.no_grad():
        high, low = (bridge.unembed(norm(x + sign * steps))[0].float() for sign in (1, -1))
    return _agree(high - low, readout.logit_effects(steps).float())


def _some_ids(readout: Unembedding) -> Tensor:
    return torch.arange(_N_TOKENS, device=readout.W_U.device)[None] % readout.W_U.shape[1]


def _steps(readout: Unembedding, x: Tensor) -> Tensor:
    """Small ones, that leave the norm of what the final norm divides by as it is."""
    draw = torch.Generator().manual_seed(0)
    steps = torch.randn(x.shape, generator=draw).to(x)
    r = x - x.mean(-1, keepdim=True) if readout.centred else x
    steps = steps - (steps * r).sum(-1, keepdim=True) / (r * r).sum(-1, keepdim=True) * r
    return _STEP * r.norm(dim=-1, keepdim=True) / steps.norm(dim=-1, keepdim=True) * steps


def _agree(measured: Tensor, told: Tensor) -> bool:
    cosines = torch.cosine_similarity(measured, told, dim=-1)
    # A padding token without embedding may leave the stream empty: no step of that has a direction.
    return bool(cosines.nanmedian() >= _LEAST_COSINE)


def final_scale(bridge: Any, readout: Unembedding, resid: Float[Tensor, " d_model"]) -> float:
    """The scale of the final norm at a residual stream, from what it makes of that and of its
    opposite, so that its bias drops out."""
    norm = getattr(bridge, "ln_final", None)
    if norm is None:
        return 1.0
    with torch.no_grad():
        up, down = (norm(sign * resid[None, None])[0, 0] for sign in (1, -1))
        numerator = resid - resid.mean() if readout.centred else resid
        return float((readout.gain * numerator).norm() / ((up - down) / 2).norm())


def residual_map(bridge: Any, hook_name: str) -> Callable[[Tensor], Tensor] | None:
    """The linear map from a change at a site, `[n, d]`, to the change of the residual stream; None
    where there is none."""
    layer, site = split_hook(hook_name)
    if site in RESIDUAL_SITES:
        return lambda change: change
    block = None if layer is None else bridge.blocks[layer]
    if block is None or site != "attn.z" or hasattr(block, "ln1_post"):
        return None
    output = getattr(block.attn.o, "original_component", block.attn.o)
    return lambda change: output(change) - output(torch.zeros_like(change[:1]))


def _constant(value: float) -> Any:
    return lambda x, hook: torch.full_like(x, value)
