"""Weights in memory within a number of bytes: what was used longest ago goes first."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Kept(NamedTuple):
    weights: Any
    n_bytes: int


class Resident:
    """The weights of a set's members that are in memory; one is read at a time."""

    def __init__(self, budget: int | None) -> None:
        self.budget = budget
        """The most bytes that are kept; None keeps all. One member is kept however large it is."""
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, member: int, n_bytes: int, read: Callable[[], T]) -> T:
        """The weights of a member, read now if they are not here; others make room for them
        first."""
        with self._lock:
            if member not in self._kept:
                self._make_room(n_bytes)
                self._kept[member] = _Kept(read(), n_bytes)
            self._kept.move_to_end(member)
            return self._kept[member].weights

    def drop(self) -> int:
        """Let go of all of them; the bytes that they took."""
        with self._lock:
            freed = self.n_bytes
            self._kept.clear()
            return freed

    def holds(self, weights: object) -> bool:
        """Whether these are the weights of one of them."""
        return any(kept.weights is weights for kept in self._kept.values())

    @property
    def n_bytes(self) -> int:
        """The bytes in memory now."""
        return sum(kept.n_bytes for kept in self._kept.values())

    @property
    def members(self) -> list[int]:
        """Which members are in memory, the one used longest ago first."""
        return [*self._kept]

    def _make_room(self, n_bytes: int) -> None:
        while self.budget is not None and self._kept and self.n_bytes + n_bytes > self.budget:
            self._kept.popitem(last=False)
