"""What is compared with what: two sets of texts, or the same texts in two models."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.cancel import stop_if_cancelled
from saescope.features.contrast.separation import (
    Difference,
    auc_interval,
    compare,
    compare_pairs,
)
from saescope.features.labels.scores import wilson
from saescope.metrics import average_ranks

LEAST_HALF = 4
"""Texts (or documents) of each set that a half needs."""
REPEATS = 5
"""How often the texts are halved; each half chooses once and tests once."""
N_DRAWS = 1999
"""Random regroupings of the texts that stand for "no difference"."""
COLUMNS = 1024
"""Features that are regrouped at a time."""


class Fold(NamedTuple):
    """Texts that choose features, and texts that test them."""

    chosen_on: Int[Tensor, " n"]
    held_out: Int[Tensor, " m"]


class Design(ABC):
    """A comparison; `rows` are the numbers of the texts that scores belong to, and `unit` is the
    document of each text: what is regrouped together. `halved` numbers what goes to one half."""

    n: tuple[int, int]
    n_units: tuple[int, int]
    unit: Int[Tensor, " n_texts"]
    halved: Int[Tensor, " n_texts"]
    length_auc: float
    length_p: float

    @abstractmethod
    def compare(self, scores: Float[Tensor, "n m"], rows: Int[Tensor, " n"]) -> Difference: ...

    @abstractmethod
    def interval(self, auc: float) -> tuple[float, float]:
        """A 95 % interval of an area under the curve over all texts."""

    @abstractmethod
    def centred(self, values: Float[Tensor, "n_texts ..."]) -> Float[Tensor, "n_texts ..."]:
        """Values of all texts without what the contrast itself explains."""

    @abstractmethod
    def sets(self) -> list[Int[Tensor, " _"]]:
        """The texts of each list that was given, in its order."""

    @abstractmethod
    def side(self, rises: bool) -> Int[Tensor, " _"]:
        """The texts on which a feature of that direction fires more."""

    @abstractmethod
    def _strata(self) -> list[Int[Tensor, " _"]]:
        """Numbers in `halved` of each kind; a half gets half of every kind."""

    @abstractmethod
    def _ranked(self, scores: Float[Tensor, "n_texts m"]) -> Float[Tensor, "n_texts m"]:
        """What the test adds up, weighted by what `_draws` gives."""

    @abstractmethod
    def _draws(self, seed: int) -> Float[Tensor, "n_weights n_texts"]:
        """Weights of the texts: as they are, then as they might be if nothing differed."""

    @abstractmethod
    def _spread(
        self, ranked: Float[Tensor, "n_texts m"], moved: Float[Tensor, "n_draws m"]
    ) -> Float[Tensor, " m"]:
        """Standard deviation of what is added up, over all regroupings."""

    @property
    def splits(self) -> bool:
        """There are enough texts to choose on one half and test on the other."""
        return min(self.n_units) >= 2 * LEAST_HALF

    def folds(self, seed: int) -> list[Fold]:
        """The texts halved `REPEATS` times, each half choosing once; none if they are too few."""
        if not self.splits:
            return []
        rng = torch.Generator().manual_seed(seed)
        return [fold for _ in range(REPEATS) for fold in self._halved(rng)]

    def _halved(self, rng: torch.Generator) -> Iterator[Fold]:
        in_first = torch.zeros(len(self.halved), dtype=torch.bool)
        for units in self._strata():
            chosen = units[torch.randperm(len(units), generator=rng)[: (len(units) + 1) // 2]]
            in_first |= torch.isin(self.halved, chosen)
        one, other = in_first.nonzero()[:, 0], (~in_first).nonzero()[:, 0]
        yield from (Fold(one, other), Fold(other, one))

    def family_p(
        self, scores: Float[Tensor, "n_texts n_features"], seed: int
    ) -> Float[Tensor, " n_features"]:
        """Each feature's p, corrected for all features that were looked at: the share of random
        regroupings in which *any* feature differs as much, in its own standard deviations.

        Westfall & Young 1993, single-step maxT: the chance of one or more false findings is at most
        the level, whatever the features have to do with each other.
        """
        weights = self._draws(seed)
        most = torch.zeros(len(weights) - 1, dtype=torch.float64)
        observed: list[Tensor] = []
        for columns in scores.split(COLUMNS, dim=1):
            stop_if_cancelled()
            ranked = self._ranked(columns.double())
            moved = weights @ ranked
            spread = self._spread(ranked, moved[1:])
            z = torch.where(spread > 1e-9, moved.abs() / spread.clamp(min=1e-9), 0)
            most = torch.maximum(most, z[1:].amax(1))
            observed.append(z[0])
        ordered, z = most.sort().values, torch.cat(observed)
        beyond = len(ordered) - torch.searchsorted(ordered, z - 1e-9)
        return (beyond + 1).double() / (len(ordered) + 1)


class Groups(Design):
    """Two sets of texts.

    Texts of one document (`documents`) are not independent: they are halved and regrouped
    together where the document stands in one set, and within the document where it stands in
    both. Where no documents are known, `halved` may name texts that go to the same half.
    """

    def __init__(
        self,
        first: Bool[Tensor, " n_texts"],
        lengths: Float[Tensor, " n_texts"],
        documents: Sequence[str] = (),
        *,
        halved: Int[Tensor, " n_texts"] | None = None,
    ) -> None:
        self.first = first
        self.n = int(first.sum()), int((~first).sum())
        self.unit = _numbered(documents) if documents else torch.arange(len(first))
        self.halved = self.unit if documents or halved is None else halved
        self.n_units = len(self.unit[first].unique()), len(self.unit[~first].unique())
        self.own = _kinds(self.unit, first)[:2]
        length = compare(lengths[:, None], first)
        self.length_auc, self.length_p = float(length.auc), float(length.p)

    def compare(self, scores: Float[Tensor, "n m"], rows: Int[Tensor, " n"]) -> Difference:
        return compare(scores, self.first[rows])

    def interval(self, auc: float) -> tuple[float, float]:
        return auc_interval(auc, *self.n_units)

    def sets(self) -> list[Int[Tensor, " _"]]:
        return [self.first.nonzero()[:, 0], (~self.first).nonzero()[:, 0]]

    def side(self, rises: bool) -> Int[Tensor, " _"]:
        return self.sets()[not rises]

    def centred(self, values: Float[Tensor, "n_texts ..."]) -> Float[Tensor, "n_texts ..."]:
        centred = torch.empty_like(values)
        for rows in self.sets():
            centred[rows] = values[rows] - values[rows].mean(0)
        return centred

    def _strata(self) -> list[Int[Tensor, " _"]]:
        return _kinds(self.halved, self.first)

    def _ranked(self, scores: Float[Tensor, "n_texts m"]) -> Float[Tensor, "n_texts m"]:
        return average_ranks(scores)[0] - (len(scores) + 1) / 2

    def _draws(self, seed: int) -> Float[Tensor, "n_weights n_texts"]:
        first = torch.cat([self.first[None], self._regrouped(seed)]).double()
        n_first = first.sum(1, keepdim=True)
        return first / n_first - (1 - first) / (len(self.first) - n_first)

    def _spread(
        self, ranked: Float[Tensor, "n_texts m"], moved: Float[Tensor, "n_draws m"]
    ) -> Float[Tensor, " m"]:
        if len(self.unit.unique()) < len(self.unit):
            return moved.square().mean(0).sqrt()
        # the difference of two means drawn without replacement; ranks are centred
        n = len(ranked)
        return (ranked.square().sum(0) / (n - 1) * (1 / self.n[0] + 1 / self.n[1])).sqrt()

    def _regrouped(self, seed: int) -> Bool[Tensor, "n_draws n_texts"]:
        rng = torch.Generator().manual_seed(seed)
        drawn = self.first.repeat(N_DRAWS, 1)
        # documents of one set change sets as a whole ...
        one, other = self.own
        side = torch.arange(len(one) + len(other)) < len(one)
        sides = side[torch.rand(N_DRAWS, len(side), generator=rng).argsort(dim=1)]
        units, order = torch.cat([one, other]).sort()
        whole = torch.isin(self.unit, units)
        drawn[:, whole] = sides[:, order][:, torch.searchsorted(units, self.unit[whole])]
        # ... and texts of a document in both change places within it
        within = (~whole).nonzero()[:, 0]
        within = within[self.unit[within].argsort(stable=True)]
        keys = self.unit[within] + torch.rand(N_DRAWS, len(within), generator=rng).double()
        drawn[:, within] = self.first[within][keys.argsort(dim=1)]
        return drawn


class PairedTexts(Design):
    """Texts that two models read: scores are changes, and lengths are equal by design."""

    def __init__(self, n: int, documents: Sequence[str] = ()) -> None:
        self.unit = _numbered(documents) if documents else torch.arange(n)
        self.halved, n_units = self.unit, len(self.unit.unique())
        self.n, self.n_units = (n, n), (n_units, n_units)
        self.length_auc, self.length_p = 0.5, 1.0

    def compare(self, scores: Float[Tensor, "n m"], rows: Int[Tensor, " n"]) -> Difference:
        return compare_pairs(scores)

    def interval(self, auc: float) -> tuple[float, float]:
        return wilson(auc * self.n_units[0], self.n_units[0])

    def sets(self) -> list[Int[Tensor, " _"]]:
        return [torch.arange(self.n[0])]

    def side(self, rises: bool) -> Int[Tensor, " _"]:
        return torch.arange(self.n[0])

    def centred(self, values: Float[Tensor, "n_texts ..."]) -> Float[Tensor, "n_texts ..."]:
        return values - values.mean(0)

    def _strata(self) -> list[Int[Tensor, " _"]]:
        return [self.unit.unique()]

    def _ranked(self, scores: Float[Tensor, "n_texts m"]) -> Float[Tensor, "n_texts m"]:
        return average_ranks(scores.abs())[0] * scores.sign()

    def _draws(self, seed: int) -> Float[Tensor, "n_weights n_texts"]:
        """A model makes no difference: each document's changes might as well have the other
        sign."""
        rng = torch.Generator().manual_seed(seed)
        signs = torch.randint(2, (N_DRAWS, self.n_units[0]), generator=rng).double() * 2 - 1
        return torch.cat([torch.ones(1, self.n[0]).double(), signs[:, self.unit]])

    def _spread(
        self, ranked: Float[Tensor, "n_texts m"], moved: Float[Tensor, "n_draws m"]
    ) -> Float[Tensor, " m"]:
        by_unit = ranked.new_zeros(self.n_units[0], ranked.shape[1])
        return by_unit.index_add_(0, self.unit, ranked).square().sum(0).sqrt()


def _numbered(documents: Sequence[str]) -> Int[Tensor, " n_texts"]:
    numbers = {name: i for i, name in enumerate(dict.fromkeys(documents))}
    return torch.tensor([numbers[name] for name in documents])


def _kinds(
    unit: Int[Tensor, " n_texts"], first: Bool[Tensor, " n_texts"]
) -> list[Int[Tensor, " _"]]:
    """Units of the first set only, of the second only, and of both."""
    ones, others = unit[first].unique(), unit[~first].unique()
    shared = torch.isin(ones, others)
    return [ones[~shared], others[~torch.isin(others, ones)], ones[shared]]
