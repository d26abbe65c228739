"""Recording and editing activations. Hooks live only inside these context managers, and one that
never fired is an error."""

import math
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.errors import HookError
from saescope.models import LanguageModel, StopForward
from saescope.models.kv_cache import first_cached, require_reach
from saescope.names import split_hook
from saescope.progress import NOBODY, Advance

Edit = Callable[[Tensor], Tensor]
"""Takes the activation at a hook and returns what stands there instead: a new tensor of the same
shape."""
_PROBE = (3, 7)
"""Texts and tokens: numbers that are not likely to be those of heads."""


_OF_NORMS = (".hook_normalized", ".hook_scale")
_MID_PARTS = ("hook_resid_pre", "hook_attn_out")
"""The residual stream in the middle of a block is their sum."""
_MOST_OFF = 0.02
"""The largest difference, as a share of the norm; rounding in bfloat16 is below it."""


@contextmanager
def edit_activations(model: LanguageModel, edits: Mapping[str, Edit]) -> Generator[None]:
    """Replace the activation at each named hook by `edit(activation)` while the block runs.

    Raises:
        HookError: the model has no such hook, or fires it several times in one pass, or it never
            fired inside the block.
    """
    fired: set[str] = set()
    with model.lock, ExitStack() as stack:
        stack.callback(setattr, model, "n_editing", model.n_editing)
        model.n_editing += 1
        for hook_name, edit in edits.items():
            stack.callback(model.mid_edits.pop, hook_name, None)
            hooks = _hooks(model, hook_name, edit, fired)
            stack.enter_context(model.hooked(hooks))
        yield
    silent = [name for name in edits if name not in fired]
    if silent:
        raise HookError(
            f"{silent[0]!r} never fired: nothing was edited there.",
            code="HOOK_NEVER_FIRED",
            got=silent[0],
            hint="Run the model inside the block, far enough up to reach the hook.",
        )


def record_activations(
    model: LanguageModel,
    ids: Int[Tensor, "batch n_pos"],
    hook_names: Iterable[str],
    *,
    mask: Bool[Tensor, "batch n_pos"] | None = None,
    past: Any = None,
) -> dict[str, Tensor]:
    """Activations at each hook, `[batch, n_pos, ...]`; the model runs no further than the last of
    them. With a cache, `past`, the ids follow on it.

    Raises:
        HookError: the model has no such hook, or it never fired, or it fires several times in one
            pass.
        ArgumentError: rows are padded on the left, and the model does not heed that.
    """
    pending = list(dict.fromkeys(hook_names))
    recorded: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> None:
        last = len(recorded) + 1 == len(pending)
        recorded[name] = x if last else x.clone()  # some families add to it in place later on

    stream_activations(model, ids, pending, take=keep, mask=mask, past=past)
    return recorded


def record_texts(
    model: LanguageModel,
    ids: Int[Tensor, "batch n_pos"],
    hook_names: Iterable[str],
    *,
    advance: Advance = NOBODY,
) -> dict[str, Tensor]:
    """`record_activations` of texts of one length, in chunks where they are long
    (`LanguageModel.passes`): equal to one pass up to rounding, and attention takes the memory of a
    chunk. `advance` hears of the positions that are read.

    Raises:
        HookError: as `record_activations`.
        ModelError: the cache did not grow by the tokens fed.
    """
    names = list(dict.fromkeys(hook_names))
    passes = model.passes(ids.shape[1])
    if len(passes) == 1:
        found = record_activations(model, ids, names)
        advance(ids.shape[1])
        return found
    past, parts = model.new_cache(), list[dict[str, Tensor]]()
    # A pass that ended before the first attention layer would leave the next one at position 0.
    counting_layer = first_cached(past)
    wanted = [*names, f"blocks.{counting_layer}.hook_resid_post"]
    layers = [split_hook(name)[0] for name in wanted]
    below = max(model.n_layers if layer is None else layer for layer in layers)
    for first, end in passes:
        found = record_activations(model, ids[:, first:end], wanted, past=past)
        require_reach(past, n_tokens=end, below=max(below, counting_layer + 1))
        parts.append({name: found[name] for name in names})
        advance(end - first)
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in names}


def stream_activations(
    model: LanguageModel,
    ids: Int[Tensor, "batch n_pos"],
    hook_names: Iterable[str],
    *,
    take: Callable[[str, Tensor], None],
    mask: Bool[Tensor, "batch n_pos"] | None = None,
    past: Any = None,
) -> None:
    """Call `take` with the name and the activation of each hook at the moment it fires; the model
    may change that tensor in place once `take` is through.

    Raises:
        HookError: as `record_activations`.
        ArgumentError: as `record_activations`.
    """
    pending, fired = list(dict.fromkeys(hook_names)), set[str]()

    def keep(name: str, x: Any, hook: object) -> None:
        _require_tensor(name, x)
        fired.add(name)
        take(name, x.detach())
        if len(fired) == len(pending):
            raise StopForward(x)

    for name in pending:
        model.require_hook(name)
    model.run(ids, [(name, partial(keep, name)) for name in pending], mask=mask, past=past)
    silent = [name for name in pending if name not in fired]
    if silent:
        raise HookError(
            f"{silent[0]!r} never fired in this model's forward pass.",
            code="HOOK_NEVER_FIRED",
            got=silent[0],
            hint='Use another site, such as "blocks.1.hook_resid_post".',
        )


def hook_shape(model: LanguageModel, hook_name: str) -> tuple[int, ...]:
    """Trailing shape of the activation at a hook, (d,) or (n_heads, d_head): measured once, on a
    few tokens.

    Raises:
        HookError: the model has no such hook, or fires it several times, or what stands there is no
            vector a position.
    """
    if hook_name not in model.shapes:
        probe = torch.zeros(_PROBE, dtype=torch.long)
        shape = tuple(record_activations(model, probe, [hook_name])[hook_name].shape)
        if len(shape) < 3 or shape[:2] != _PROBE:
            raise HookError(
                f"{hook_name!r} has no vector at each position: its shape is {shape} "
                f"for {_PROBE[0]} texts of {_PROBE[1]} tokens.",
                code="HOOK_WITHOUT_POSITIONS",
                field="hook_name",
                got=hook_name,
                hint='Use a site such as "blocks.1.hook_resid_post", '
                '"blocks.1.hook_mlp_out" or "blocks.1.attn.hook_z".',
            )
        model.shapes[hook_name] = shape[2:]
    return model.shapes[hook_name]


def hook_width(model: LanguageModel, hook_name: str) -> int:
    """Numbers a position at a hook, heads taken together.

    Raises:
        HookError: as `hook_shape`.
    """
    return math.prod(hook_shape(model, hook_name))


def _hooks(
    model: LanguageModel, hook_name: str, edit: Edit, fired: set[str]
) -> list[tuple[str, Any]]:
    model.require_hook(hook_name)

    def apply(x: Any, hook: object) -> Tensor:
        fired.add(hook_name)
        _require_tensor(hook_name, x)
        edited = edit(x).to(x.dtype)
        # After a norm's hook returns another tensor, equal or not, the bridge computes the norm
        # anew: off by a rounding.
        is_kept = hook_name.endswith(_OF_NORMS) and not edited.requires_grad
        return x if is_kept and torch.equal(edited, x) else edited

    if not hook_name.endswith(".hook_resid_mid"):
        return [(hook_name, apply)]
    # hook_resid_mid feeds only the MLP branch; the same change made to what attention writes
    # reaches the skip path too.
    block, entered = hook_name.removesuffix("hook_resid_mid"), list[Tensor]()
    if any(not model.has_hook(f"{block}{part}") for part in _MID_PARTS):
        raise _not_editable(model, hook_name)

    def enter(x: Tensor, hook: object) -> None:
        entered[:] = [x]

    def write(attn_out: Tensor, hook: object) -> Tensor:
        resid_pre = entered.pop()
        resid_mid = resid_pre + attn_out
        edited = apply(resid_mid, hook)
        model.mid_edits[hook_name] = edited.detach()
        if edited.requires_grad:
            return attn_out + (edited - resid_mid)
        # Exact where nothing changed and where it is zeroed: a norm would blow up what rounding
        # leaves of a zero.
        return torch.where(edited == resid_mid, attn_out, edited - resid_pre)

    def verify(x: Tensor, hook: object) -> None:
        """Not every family adds just what attention writes: some scale it, some put a norm behind
        the sum."""
        # Of several edits here, each sees what the one before left: the last one's result must
        # stand.
        there, asked = x.detach().float(), model.mid_edits[hook_name].float()
        if float((there - asked).norm()) > _MOST_OFF * float(asked.norm() + there.norm()):
            raise _not_editable(model, hook_name)

    before, after = (f"{block}{part}" for part in _MID_PARTS)
    return [(before, enter), (after, write), (hook_name, verify)]


def _not_editable(model: LanguageModel, hook_name: str) -> HookError:
    block = hook_name.removesuffix("hook_resid_mid")
    return HookError(
        f"{hook_name!r} cannot be edited in {model.name}: it is not the residual "
        "stream plus what attention writes.",
        code="HOOK_NOT_EDITABLE",
        field="hook_name",
        got=hook_name,
        hint=f"Use {block}hook_resid_pre or {block}hook_resid_post.",
    )


def _require_tensor(hook_name: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise HookError(
            f"{hook_name!r} gives a {type(x).__name__}, not a tensor, in this model.",
            code="HOOK_WITHOUT_POSITIONS",
            field="hook_name",
            got=hook_name,
            hint='Use a site such as "blocks.1.hook_resid_pre" or "blocks.1.hook_mlp_out".',
        )
