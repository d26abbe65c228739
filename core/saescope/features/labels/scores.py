"""How well a label predicts where a feature fires: balanced accuracy with an interval, from the
answers to a blind quiz."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

from saescope.records.labels import LabelScore
from saescope.verdicts import LabelVerdict

Z = 1.959964
"""Half-width of a 95 % interval in standard errors."""


class AnswerCounts(NamedTuple):
    """Right answers among the items where the feature fires, and among those where it does not."""

    right_firing: int
    n_firing: int
    right_silent: int
    n_silent: int

    def plus(self, other: "AnswerCounts") -> "AnswerCounts":
        return AnswerCounts(*(a + b for a, b in zip(self, other, strict=True)))


def count(truth: Sequence[bool], answers: Sequence[bool]) -> AnswerCounts:
    """The four counts of answers against the truth, item by item."""
    pairs = list(zip(truth, answers, strict=True))
    return AnswerCounts(
        sum(answer for fires, answer in pairs if fires),
        sum(truth),
        sum(not answer for fires, answer in pairs if not fires),
        len(pairs) - sum(truth),
    )


def balanced_accuracy(counts: AnswerCounts) -> float | None:
    """Mean of the shares of right answers in the two classes; None where one is empty."""
    if not counts.n_firing or not counts.n_silent:
        return None
    return (counts.right_firing / counts.n_firing + counts.right_silent / counts.n_silent) / 2


def interval(counts: AnswerCounts, *, n_tries: int = 1) -> tuple[float, float]:
    """95 % interval of balanced accuracy: Wilson's for each class, combined by squares (Newcombe
    1998, method 10, for a mean).

    Of 6 + 6 items its coverage is 0.952 on average over all pairs of true rates, 0.87 at the worst
    of them.
    """
    z = Z if n_tries == 1 else NormalDist().inv_cdf(1 - 0.025 / n_tries)
    parts = [
        (k / n, *wilson(k, n, z=z))
        for k, n in ((counts.right_firing, counts.n_firing), (counts.right_silent, counts.n_silent))
    ]
    centre = sum(p for p, _, _ in parts) / 2
    below = sqrt(sum((p - low) ** 2 for p, low, _ in parts)) / 2
    above = sqrt(sum((high - p) ** 2 for p, _, high in parts)) / 2
    return max(0.0, centre - below), min(1.0, centre + above)


def wilson(k: int | float, n: int | float, *, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of a share, k of n; of 95 % unless `z` says otherwise."""
    p, scale = k / n, 1 + z * z / n
    centre, half = (
        (p + z * z / (2 * n)) / scale,
        z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale,
    )
    return max(0.0, centre - half), min(1.0, centre + half)


def score(detection: AnswerCounts, fuzzing: AnswerCounts, *, n_tries: int = 1) -> LabelScore:
    """The score of a label; there must be items of both classes.

    With several quizzes answered about the feature (for this label or others) its interval is
    widened so that all of them together hold the truth in 95 % (Bonferroni).
    """
    counts = detection.plus(fuzzing)
    value = balanced_accuracy(counts)
    assert value is not None, "a quiz has items of both classes"
    low, high = interval(counts, n_tries=n_tries)
    n = counts.n_firing + counts.n_silent
    return LabelScore(
        value,
        low,
        high,
        n,
        balanced_accuracy(detection),
        balanced_accuracy(fuzzing),
        verdict(value, low, high),
        n_tries,
    )


def verdict(value: float, low: float, high: float) -> LabelVerdict:
    """Say what a score and its interval mean."""
    if high < 0.5:
        return LabelVerdict.WRONG
    if low <= 0.5:
        return LabelVerdict.CHANCE if value <= 0.6 else LabelVerdict.UNDECIDED
    return LabelVerdict.GOOD if low >= 0.7 else LabelVerdict.BETTER
