"""A pretended accelerator: a device of its own to torch, whose tensors are kept and computed by the
CPU.

    with accelerator.plugged_in() as card:
        model = ss.load_model(folder, device=accelerator.NAME)
        ...
    card.waits, card.uploads

It refuses to mix devices as a real one does, and counts where the host waits for it: `waits` are
synchronisations and copies to the host, `uploads` copies to the device, both by the line of
saescope that asked. What a real device lacks (kernels, dtypes, memory) it cannot say, nor how fast
one is.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretended"
GIB = 2**30
aten: Any = torch.ops.aten
MIXED = "Expected all tensors to be on the same device, but found at least two devices, {} and cpu"
WAITING = {
    *(aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select),
    *(aten._unique2, aten.unique_consecutive, aten.unique_dim, aten.bincount, aten.histc),
}
"""What cannot return before the device has computed it: a number, a yes or no, a shape."""
INDEXING = {
    *(aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_),
}


# pyright: reportPrivateUsage=false
_registration: Any = backend_registration
_hooks: Any = torch._C


class Card(_registration._DummyBackendModule):
    """One card of 80 GiB, and what was asked of it."""

    def __init__(self) -> None:
        self.is_there = False
        self.has_float64 = True
        self.waits, self.uploads = Counter[str](), Counter[str]()

    def is_available(self) -> bool:
        return self.is_there

    def device_count(self) -> int:
        return int(self.is_there)

    def mem_get_info(self, device: object = None) -> tuple[int, int]:
        return 60 * GIB, 80 * GIB

    def memory_allocated(self, device: object = None) -> int:
        return 0

    memory_reserved = max_memory_allocated = memory_allocated

    def synchronize(self, device: object = None) -> None:
        self.waits[f"synchronize {_asking()}"] += 1

    def empty_cache(self) -> None:
        pass

    def forget(self) -> None:
        """Count from here."""
        self.waits.clear()
        self.uploads.clear()


class _Hook(_hooks._acc.PrivateUse1Hooks):
    def is_available(self) -> bool:
        return CARD.is_there

    def has_primary_context(self, dev_id: int) -> bool:
        return True

    def is_built(self) -> bool:
        return True


CARD = Card()
_registration._setup_privateuseone_for_python_backend(NAME, CARD, _Hook())
DEVICE = torch.device(NAME, 0)
_CPU = torch.device("cpu")
_FROM_HOST = (torch.tensor, torch.as_tensor, torch.asarray)


class OnCard(torch.Tensor):
    """A tensor of the device; `values_there` holds them."""

    values_there: torch.Tensor

    @staticmethod
    def __new__(cls: Any, inner: torch.Tensor) -> "OnCard":
        layout: dict[str, Any] = {}
        if inner.layout == torch.strided:
            layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        make: Any = torch.Tensor._make_wrapper_subclass
        made: OnCard = make(cls, inner.shape, dtype=inner.dtype, device=DEVICE, **layout)
        made.values_there = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnCard({self.values_there!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})

    # What torch answers in C++ for plain tensors alone.
    def tolist(self) -> Any:
        return self.cpu().tolist()

    def new_tensor(self, data: Any, *args: Any, **options: Any) -> Any:
        there: dict[str, Any] = {"dtype": self.dtype, "device": DEVICE}
        return torch.tensor(data, **(there | options))

    def __getitem__(self, index: Any) -> torch.Tensor:
        return super().__getitem__(_with_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_with_tensors(index), value)


def _with_tensors(index: Any) -> Any:
    """An index with its lists as tensors."""
    if isinstance(index, tuple):
        return tuple(map(_with_tensors, index))
    return torch.tensor([*index]) if isinstance(index, list | range) else index


def _asking() -> str:
    """The line of saescope that is at work."""
    frame = inspect.currentframe()
    while frame is not None:
        _, ours, name = frame.f_code.co_filename.rpartition("/saescope/")
        if ours and "site-packages" not in frame.f_code.co_filename:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def _inner(x: Any) -> Any:
    if isinstance(x, torch.device) and x.type == NAME:
        return _CPU
    return x.values_there if isinstance(x, OnCard) else x


def _outer(x: Any) -> Any:
    return _on_card(x) if isinstance(x, torch.Tensor) and not isinstance(x, OnCard) else x


def _on_card(x: torch.Tensor) -> OnCard:
    if x.dtype == torch.float64 and not CARD.has_float64:
        raise TypeError(f"Cannot convert a tensor to float64: {NAME} doesn't support it.")
    return OnCard(x)


def _count_copy(*, up: bool, name: str = "copy") -> None:
    (CARD.uploads if up else CARD.waits)[f"{name} {_asking()}"] += 1


def _dispatch(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operation of torch on tensors of which one is on the card, or is to be."""
    packet, leaves = func.overloadpacket, tree_leaves((args, kwargs))
    held = [x for x in leaves if isinstance(x, OnCard)]
    if packet is aten._to_copy:
        return _to_copy(func, args[0], kwargs)
    if packet is aten.copy_:
        if isinstance(args[0], OnCard) != isinstance(args[1], OnCard):
            _count_copy(up=isinstance(args[0], OnCard))
        _inner(args[0]).copy_(_inner(args[1]))
        return args[0]
    if held:
        _refuse_mixed(func, packet, leaves)
    masked = packet in INDEXING and any(x is not None and x.dtype is torch.bool for x in args[1])
    if packet in WAITING or masked:
        CARD.waits[f"{'boolean index' if masked else packet.__name__} {_asking()}"] += 1
    if packet is aten.repeat_interleave and held and kwargs.get("output_size") is None:
        CARD.waits[f"repeat_interleave {_asking()}"] += 1
    device = kwargs.pop("device", None)
    ours = bool(held) if device is None else device.type == NAME
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    if device is not None:
        kwargs["device"] = _inner(device)
    out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if torch.Tag.inplace_view in func.tags:
        with no_dispatch():  # the shape that the tensor shows
            func(*args, **kwargs)
    # What was changed in place is the tensor that was given.
    given = {id(x.values_there): x for x in held} if func._schema.is_mutable else {}
    return tree_map(lambda x: given[id(x)] if id(x) in given else _outer(x), out) if ours else out


def _to_copy(func: Any, x: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    device, was = options.get("device"), isinstance(x, OnCard)
    ours = was if device is None else device.type == NAME
    if ours != was:
        _count_copy(up=ours)
    out = func(_inner(x), **tree_map(_inner, options))
    return _on_card(out) if ours else out


def _refuse_mixed(func: Any, packet: Any, leaves: Sequence[Any]) -> None:
    """Tensors of the CPU beside those of the device: only numbers and indices may be."""
    for x in leaves:
        if isinstance(x, torch.Tensor) and not isinstance(x, OnCard) and x.dim():
            if packet in INDEXING and not x.is_floating_point():
                _count_copy(up=True, name="index")
            else:
                raise RuntimeError(f"{MIXED.format(DEVICE)}! ({func})")


def _made_there(name: str) -> Callable[..., torch.Tensor]:
    """A function that makes a tensor of the device."""
    packet, _, overload = name.partition(".")
    func = getattr(getattr(aten, packet), overload or "default")

    def make(*args: Any, device: Any = None, pin_memory: Any = None, **options: Any) -> OnCard:
        return _on_card(func(*args, device=_CPU, **options))

    return make


_ANY, _MAKING = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
_ANY.fallback(lambda func, *args, **kwargs: _dispatch(func, args, kwargs), "PrivateUse1")
for _name in (
    *("arange", "arange.start", "arange.start_step", "randperm", "randperm.generator"),
    *("linspace", "eye", "eye.m", "tril_indices", "triu_indices"),
):
    _MAKING.impl(_name, _made_there(_name), "PrivateUse1")


class _FromHost(TorchFunctionMode):
    """Sends what `torch.tensor` and its like make to the device, which torch does in C++ alone.

    They are not replaced: torch knows its constructors by identity, and a model loaded beside
    replaced ones keeps what its buffers' memory held before.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        device = options.get("device")
        if func in _FROM_HOST and device is not None and torch.device(device).type == NAME:
            return func(*args, **(options | {"device": _CPU})).to(DEVICE)
        return func(*args, **options)


@contextmanager
def plugged_in(*, has_float64: bool = True) -> Generator[Card]:
    """The card is there while the block runs, and counts from its start; without float64 it is what
    Apple's devices are."""
    CARD.forget()
    with ExitStack() as stack:
        stack.enter_context(_FromHost())
        stack.enter_context(mock.patch.object(CARD, "is_there", True))
        stack.enter_context(mock.patch.object(CARD, "has_float64", has_float64))
        yield CARD
