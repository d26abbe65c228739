"""Which contexts stand for a feature: its strongest, and a uniform sample from every half octave of
its range.

What is kept depends on the set of contexts alone, never on their order: bands end at powers of the
root of two, whatever the maximum turns out to be, and a feature's window of bands only moves up; a
sample is the entries with the smallest hashes.
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.features.index.config import IndexConfig
from saescope.features.index.firings import Contexts, Firings, windows
from saescope.features.index.hashing import MOST, hash_entries
from saescope.features.index.slots import Entries, Priority, SlotTable

N_BANDS = 8
"""Half octaves sampled: the one that holds the maximum, and those below it, down to about a
sixteenth of the maximum."""


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

    def add(self, firings: Firings, contexts: Contexts, maxima: Float[Tensor, " d_sae"]) -> None:
        """Take what belongs here from a batch that the statistics know already."""
        fresh, quiz = contexts.fresh[firings.rows], contexts.quiz[firings.rows]
        entries = Entries(firings.values, contexts.hashes[firings.rows], firings.positions.short())
        for_cards = fresh & ~quiz
        self._merge(self.top, firings, firings.features, entries, for_cards, by_strength)
        band, top_band = band_of(firings.values), band_of(maxima)
        # A band's place is its number modulo N_BANDS: when the maximum grows, a new band takes the
        # place of the one that falls out.
        in_range = band > top_band[firings.features] - N_BANDS
        keys = firings.features * N_BANDS + band % N_BANDS
        by_chance = partial(by_hash, self.seed, top_band)
        self._merge(self.range, firings, keys, entries, in_range & for_cards, by_chance)
        self._merge(self.quiz, firings, keys, entries, in_range & fresh & quiz, by_chance)

    def _merge(
        self,
        table: SlotTable,
        firings: Firings,
        keys: Tensor,
        entries: Entries,
        wanted: Tensor,
        worth: Priority,
    ) -> None:
        chosen = wanted.nonzero()[:, 0]
        value = worth(keys[chosen], _take(entries, chosen))
        # Most firings lose against the last place already: dropping them here keeps the sort in
        # `merge` small.
        better = value > worth(keys[chosen], table.last(keys[chosen]))
        chosen, value = chosen[better], value[better]
        # One of each context and key: the firings are sorted by feature and context, not by key.
        groups = (
            keys[chosen] * (int(firings.rows.max()) + 1 if len(firings) else 1)
            + firings.rows[chosen]
        )
        chosen = chosen[best_of(groups, value)]
        table.merge(
            keys[chosen], _take(entries, chosen), worth, lambda i: windows(firings, chosen[i])
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


def best_of(groups: Int[Tensor, " n"], worth: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
    """Find the worthiest entry of each group."""
    order = worth.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    sorted_groups = groups[order]
    # The first of each run of equal groups is the worthiest.
    first = torch.ones(len(order), dtype=torch.bool, device=order.device)
    first[1:] = sorted_groups[1:] != sorted_groups[:-1]
    return order[first]


def _take(entries: Entries, chosen: Tensor) -> Entries:
    return Entries(*(x[chosen] for x in entries))
