"""Which contexts stand for a feature: its strongest, and a uniform sample from every half octave of
its range.

What is kept depends on the set of contexts alone, never on their order: bands end at powers of the
root of two, whatever the maximum turns out to be, and a feature's window of bands only moves up; a
sample is the entries with the smallest hashes.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.activations.hashing import MOST
from saescope.features.index.config import IndexConfig
from saescope.features.index.firings import Contexts, Firings, windows
from saescope.features.index.hashing import hash_entries
from saescope.features.index.slots import Entries, Priority, SlotTable
from saescope.ops import places, sizes_are_free

N_BANDS = 8
"""Half octaves sampled: the one that holds the maximum, and those below it, down to about a
sixteenth of the maximum."""


MOST_ROWS = 2**20
"""More contexts than a batch has."""


class Examples:
    """Keeps for each feature `n_top` contexts for cards, and of each half octave `n_range` for
    cards and `n_quiz` for quizzes."""

    def __init__(self, d_sae: int, cfg: IndexConfig, device: torch.device) -> None:
        self.top = SlotTable(d_sae, cfg.n_top, device)
        self.range = SlotTable(d_sae * N_BANDS, cfg.n_range, device)
        self.quiz = SlotTable(d_sae * N_BANDS, cfg.n_quiz, device)
        self.seed = cfg.seed

    @staticmethod
    def bytes_per_feature(cfg: IndexConfig) -> int:
        return (cfg.n_top + N_BANDS * (cfg.n_range + cfg.n_quiz)) * SlotTable.BYTES

    def contenders(
        self, firings: Firings, contexts: Contexts, maxima: Float[Tensor, " d_sae"]
    ) -> list["Contenders"]:
        """What belongs here from a batch, for each table; `maxima` are those with the batch in."""
        fresh, quiz = contexts.fresh[firings.rows], contexts.quiz[firings.rows]
        entries = Entries(firings.values, contexts.hashes[firings.rows], firings.positions.short())
        for_cards, for_quizzes = fresh & ~quiz & firings.fire, fresh & quiz & firings.fire
        band, top_band = band_of(firings.values), band_of(maxima)
        # A band's place is its number modulo N_BANDS: when the maximum grows, a new band takes the
        # place of the one that falls out.
        in_range = band > top_band[firings.features] - N_BANDS
        keys = firings.features * N_BANDS + band % N_BANDS
        by_chance = partial(by_hash, self.seed, top_band)
        asked = (
            (self.top, firings.features, for_cards, by_strength),
            (self.range, keys, in_range & for_cards, by_chance),
            (self.quiz, keys, in_range & for_quizzes, by_chance),
        )
        return [
            _contenders(table, by, entries, firings.rows, wanted=wanted, worth=worth)
            for table, by, wanted, worth in asked
        ]

    def add(
        self, firings: Firings, contenders: Sequence["Contenders"], sizes: Sequence[int]
    ) -> None:
        """Take contenders of a batch, of which the sizes are known one after another; `firings` are
        those that fire alone."""
        for table, each, n_best, n_keys in zip(
            self._tables.values(), contenders, sizes[::2], sizes[1::2], strict=True
        ):
            best, opening = places(each.best, n_best), places(each.opens, n_keys)
            chosen = each.chosen[best]

            def around(i: Tensor, chosen: Tensor = chosen) -> Tensor:
                return windows(firings, chosen[i])

            table.merge(
                each.keys[opening],
                (each.opens.cumsum(0) - 1)[best],
                _take(each.entries, chosen),
                priority=each.worth,
                windows=around,
            )

    def state_dict(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": array
            for name, table in self._tables.items()
            for key, array in table.arrays().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, table in self._tables.items():
            table.load_state_dict(
                {
                    key.removeprefix(f"{name}."): array
                    for key, array in state.items()
                    if key.startswith(f"{name}.")
                }
            )

    @property
    def _tables(self) -> dict[str, SlotTable]:
        return {"top": self.top, "range": self.range, "quiz": self.quiz}


def band_of(values: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The half octave of each value: `2^(band / 2) <= value < 2^((band + 1) / 2)`."""
    # frexp has mantissas in [0.5, 1): the upper half octave starts at 0.5 * sqrt(2) = sqrt(0.5).
    mantissa, exponent = torch.frexp(values)
    return 2 * (exponent.long() - 1) + (mantissa >= 0.5**0.5)


def by_strength(keys: Int[Tensor, " n"], entries: Entries) -> Int[Tensor, " n"]:
    """The stronger the better; of equals the smaller hash. Positive floats are ordered as their
    bits are."""
    bits = entries.values.contiguous().view(torch.int32).long()
    # 31 bits of the float above 31 bits of the inverted hash: one int64 orders by both.
    return torch.where(entries.values > 0, bits * 2**31 + (MOST - entries.contexts) // 2**32, -1)


def by_hash(
    seed: int, top_band: Int[Tensor, " d_sae"], keys: Int[Tensor, " n"], entries: Entries
) -> Int[Tensor, " n"]:
    """Rank entries at random; what the growing maximum has left `N_BANDS` bands below is worth
    nothing any more."""
    features = keys // N_BANDS
    alive = (entries.values > 0) & (band_of(entries.values) > top_band[features] - N_BANDS)
    return torch.where(
        alive, MOST - hash_entries(seed, features, entries.contexts, entries.positions.long()), -1
    )


class Contenders(NamedTuple):
    """Firings of a batch that may get a place in a table, by key and context."""

    entries: Entries
    """The entries of the whole batch."""
    worth: Priority
    chosen: Int[Tensor, " m"]
    """The places of the contenders among the firings."""
    keys: Int[Tensor, " m"]
    best: Bool[Tensor, " m"]
    """Who is the best of its key and context, and better than the last place of its key; nobody
    else contends."""
    opens: Bool[Tensor, " m"]
    """Who is the first of these of its key."""

    @property
    def sizes(self) -> Int[Tensor, "2"]:
        """How many are best, and of how many keys."""
        return torch.stack([self.best.sum(), self.opens.sum()])


def _contenders(
    table: SlotTable,
    keys: Int[Tensor, " n"],
    entries: Entries,
    rows: Int[Tensor, " n"],
    *,
    wanted: Bool[Tensor, " n"],
    worth: Priority,
) -> Contenders:
    free = sizes_are_free(keys.device)
    chosen = places(wanted) if free else torch.arange(len(keys), device=keys.device)
    value = worth(keys[chosen], _take(entries, chosen))
    # Most firings lose against the last place already: dropping them here keeps the sorts small.
    better = (value > worth(keys[chosen], table.last(keys[chosen]))) & wanted[chosen]
    if free:
        kept = places(better)
        chosen, value, better = chosen[kept], value[kept], better[kept]
    # One of each context and key: the firings are sorted by feature and context, not by key.
    groups = keys[chosen] * MOST_ROWS + rows[chosen]
    order = torch.where(better, value, -1).argsort(descending=True, stable=True)
    groups, by_group = groups[order].sort(stable=True)
    order = order[by_group]
    chosen, better, new_key = chosen[order], better[order], _changes(groups // MOST_ROWS)
    best = _changes(groups) & better
    # How many of the best come before each, and before the first entry of its key.
    before = best.cumsum(0) - best.long()
    at_key = torch.where(new_key, before, 0).cummax(0).values if len(best) else before
    return Contenders(entries, worth, chosen, keys[chosen], best, best & (before == at_key))


def _changes(x: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Where a run of equal numbers begins."""
    first = torch.ones(len(x), dtype=torch.bool, device=x.device)
    first[1:] = x[1:] != x[:-1]
    return first


def _take(entries: Entries, chosen: Tensor) -> Entries:
    return Entries(*(x[chosen] for x in entries))
