"""The mixing buffer: activations of many contexts, drawn at random and replaced in place. One copy
in, one copy out."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.activations.slots import Slots
from saescope.ranks import ALONE, Ranks

Rows = dict[str, Float[Tensor, "_ _"]]
"""Activations by hook; row i of every hook belongs to the same token."""


class MixingBuffer:
    """`n_rows` rows for each hook in one preallocated table.

    Ranks that work together hold a share of the places each. They are given the same rows, and draw
    the same ones, which are those that a process alone would draw.
    """

    def __init__(
        self,
        n_rows: int,
        widths: Mapping[str, int],
        *,
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks, self.share = ranks, ranks.share(n_rows)
        self.tables = {
            name: torch.empty(self.share.stop - self.share.start, width, dtype=dtype, device=device)
            for name, width in widths.items()
        }
        self.slots = Slots(n_rows, seed)

    @property
    def memory_bytes(self) -> int:
        return sum(table.nbytes for table in self.tables.values()) + self.slots.order.nbytes

    def add(self, rows: Rows) -> Rows:
        """Puts rows into free places; returns those for which there was none."""
        n = min(n_rows(rows), self.slots.n_free)
        places = self.slots.claim(n)
        if self.ranks.alone:
            own, taken = places, {name: x[:n] for name, x in rows.items()}
        else:
            here = (places >= self.share.start) & (places < self.share.stop)
            own, at = places[here] - self.share.start, here.nonzero()[:, 0]
            taken = {name: x.index_select(0, at.to(x.device)) for name, x in rows.items()}
        for name, table in self.tables.items():
            table.index_copy_(0, own.to(table.device), taken[name].to(table))
        return {name: x[n:] for name, x in rows.items()}

    def draw(self, n: int) -> Rows:
        """`n` rows at random as float32; their places are free from now on."""
        places = self.slots.draw(n)
        return {name: self._rows(table, places).float() for name, table in self.tables.items()}

    def _rows(self, table: Float[Tensor, "_ d"], places: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        if self.ranks.alone:
            return table.index_select(0, places.to(table.device))
        owners = places // self.ranks.largest_share(len(self.slots.order))
        own = places[owners == self.ranks.rank] - self.share.start
        lengths = torch.bincount(owners, minlength=self.ranks.size).tolist()
        parts = self.ranks.gathered(table.index_select(0, own.to(table.device)), lengths=lengths)
        # Of one rank the rows come in the order of `places`: a stable sort by rank is theirs.
        order = owners.argsort(stable=True).to(table.device)
        return table.new_empty(len(places), table.shape[1]).index_copy_(0, order, torch.cat(parts))

    def state_dict(self) -> dict[str, Tensor]:
        tables = {f"table.{name}": table.clone() for name, table in self.tables.items()}
        return tables | {f"slots.{key}": value for key, value in self.slots.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, table in self.tables.items():
            table.copy_(state[f"table.{name}"])
        self.slots.load_state_dict(below(state, "slots."))


def n_rows(rows: Rows) -> int:
    return len(next(iter(rows.values())))


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries of a state under a prefix, without it."""
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
