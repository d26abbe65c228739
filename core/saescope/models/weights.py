"""Which weights a model has, bit by bit."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from saescope.cancel import stop_if_cancelled


@runtime_checkable
class WeightsDigest(Protocol):
    """A hash under way."""

    def update(self, data: bytes, /) -> None: ...
    def copy(self) -> Self: ...
    def hexdigest(self) -> str: ...


_Versions = tuple[tuple[int, int], ...]
_Known = tuple[_Versions, WeightsDigest]
_known: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], _Known]] = WeakKeyDictionary()


def weights_digest(module: nn.Module, *, without: Sequence[nn.Module] = ()) -> WeightsDigest:
    """The sha256 of all names, shapes, types and bits, to which more may be added; of the parts
    `without` these nothing.

    They are hashed again once one was written to (about a second a gigabyte); a change by way of
    `tensor.data` after the first call is not seen.
    """
    apart = {id(tensor) for part in without for _, tensor in _tensors(part)}
    tensors = {name: tensor for name, tensor in _tensors(module) if id(tensor) not in apart}
    versions = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors.values())
    known, key = _known.setdefault(module, {}), tuple(map(id, without))
    before, digest = known.get(key, ((), None))
    if digest is None or before != versions:
        digest = _digest(tensors)
        known[key] = versions, digest
    return digest.copy()


def _digest(tensors: Mapping[str, Tensor]) -> WeightsDigest:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        stop_if_cancelled()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bits(tensor))
    return digest


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and the buffers that files have; others are computed, some anew in each pass."""
    yield from module.named_parameters()
    for place, part in module.named_modules():
        for name, buffer in part.named_buffers(recurse=False):
            if name not in vars(part)["_non_persistent_buffers_set"]:
                yield f"{place}.{name}", buffer


def _bits(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
