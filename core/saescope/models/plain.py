"""The Hugging Face modules under a bridge as a model of their own: same weights, SDPA attention,
none of the bridge's hooks."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from saescope.models.kv_cache import no_cache
from saescope.models.language_model import LanguageModel
from saescope.products import ONEDNN, times_rows

_WRAPPED = "_original_component"
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
)


class _Stop(Exception):
    """Raised where the last wanted activation is known."""


class PlainModel:
    """Runs the model up to the last of the given hooks and no further."""

    def __init__(self, root: nn.Module, sites: Sequence[tuple[str, nn.Module, bool]]) -> None:
        self.root = root
        self.sites = sites
        """Name, module, and whether the activation is the module's input (else its output)."""

    def __call__(self, ids: Int[Tensor, "batch n_pos"]) -> dict[str, Tensor]:
        """Activations by hook; one whose module did not run is missing."""
        activations: dict[str, Tensor] = {}
        self.stream(ids, activations.__setitem__)
        return activations

    @torch.no_grad()
    def stream(self, ids: Int[Tensor, "batch n_pos"], take: Callable[[str, Tensor], None]) -> None:
        """Call `take` with the name and the activation of each hook at the moment it is
        reached."""
        fired = set[str]()

        def keep(name: str, x: Tensor) -> None:
            fired.add(name)
            take(name, x)
            if len(fired) == len(self.sites):
                raise _Stop

        with ExitStack() as stack:
            for name, module, is_input in self.sites:
                stack.callback(self._attach(module, is_input, partial(keep, name)).remove)
            with suppress(_Stop):
                self.root(input_ids=ids, **no_cache(self.root))

    @staticmethod
    def _attach(module: nn.Module, is_input: bool, keep: Callable[[Tensor], None]) -> Any:
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(args[0] if args else next(iter(kwargs.values())))

        def after(_: nn.Module, args: Any, out: Any) -> None:
            keep(out[0] if isinstance(out, tuple) else out)

        return (
            module.register_forward_pre_hook(before, with_kwargs=True)
            if is_input
            else module.register_forward_hook(after)
        )


def plain_model(model: LanguageModel, hook_names: Sequence[str]) -> PlainModel | None:
    """None where the architecture has no SDPA, or a hook is not the input or output of one of its
    modules."""
    original: Any = model.bridge.original_model
    if not getattr(original, "_supports_sdpa", False):
        return None
    twins: dict[int, nn.Module] = {}
    root = _twin(original, twins, {})
    sites = [_site(model, name, twins) for name in hook_names]
    sites_ = [site for site in sites if site is not None]
    return PlainModel(root, sites_) if len(sites_) == len(sites) else None


def _site(
    model: LanguageModel, hook_name: str, twins: dict[int, nn.Module]
) -> tuple[str, nn.Module, bool] | None:
    point = model.bridge.hook_dict.get(hook_name)
    owner, _, end = str(point.name).rpartition(".") if point is not None else ("", "", "")
    if not owner or end not in ("hook_in", "hook_out"):
        return None
    module = twins.get(id(_unwrapped(model.bridge.get_submodule(owner))))
    return None if module is None else (hook_name, module, end == "hook_in")


def _unwrapped(module: Any) -> nn.Module:
    while (inner := module._modules.get(_WRAPPED)) is not None:
        module = inner
    return module


def _twin(wrapped: nn.Module, twins: dict[int, nn.Module], configs: dict[int, Any]) -> nn.Module:
    """A copy of the tree of modules that shares the tables of parameters and buffers, with the
    bridge's wrappers left out."""
    module: Any = _unwrapped(wrapped)
    if id(module) not in twins:
        twin: Any = copy.copy(module)
        twins[id(module)] = twin
        vars(twin).update({name: OrderedDict() for name in _HOOKS})
        config = vars(module).get("config")
        if hasattr(config, "_attn_implementation"):
            twin.config = copy.deepcopy(config, configs)
            twin.config._attn_implementation = "sdpa"
        children = {
            name: None if child is None else _twin(child, twins, configs)
            for name, child in module._modules.items()
        }
        vars(twin).update(
            _parameters=module._parameters, _buffers=module._buffers, _modules=children
        )
        if ONEDNN and (type(module) is nn.Linear or type(module).__name__ == "Conv1D"):
            vars(twin)["forward"] = partial(_product, twin)
    return twins[id(module)]


def _product(linear: Any, x: Tensor) -> Tensor:
    """What a Linear, or GPT-2's Conv1D with its transposed weight, gives."""
    weight = linear.weight if isinstance(linear, nn.Linear) else linear.weight.T
    return times_rows(x, weight, linear.bias)
