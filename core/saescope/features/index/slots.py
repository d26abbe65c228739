"""Bounded places for examples: of every key the best few entries by a priority."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int16, UInt8
from torch import Tensor

from saescope.features.index.firings import WINDOW
from saescope.ops import places, sizes_are_free


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
        self,
        touched: Int[Tensor, " n_touched"],
        local: Int[Tensor, " n"],
        new: Entries,
        *,
        priority: Priority,
        windows: Windows,
    ) -> None:
        """Put new entries where they belong, each into the row `touched[local]`; `windows` is asked
        for those that got a place, or for all where it is not free to know which."""
        if not len(touched):
            return
        # Only the keys that get something are rewritten: [n_touched * n_slots] old entries, then
        # the [n] new ones.
        tables = (self.values, self.contexts, self.positions)
        old = Entries(*(x[touched].flatten() for x in tables))
        n_old, rows = len(old.values), torch.arange(len(touched), device=touched.device)
        # owners[i] is the row of `touched` that entry i competes in.
        owners = torch.cat([rows.repeat_interleave(self.n_slots), local])
        both = Entries(*(torch.cat(pair) for pair in zip(old, new, strict=True)))
        worth = priority(touched[owners], both)
        # An empty place is worth less than anything, whatever the priority makes of its zeros.
        worth[:n_old].masked_fill_(old.values == 0, -1)
        slots = _slots(owners, worth, len(touched), self.n_slots)
        for table, entries in zip(tables, both, strict=True):
            self._rewrite(table, touched, (owners, slots), entries)
        got = slots[n_old:]
        asked = (
            places(got < self.n_slots)
            if sizes_are_free(got.device)
            else torch.arange(len(got), device=got.device)
        )
        # Entries that stay carry their window along.
        self._rewrite(
            self.windows,
            touched,
            (torch.cat([owners[:n_old], local[asked]]), torch.cat([slots[:n_old], got[asked]])),
            torch.cat([self.windows[touched].flatten(0, 1), windows(asked)]),
        )

    def _rewrite(
        self, table: Tensor, touched: Tensor, where: tuple[Tensor, Tensor], entries: Tensor
    ) -> None:
        """Write rows anew, so that places that nothing takes read as empty. What got no place goes
        into one slot too many, which is cut off."""
        rows = table.new_zeros(len(touched), self.n_slots + 1, *table.shape[2:])
        rows[where] = entries
        table[touched] = rows[:, : self.n_slots]

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


def _slots(
    owners: Int[Tensor, " n"], worth: Int[Tensor, " n"], n_owners: int, n_slots: int
) -> Int[Tensor, " n"]:
    """The slot of each entry among its owner's, the worthiest first; `n_slots` for none."""
    # Sorted by worth, then stably by owner: within an owner the worthiest stays first, and equals
    # keep their order.
    order = worth.argsort(descending=True, stable=True)
    sorted_owners, by_owner = owners[order].sort(stable=True)
    order = order[by_owner]
    # Where the owner of each sorted entry begins; the distance to it is the rank.
    rows = torch.arange(n_owners, device=owners.device)
    starts = torch.searchsorted(sorted_owners, rows)[sorted_owners]
    ranks = torch.arange(len(order), device=order.device) - starts
    good = (ranks < n_slots) & (worth[order] >= 0)
    return torch.empty_like(order).index_copy_(0, order, torch.where(good, ranks, n_slots))
