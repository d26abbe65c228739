"""How well numbers tell two groups of texts apart: effect size, area under the curve, p values."""

from collections.abc import Callable
from math import comb, sqrt
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.features.labels.scores import Z
from saescope.metrics import average_ranks

COLUMNS = 1024
"""Features whose ranks are computed at a time."""
MOST_D = 100.0
RARE = 5
"""Expected firing texts in the smaller group below which ranks say no more than yes or no, and that
must be counted exactly."""


Moments = tuple[int, Tensor, Tensor]
"""Count, sum and sum of squares."""


class Difference(NamedTuple):
    """How far each feature's scores in the first group lie from those in the second."""

    d: Float[Tensor, " n_features"]
    """Cohen's d: difference of means over the pooled standard deviation."""
    auc: Float[Tensor, " n_features"]
    """Chance that a text of the first group scores higher than one of the second, ties half."""
    p: Float[Tensor, " n_features"]
    """The two-sided p value."""


def compare(
    scores: Float[Tensor, "n_texts n_features"], first: Bool[Tensor, " n_texts"]
) -> Difference:
    """Mann & Whitney's test (1947) of every feature, by the normal approximation with ties and
    continuity.

    Where so few texts have a score above the least one that the approximation fails: Fisher's exact
    test of having one.
    """
    parts = [_compare(part.double(), first) for part in scores.split(COLUMNS, dim=1)]
    return Difference(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _compare(
    scores: Float[Tensor, "n_texts n_features"], first: Bool[Tensor, " n_texts"]
) -> Difference:
    n1, n2 = int(first.sum()), int((~first).sum())
    n = n1 + n2
    ranks, ties = average_ranks(scores)
    u = ranks[first].sum(0) - n1 * (n1 + 1) / 2
    variance = n1 * n2 / 12 * (n + 1 - ties / (n * (n - 1)))
    p = _two_sided(u - n1 * n2 / 2, variance).clamp(min=least_p(n1, n2))
    above = scores > scores.min(0).values
    m, k = above.sum(0), above[first].sum(0)
    rare = (m * min(n1, n2) < RARE * n) & (m < n / 2)
    exact = {
        pair: fisher(*pair, n1, n2)
        for pair in set(zip(k[rare].tolist(), m[rare].tolist(), strict=True))
    }
    p[rare] = torch.tensor(
        [exact[pair] for pair in zip(k[rare].tolist(), m[rare].tolist(), strict=True)],
        dtype=p.dtype,
    )
    return Difference(cohens_d(scores[first], scores[~first]), u / (n1 * n2), p)


def fisher(k: int, m: int, n1: int, n2: int) -> float:
    """Two-sided p of k of the m texts that fire being in the first group: all outcomes that are no
    likelier."""
    ways = [comb(n1, i) * comb(n2, m - i) for i in range(m + 1)]
    return sum(way for way in ways if way <= ways[k]) / comb(n1 + n2, m)


def compare_pairs(changes: Float[Tensor, "n_texts n_features"]) -> Difference:
    """Wilcoxon's signed-rank test of changes of the same texts; zeros are left out, `auc` is the
    share of rises, no change half."""
    changes = changes.double()
    n = len(changes)
    moved = changes != 0
    # Zeros take the lowest ranks; shifting them down by their number ranks the others from 1.
    ranks, ties = average_ranks(changes.abs())
    n_zero = (~moved).sum(0)
    ranks = torch.where(moved, ranks - n_zero, 0)
    rises = (ranks * (changes > 0)).sum(0)
    m = (n - n_zero).double()
    variance = m * (m + 1) * (2 * m + 1) / 24 - (ties - (n_zero**3 - n_zero)) / 48
    p = _two_sided(rises - m * (m + 1) / 4, variance).clamp(min=2.0 ** (1 - n))
    d = standardised(changes.mean(0), changes.std(0))
    auc = ((changes > 0).double() + 0.5 * (changes == 0)).mean(0)
    return Difference(d, auc, p)


def _two_sided(deviation: Tensor, variance: Tensor) -> Tensor:
    """p of a deviation, half a unit taken off for continuity; 1 where nothing can vary."""
    z = (deviation.abs() - 0.5).clamp(min=0) / variance.clamp(min=1e-12).sqrt()
    return torch.where(variance > 1e-9, torch.special.erfc(z / sqrt(2)), torch.ones_like(z))


def cohens_d(a: Float[Tensor, "n1 m"], b: Float[Tensor, "n2 m"]) -> Float[Tensor, " m"]:
    """(mean a - mean b) / pooled standard deviation, within +-100: groups without spread of their
    own would be infinitely far apart."""
    return d_of_moments(
        (len(a), a.sum(0), a.square().sum(0)), (len(b), b.sum(0), b.square().sum(0))
    )


def d_of_moments(first: Moments, second: Moments) -> Float[Tensor, " m"]:
    """Cohen's d from count, sum and sum of squares of each group."""
    parts = [
        (n, total / max(n, 1), (squares - total.square() / max(n, 1)).clamp(min=0))
        for n, total, squares in (first, second)
    ]
    (n1, mean1, within1), (n2, mean2, within2) = parts
    return standardised(mean1 - mean2, ((within1 + within2) / max(n1 + n2 - 2, 1)).sqrt())


def standardised(
    difference: Float[Tensor, " m"], spread: Float[Tensor, " m"]
) -> Float[Tensor, " m"]:
    """Divide a difference by its spread, and clip the result to +-100."""
    return torch.where(difference == 0, 0, difference / spread.clamp(min=1e-300)).clamp(
        -MOST_D, MOST_D
    )


def least_p(n1: int, n2: int) -> float:
    """The smallest two-sided p that so many texts can give: all of one group above all of the
    other."""
    return min(1.0, 2 / comb(n1 + n2, n1))


def auc_interval(auc: float, n1: int, n2: int) -> tuple[float, float]:
    """95 % interval of an area under the curve: Wilson's form of Hanley & McNeil 1982 (Newcombe
    2006, method 5), never of zero width.

    The variance at a candidate value A is A(1-A)(1 + m(1-A)/(2-A) + m A/(1+A)) / (n1 n2) with m =
    (n1 + n2) / 2 - 1; the interval is all A that the observed value does not refute.
    """
    m = (n1 + n2) / 2 - 1

    def refuted(a: float) -> bool:
        variance = a * (1 - a) * (1 + m * (1 - a) / (2 - a) + m * a / (1 + a)) / (n1 * n2)
        return abs(auc - a) > Z * sqrt(variance)

    return _edge(refuted, auc, 0.0), _edge(refuted, auc, 1.0)


def _edge(refuted: Callable[[float], bool], inside: float, end: float) -> float:
    outside = end
    for _ in range(50):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if refuted(middle) else (middle, outside)
    return inside
