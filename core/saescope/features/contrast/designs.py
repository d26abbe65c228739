"""What is compared with what: two sets of texts, or the same texts in two models."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.features.contrast.separation import (
    Difference,
    auc_interval,
    compare,
    compare_pairs,
    flipped_p,
    permuted_p,
)
from saescope.features.labels.scores import wilson

LEAST_HALF = 4
"""Texts of each set that a half needs."""


class Halves(NamedTuple):
    """Texts that choose features, and texts that test them; all texts twice where they are too
    few."""

    chosen_on: Int[Tensor, " n"]
    held_out: Int[Tensor, " m"]
    split: bool


@runtime_checkable
class Design(Protocol):
    """`rows` are the numbers of the texts that `scores` belong to."""

    n: tuple[int, int]
    length_auc: float
    length_p: float

    def halves(self, seed: int) -> Halves: ...

    def sizes(self, rows: Int[Tensor, " n"]) -> tuple[int, int]: ...

    def compare(self, scores: Float[Tensor, "n m"], rows: Int[Tensor, " n"]) -> Difference: ...

    def permuted_p(
        self, scores: Float[Tensor, "n m"], rows: Int[Tensor, " n"], seed: int
    ) -> Float[Tensor, " m"]: ...

    def interval(self, auc: float, rows: Int[Tensor, " n"]) -> tuple[float, float]: ...

    def centred(self, values: Float[Tensor, " n"], rows: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Values without what the contrast itself explains."""
        ...


class Groups:
    """Two sets of texts, compared as groups."""

    def __init__(self, first: Bool[Tensor, " n_texts"], lengths: Float[Tensor, " n_texts"]) -> None:
        self.first = first
        self.n = int(first.sum()), int((~first).sum())
        length = compare(lengths[:, None], first)
        self.length_auc, self.length_p = float(length.auc), float(length.p)

    def halves(self, seed: int) -> Halves:
        parts = [_halve(group.nonzero()[:, 0], seed) for group in (self.first, ~self.first)]
        everything = torch.arange(len(self.first))
        if min(self.n) < 2 * LEAST_HALF:
            return Halves(everything, everything, False)
        return Halves(
            torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]), True
        )

    def sizes(self, rows: Int[Tensor, " n"]) -> tuple[int, int]:
        return int(self.first[rows].sum()), int((~self.first[rows]).sum())

    def compare(self, scores: Float[Tensor, "n m"], rows: Int[Tensor, " n"]) -> Difference:
        return compare(scores, self.first[rows])

    def permuted_p(
        self, scores: Float[Tensor, "n m"], rows: Int[Tensor, " n"], seed: int
    ) -> Float[Tensor, " m"]:
        return permuted_p(scores, self.first[rows], seed=seed)

    def interval(self, auc: float, rows: Int[Tensor, " n"]) -> tuple[float, float]:
        return auc_interval(auc, *self.sizes(rows))

    def centred(self, values: Float[Tensor, " n"], rows: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        first = self.first[rows]
        return torch.where(first, values - values[first].mean(), values - values[~first].mean())


class PairedTexts:
    """Texts that two models read: scores are changes, and lengths are equal by design."""

    def __init__(self, n: int) -> None:
        self.n = n, n
        self.length_auc, self.length_p = 0.5, 1.0

    def halves(self, seed: int) -> Halves:
        everything = torch.arange(self.n[0])
        if self.n[0] < 2 * LEAST_HALF:
            return Halves(everything, everything, False)
        return Halves(*_halve(everything, seed), True)

    def sizes(self, rows: Int[Tensor, " n"]) -> tuple[int, int]:
        return len(rows), len(rows)

    def compare(self, scores: Float[Tensor, "n m"], rows: Int[Tensor, " n"]) -> Difference:
        return compare_pairs(scores)

    def permuted_p(
        self, scores: Float[Tensor, "n m"], rows: Int[Tensor, " n"], seed: int
    ) -> Float[Tensor, " m"]:
        return flipped_p(scores, seed=seed)

    def interval(self, auc: float, rows: Int[Tensor, " n"]) -> tuple[float, float]:
        return wilson(auc * len(rows), len(rows))

    def centred(self, values: Float[Tensor, " n"], rows: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        return values - values.mean()


def _halve(
    rows: Int[Tensor, " n"], seed: int
) -> tuple[Int[Tensor, " n_chosen"], Int[Tensor, " n_held_out"]]:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    half = len(rows) // 2
    return rows[order[:half]].sort().values, rows[order[half:]].sort().values
