"""Which hooks carry what enters or leaves a module of the Hugging Face model: found by comparing
them on a few tokens."""

import re
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from saescope.errors import HookError, NumericError
from saescope.models.partial import as_far_as_loaded

ALIKE = (
    ("attn", "self_attn", "attention", "self_attention"),
    ("mlp", "feed_forward", "ffn", "block_sparse_moe"),
)
"""What families call one and the same part of a block; SAEs are named by the first where their
training library does that."""
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)[._](\d+)(?:\.(.+))?$")
_SITES = (
    *("hook_resid_pre", "hook_resid_post", "hook_mlp_out", "hook_attn_out"),
    *("mlp.hook_in", "mlp.hook_out", "hook_resid_mid", "attn.hook_out", "attn.hook_z"),
    *("mlp.hook_post", "ln2.hook_out", "ln1.hook_out", "ln1_post.hook_out", "ln2_post.hook_out"),
)
"""Sites, in the order in which one is chosen where several carry the same tensor."""
_N_TOKENS = 7
_MOST_OFF = 1e-5


def hooks_of_module(bridge: Any, module: str, side: str) -> tuple[str, ...]:
    """Names of the hooks whose tensor is the `side` ("input", "output") of `module`, the usual name
    first; none if there is none.

    Raises:
        HookError: HOOK_REPEATED: the model runs the module several times in one pass, so that no
            tensor is the one there.
        NumericError: what is there is not finite, so nothing can be compared.
    """
    part = _module(bridge, module)
    if part is None:
        return ()
    table = bridge.original_model.get_input_embeddings().weight
    ids = (torch.arange(_N_TOKENS, device=table.device) + table.shape[0] // 2) % table.shape[0]
    names = _candidates(bridge, module)
    there, seen = _run(bridge, ids[None], names, part, side)
    if len(seen) > 1:
        raise HookError(
            f"The model runs its module {module!r} {len(seen)} times in one forward "
            f"pass: no single activation is its {side}.",
            code="HOOK_REPEATED",
            field="hook_name",
            got=module,
            hint="Use an SAE of a module that is passed once, or another model.",
        )
    wanted = seen[0] if seen else None
    if wanted is not None and not bool(wanted.isfinite().all()):
        raise NumericError(
            f"The {side} of the model's module {module!r} is not finite.",
            hint='Load the model with dtype="float32".',
        )
    return tuple(name for name in names if name in there and _same(there[name], wanted))


def _module(bridge: Any, module: str) -> nn.Module | None:
    """The module of that path as transformers has it; transformer-lens puts its own in its place,
    around it."""
    match = _LAYER.search(module)
    if not match or not hasattr(bridge, "blocks"):
        by_path = _by_path(bridge.original_model)
        ends = [path for path in by_path if f".{path}".endswith(f".{module}")]
        return by_path[min(ends, key=len)] if ends else None
    layer, part = int(match[1]), match[2] or ""
    if layer >= len(bridge.blocks):
        return None
    by_path = _by_path(bridge.blocks[layer])
    alike = next((names for names in ALIKE if part in names), (part,))
    return next((by_path[name] for name in (part, *alike) if name in by_path), None)


def _by_path(root: nn.Module) -> dict[str, nn.Module]:
    """Every module by its path in transformers; of those that wrap one another, the outermost."""
    by_path: dict[str, nn.Module] = {}
    for name, part in root.named_modules(remove_duplicate=False):
        path = re.sub(r"_?original_component(\.|$)", "", name).rstrip(".")
        by_path.setdefault(path, part)
    return by_path


def _candidates(bridge: Any, module: str) -> list[str]:
    match = _LAYER.search(module)
    if not match:
        return [name for name in ("hook_embed", "embed.hook_out") if name in bridge.hook_dict]
    block = f"blocks.{match[1]}." if hasattr(bridge, "blocks") else ""
    others = sorted(
        name
        for name in bridge.hook_dict
        if name.startswith(block) and name.rpartition(".")[2] in ("hook_in", "hook_out")
    )
    return list(dict.fromkeys([*(f"{block}{site}" for site in _SITES), *others]))


def _run(
    bridge: Any, ids: Tensor, names: list[str], module: nn.Module, side: str
) -> tuple[dict[str, Tensor], list[Tensor | None]]:
    """One forward pass: what each hook and the module saw each time it ran, positions in rows,
    before anybody adds to it in place."""
    there: dict[str, Tensor] = {}
    wanted: list[Tensor | None] = []

    def keep(name: str) -> Any:
        def look(x: Any, hook: object) -> None:
            if isinstance(x, Tensor):
                there[name] = _rows(x, ids.shape[1])

        return look

    def look(_: nn.Module, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        first = out if side == "output" else [*args, *kwargs.values()]
        first = first if isinstance(first, Tensor) else next(iter(first), None)
        wanted.append(_rows(first, ids.shape[1]) if isinstance(first, Tensor) else None)

    def before(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        look(_, args, kwargs, None)

    with ExitStack() as stack, torch.no_grad():
        for name in names:
            try:
                stack.enter_context(bridge.hooks(fwd_hooks=[(name, keep(name))]))
            except (KeyError, ValueError):  # not in this family, or switched off
                continue
        handle = (
            module.register_forward_hook(look, with_kwargs=True)
            if side == "output"
            else module.register_forward_pre_hook(before, with_kwargs=True)
        )
        stack.callback(handle.remove)
        with as_far_as_loaded():
            bridge(ids)
    return there, wanted


def _rows(x: Tensor, n_pos: int) -> Tensor:
    return x.detach().clone().reshape(n_pos, -1) if x.numel() % n_pos == 0 else x.detach().clone()


def _same(x: Tensor, wanted: Tensor | None) -> bool:
    if wanted is None or x.shape != wanted.shape:
        return False
    most_off = _MOST_OFF * float(wanted.float().abs().max())
    return bool((x.float() - wanted.float()).abs().max() <= most_off)
