"""A model of which the first layers alone are in memory: the weights of the others are never read,
and whoever runs into them is told."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saescope.errors import ModelError
from saescope.names import split_hook

# pyright: reportPrivateUsage=false
NOT_LOADED = "LAYERS_NOT_LOADED"


def layers_below(hook_names: Iterable[str]) -> int | None:
    """How many of a model's first layers the activations at these hooks need; None for all of
    it."""
    layers = [split_hook(name)[0] for name in hook_names]
    known = [layer for layer in layers if layer is not None]
    return max(known) + 1 if known and len(known) == len(layers) else None


def stack_of(model: Any) -> nn.ModuleList | None:
    """The layers of a Hugging Face model, first to last; None where it has them not in one list."""
    n_layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    lists = [part for part in lists if len(part) == n_layers]
    return lists[0] if len(lists) == 1 else None


def read_class(config: Any, n_layers: int | None) -> tuple[Any, Any]:
    """The class of the Hugging Face model of a configuration, and the part of the configuration
    that is its own; with `n_layers` a class whose later layers are left out, which `complete`
    adds."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.auto_factory import _get_model_class

    kind: Any = _get_model_class(config, AutoModelForCausalLM._model_mapping)
    if kind.config_class is config.sub_configs.get("text_config"):
        config = config.get_text_config()
    return (kind if n_layers is None else _short(kind, n_layers)), config


def _short(kind: Any, n_layers: int) -> Any:
    class Short(kind):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            stack = stack_of(self)
            self.__dict__["left_out"] = [] if stack is None else [*stack[n_layers:]]
            if stack is not None:
                del stack[n_layers:]
                self.__dict__["stack"] = stack  # beside it, not a part of it

    Short.__name__, Short.__module__ = kind.__name__, kind.__module__
    return Short


def complete(model: Any) -> int | None:
    """Give a model of `read_class` its later layers, which have shapes and no numbers; the number
    of those that have them, None where that is all."""
    left_out: list[nn.Module] = model.__dict__.pop("left_out")
    model.__class__ = type(model).__mro__[1]
    if not left_out:
        return None
    stack: nn.ModuleList = model.__dict__.pop("stack")
    n_layers = len(stack)
    stack.extend(left_out)
    return without_later(model, n_layers)


def without_later(model: Any, n_layers: int | None) -> int | None:
    """Let go of the numbers of the layers from `n_layers` on; how many have them, None where that
    is all."""
    stack = stack_of(model)
    if n_layers is None or stack is None or n_layers >= len(stack):
        return None
    for block in stack[n_layers:]:
        block.to("meta")
    return n_layers


@contextmanager
def splittable(blocks: Sequence[nn.Module]) -> Generator[None]:
    """Layers without numbers while the block runs with zeros, all of a tensor's in the memory of
    one: transformer-lens takes joint projections apart, which needs some."""
    shared = {id(x) for each in blocks for x in _tensors(each) if not x.is_meta}
    for each in blocks:
        each._apply(lambda x: torch.zeros((), dtype=x.dtype).expand(x.shape) if x.is_meta else x)
    try:
        yield
    finally:
        for part in (part for each in blocks for part in each.modules()):
            for name, x in part._parameters.items():
                if x is not None and id(x) not in shared:
                    part._parameters[name] = nn.Parameter(x.to("meta"), requires_grad=False)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


class _ReachedError(Exception):
    """Carries what would have entered the first layer that is not there."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


def output(model: Any, first_missing: nn.Module | None, ids: Tensor, **options: Any) -> Tensor:
    """The logits; of a model whose later layers are missing what would enter the first of them."""

    def reached(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _ReachedError(args[0] if args else kwargs["hidden_states"])

    handle = (
        None
        if first_missing is None
        else first_missing.register_forward_pre_hook(reached, with_kwargs=True, prepend=True)
    )
    try:
        with torch.no_grad():
            out = model(ids, **options)
    except _ReachedError as reach:
        return reach.x
    finally:
        if handle:
            handle.remove()
    return out if isinstance(out, Tensor) else out.logits


def guard(bridge: Any, n_layers: int, error: Callable[[], ModelError]) -> None:
    """Let no forward pass get further than the layers that are there."""

    def refuse(_: object, args: object) -> None:
        raise error()

    bridge.blocks[n_layers].register_forward_pre_hook(refuse)


@contextmanager
def as_far_as_loaded() -> Generator[None]:
    """A forward pass in the block may end where the layers that are there end."""
    try:
        yield
    except ModelError as error:
        if error.code != NOT_LOADED:
            raise
