"""Bounded places for examples: of every key the best few entries by a priority."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int16, UInt8
from torch import Tensor

from saescope.features.index.firings import WINDOW


class Entries(NamedTuple):
    """Candidates for places, or what holds them."""

    values: Float[Tensor, " n"]
    contexts: Int[Tensor, " n"]
    """Hashes of the contexts."""
    positions: Int16[Tensor, " n"]


Priority = Callable[[Int[Tensor, " n"], Entries], Int[Tensor, " n"]]
"""Rates entries under their keys: the larger the better; an entry below 0 is not kept."""
Windows = Callable[[Int[Tensor, " m"]], UInt8[Tensor, "m window"]]


class SlotTable:
    """`n_slots` places a key, best first, `BYTES` each; a value of 0 marks an empty one."""

    BYTES = 4 + 8 + 2 + WINDOW

    def __init__(self, n_keys: int, n_slots: int, device: torch.device) -> None:
        self.n_slots = n_slots
        self.values = torch.zeros(n_keys, n_slots, device=device)
        self.contexts = torch.zeros(n_keys, n_slots, dtype=torch.int64, device=device)
        self.positions = torch.zeros(n_keys, n_slots, dtype=torch.int16, device=device)
        self.windows = torch.zeros(n_keys, n_slots, WINDOW, dtype=torch.uint8, device=device)

    def last(self, keys: Int[Tensor, " n"]) -> Entries:
        """The entry that a new one of each key must beat."""
        return Entries(self.values[keys, -1], self.contexts[keys, -1], self.positions[keys, -1])

    def merge(
        self, keys: Int[Tensor, " n"], new: Entries, priority: Priority, windows: Windows
    ) -> None:
        """Put new entries where they belong; `windows` is asked for those alone that got a
        place."""
        if not len(keys):
            return
        # Only the keys that get something are rewritten: [n_touched * n_slots] old entries, then
        # the [n] new ones.
        touched, local = keys.unique(return_inverse=True)
        old = Entries(*(x[touched].flatten() for x in (self.values, self.contexts, self.positions)))
        n_old = len(old.values)
        # owners[i] is the row of `touched` that entry i competes in.
        owners = torch.cat(
            [torch.arange(len(touched), device=keys.device).repeat_interleave(self.n_slots), local]
        )
        both = Entries(*(torch.cat(pair) for pair in zip(old, new, strict=True)))
        worth = priority(touched[owners], both)
        # An empty place is worth less than anything, whatever the priority makes of its zeros.
        worth[:n_old][old.values == 0] = -1
        order, ranks = _ranked(owners, worth)
        good = (ranks < self.n_slots) & (worth[order] >= 0)
        # places: flat indices into [n_keys * n_slots]; no two entries have the same, as a rank is
        # unique within its owner.
        order, places = order[good], touched[owners[order[good]]] * self.n_slots + ranks[good]
        kept = torch.zeros(len(order), WINDOW, dtype=torch.uint8, device=keys.device)
        is_new = order >= n_old
        # Entries that stay carry their window along; `order` below n_old counts the places of
        # `touched` alone.
        kept[~is_new] = self.windows[touched].flatten(0, 1)[order[~is_new]]
        kept[is_new] = windows(order[is_new] - n_old)
        self._write(touched, places, Entries(*(x[order] for x in both)), kept)

    def _write(self, touched: Tensor, places: Tensor, entries: Entries, kept: Tensor) -> None:
        # Places that nothing takes must read as empty: the old values would make ghosts of entries
        # that moved up.
        self.values[touched] = 0
        self.windows[touched] = 0
        for table, entry in zip((self.values, self.contexts, self.positions), entries, strict=True):
            table.view(-1)[places] = entry
        self.windows.flatten(0, 1)[places] = kept

    def arrays(self) -> dict[str, Tensor]:
        return {
            "values": self.values,
            "contexts": self.contexts,
            "positions": self.positions,
            "windows": self.windows,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, array in self.arrays().items():
            array.copy_(state[name])


def _ranked(owners: Int[Tensor, " n"], worth: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Entries by owner, the worthiest first, and the place of each in its owner's list."""
    # Sorted by worth, then stably by owner: within an owner the worthiest stays first, and equals
    # keep their order.
    order = worth.argsort(descending=True, stable=True)
    order = order[owners[order].argsort(stable=True)]
    sizes = torch.bincount(owners)
    # Where the owner of each sorted entry begins; the distance to it is the rank.
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return order, torch.arange(len(order), device=order.device) - starts
