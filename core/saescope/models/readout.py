"""From a site to the residual stream, and what the last norm and the unembedding make of a direction there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.errors import ModelError
from saescope.names import split_hook

RESIDUAL_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "embed")


@dataclass(frozen=True, slots=True)
class Readout:
    """logits = ((r - mean if centred) / scale(r)) * gain @ W_U (+ constants), before a soft cap."""

    gain: Float[Tensor, " d_model"]
    centred: bool
    """LayerNorm subtracts the mean over d_model, RMSNorm does not."""
    W_U: Float[Tensor, "d_model d_vocab"]

    def logit_effects(self, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """How each direction moves every logit, up to the positive factor that the norm's scale is."""
        directions = directions.to(self.W_U.dtype)
        if self.centred:
            directions = directions - directions.mean(-1, keepdim=True)
        return (directions * self.gain) @ self.W_U


def read_readout(bridge: Any, d_model: int, device: torch.device, dtype: torch.dtype) -> Readout:
    """Gain and unembedding, the gain measured through the module itself: some families store it as `1 + weight`.

    Raises:
        ModelError: the model has no final norm of a kind that we know.
    """
    kind = str(getattr(bridge.cfg, "normalization_type", None))
    if kind not in ("LN", "RMS"):
        raise ModelError(
            f"The final norm of this model is of an unknown kind ({kind}).",
            code="UNSUPPORTED_MODEL",
        )
    probe = torch.randn(
        1, 1, d_model, device=device, dtype=dtype, generator=torch.Generator(device).manual_seed(0)
    )
    outputs: list[Tensor] = []
    for value in (1.0, 0.0):
        with bridge.hooks(fwd_hooks=[("ln_final.hook_normalized", _constant(value))]):
            outputs.append(bridge.ln_final(probe)[0, 0].detach())
    return Readout(outputs[0] - outputs[1], kind == "LN", bridge.W_U.detach())


def residual_map(bridge: Any, hook_name: str) -> Callable[[Tensor], Tensor] | None:
    """The linear map from a change at a site, `[n, d]`, to the change of the residual stream; None where there is none."""
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
