"""Booting a Hugging Face model on transformer-lens: what goes wrong is told, and what comes out is
compared with the plain model."""

import copy
import json
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from saescope.cancel import bound_stop_if_cancelled, stop_if_cancelled
from saescope.errors import ModelError, cause_of
from saescope.models.failures import reading
from saescope.models.fires import Fires, watching
from saescope.models.kv_cache import translate_cache_argument
from saescope.models.partial import output, splittable, stack_of

_N_TOKENS = 8
_N_PADDED = 3
_MOST_OFF = {torch.float32: 5e-4, torch.float64: 5e-4}
_MOST_OFF_IN_HALF = 0.1
"""The largest difference, as a share of the plain model's logits; attention in another order of
operations is off by 1e-6 of them in float32."""
_UNKNOWN_SWITCHES = {"scale_attn_weights": False}
"""What transformer-lens computes otherwise than such a configuration says: small weights, or half
precision, would hide it."""
_NO_SETTING = (
    "Use another model: there is no setting that helps. If its SAE belongs to this one, "
    "tell transformer-lens."
)
_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def boot(name: str, model: Any, tokenizer: Any, n_layers: int | None = None) -> tuple[Any, Fires]:
    """A `TransformerBridge` on the model, which is rewired in place, and how often each of its
    hooks fires; where only the first `n_layers` are loaded, as far as they go.

    Raises:
        ModelError: transformer-lens does not hold the family, fails on it, or computes other logits
            than transformers.
    """
    from transformer_lens.model_bridge import TransformerBridge

    model.requires_grad_(False)
    model.config.architectures = [type(model).__name__]
    # The bridge rebuilds its tokenizer from disk unless it looks as if it added BOS; ours stays raw
    # beside it.
    with reading("tokenizer", name, name=name, local=True):  # a copy is written out and read again
        twin = copy.deepcopy(tokenizer)
    twin.init_kwargs.update(name_or_path="", add_bos_token=True)
    logging.getLogger("transformer_lens").setLevel(logging.ERROR)
    # Such edits are meant; `hooks` keeps identity exact.
    warnings.filterwarnings("ignore", "A forward hook edited hook_scale/hook_normalized")
    give_joint_projections_a_bias(model)
    family = f"{type(model).__name__} ({model.config.model_type})"
    _check_switches(name, family, model.config)
    ids, later = _some_tokens(model)
    try:
        model.set_attn_implementation("eager")  # as transformer-lens computes attention
        left_out = [] if n_layers is None else [*(stack_of(model) or [])][n_layers:]
        expected = output(model, next(iter(left_out), None), ids)[0]
        with splittable(left_out):
            bridge = TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=twin)
        bridge.requires_grad_(False)
        translate_cache_argument(bridge)
        give_norms_their_weight(bridge)
        make_stoppable(bridge)
        missing = None if n_layers is None else bridge.blocks[n_layers]
        with watching(bridge, (2, _N_TOKENS)) as fires:
            logits, changed = output(bridge, missing, torch.cat([ids, later]))
    except _FAILURES as error:
        raise _cannot_hold(name, family, error, model.dtype) from error
    _compare(name, family, logits, expected)
    _require_causal(name, family, logits[:-1], changed[:-1])
    fires.padded = _heeds_padding(bridge, missing, ids, logits)
    return bridge, fires


def give_joint_projections_a_bias(model: nn.Module) -> None:
    """A GPT-NeoX projection without bias is one of bias 0: transformer-lens asks for the bias when
    it takes q, k and v apart."""
    if type(model).__name__ != "GPTNeoXForCausalLM":
        return
    for name, linear in model.named_modules():
        if name.endswith(".query_key_value") and linear.bias is None:
            weight: Any = linear.weight
            zeros = torch.zeros_like(weight[:, 0])
            linear.register_parameter("bias", nn.Parameter(zeros, requires_grad=False))


def give_norms_their_weight(bridge: nn.Module) -> None:
    """A norm without weight is a norm of weight 1: transformer-lens asks for the weight once a hook
    edits the norm."""
    from transformer_lens.model_bridge.generalized_components import NormalizationBridge

    for module in bridge.modules():
        component = getattr(module, "original_component", None)
        if not isinstance(module, NormalizationBridge) or component is None:
            continue
        if getattr(component, "weight", None) is None and not isinstance(component, nn.Identity):
            shape = getattr(component, "normalized_shape", (1,))
            component._parameters.pop("weight", None)  # torch's own norms have it, as None
            weight = torch.ones(shape, device=next(bridge.parameters()).device)
            component.register_buffer("weight", weight, persistent=False)


def make_stoppable(bridge: Any) -> None:
    """A cancel is heard between two blocks, forward and backward: one pass over a long text may
    take seconds."""

    def watch_backward(_module: object, _args: object, out: Any) -> None:
        x = out[0] if isinstance(out, tuple) else out
        if isinstance(x, Tensor) and x.requires_grad:
            stop = bound_stop_if_cancelled()
            x.register_hook(lambda _gradient: stop())

    # A model that runs its layers again and again has several lists of them.
    stacks = [stack for stack in bridge.children() if isinstance(stack, nn.ModuleList)]
    for block in (block for stack in stacks for block in stack):
        block.register_forward_pre_hook(lambda _module, _args: stop_if_cancelled())
        block.register_forward_hook(watch_backward)


def _some_tokens(model: Any) -> tuple[Tensor, Tensor]:
    """A row of them, and the same with another last one."""
    embedding = model.get_input_embeddings()
    n_vocab = int(embedding.weight.shape[0])
    ids = (torch.arange(_N_TOKENS) + n_vocab // 2) % n_vocab
    later = ids.clone()
    later[-1] = (later[-1] + 1) % n_vocab
    device = embedding.weight.device
    return ids[None].to(device), later[None].to(device)


def _heeds_padding(bridge: Any, missing: nn.Module | None, ids: Tensor, alone: Tensor) -> bool:
    """Whether a row that is padded on the left, with a mask, gives the logits that it gives
    alone."""
    padded = torch.cat([ids[:, :_N_PADDED], ids], dim=1)
    mask = torch.ones_like(padded)
    mask[:, :_N_PADDED] = 0
    try:
        logits = output(bridge, missing, padded, attention_mask=mask)[0, _N_PADDED:]
    except _FAILURES:
        return False
    off = float((logits.float() - alone.float()).norm() / alone.float().norm().clamp_min(1e-9))
    return not off > _MOST_OFF.get(alone.dtype, _MOST_OFF_IN_HALF)


def _check_switches(name: str, family: str, config: Any) -> None:
    for switch, value in _UNKNOWN_SWITCHES.items():
        if getattr(config, switch, None) is value:
            raise ModelError(
                f"config.json of {family} says {switch}={json.dumps(value)}, which "
                "transformer-lens does not follow.",
                code="UNSUPPORTED_MODEL",
                field="model",
                got=name,
                allowed=f"{switch}={json.dumps(not value)}",
                hint=_NO_SETTING,
            )


def _cannot_hold(name: str, family: str, error: Exception, dtype: torch.dtype) -> ModelError:
    if "supported architecture" in str(error):
        why = f"transformer-lens does not hold {family}."
    else:
        kind, cause = type(error).__name__, cause_of(error)
        cause = cause if cause.startswith(f"{kind}: ") else f"{kind}: {cause}"
        why = f"transformer-lens fails on this model, {family}: {cause}"
    return ModelError(
        why,
        code="UNSUPPORTED_MODEL",
        field="model",
        got=name,
        hint=_NO_SETTING
        if dtype in _MOST_OFF
        else 'It may hold the model in dtype "float32"; this was '
        f"{str(dtype).removeprefix('torch.')}.",
    )


def _require_causal(name: str, family: str, logits: Tensor, changed: Tensor) -> None:
    """Raise where another last token changes what is predicted before it: every number of saescope
    takes that for impossible."""
    off = float((changed.float() - logits.float()).norm() / logits.float().norm().clamp_min(1e-9))
    if off > _MOST_OFF.get(logits.dtype, _MOST_OFF_IN_HALF):
        raise ModelError(
            f"{family} is no causal language model: a later token changes the logits "
            f"of earlier positions by {off:.0%}.",
            code="UNSUPPORTED_MODEL",
            field="model",
            got=name,
            allowed="models that see earlier tokens alone",
            hint="Use a causal language model; of BERT and its like a decoder has is_decoder=true.",
        )


def _compare(name: str, family: str, logits: Tensor, expected: Tensor) -> None:
    if not bool(expected.isfinite().all()):
        return  # of a half precision that overflows: every forward pass checks that for itself
    allowed = _MOST_OFF.get(expected.dtype, _MOST_OFF_IN_HALF)
    logits, expected = logits.float(), expected.float()
    off = float((logits - expected).norm() / expected.norm().clamp_min(1e-9))
    if not off <= allowed:
        raise ModelError(
            f"transformer-lens computes other logits than transformers for {family}: "
            f"off by {off:.2%} of them.",
            code="UNSUPPORTED_MODEL",
            field="model",
            got=name,
            allowed=f"at most {allowed:.2%}",
            hint="Use another model: what saescope would measure in this one would be wrong.",
        )
