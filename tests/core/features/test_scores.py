"""Balanced accuracy and its interval: by hand, and by adding up every possible outcome."""

import random
from itertools import product
from math import comb, sqrt

import pytest

from saescope.features.labels.scores import (
    AnswerCounts,
    balanced_accuracy,
    count,
    interval,
    score,
    wilson,
)

RATES = [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95]


def test_answers_are_counted_by_class() -> None:
    truth = [True, True, True, False, False, True]
    assert count(truth, [True, False, True, False, True, True]) == AnswerCounts(3, 4, 1, 2)
    assert balanced_accuracy(AnswerCounts(3, 4, 1, 2)) == (0.75 + 0.5) / 2
    assert balanced_accuracy(AnswerCounts(3, 4, 0, 0)) is None


def test_wilsons_interval_solves_its_own_equation() -> None:
    for k, n in ((0, 6), (1, 6), (3, 7), (6, 6)):
        for edge in wilson(k, n):
            if 0 < edge < 1:
                assert abs(abs(k / n - edge) - 1.959964 * sqrt(edge * (1 - edge) / n)) < 1e-9
    assert wilson(0, 6)[0] == 0 and wilson(6, 6)[1] == 1


def probability(k: int, n: int, p: float) -> float:
    return comb(n, k) * p**k * (1 - p) ** (n - k)


@pytest.mark.parametrize(
    "n_firing, n_silent, average, least",
    [(6, 6, 0.94, 0.86), (8, 4, 0.94, 0.85), (12, 12, 0.94, 0.90)],
)
def test_the_interval_covers_the_true_value_as_often_as_it_says(
    n_firing: int, n_silent: int, average: float, least: float
) -> None:
    coverage: list[float] = []
    for a, b in product(RATES, RATES):
        covered = 0.0
        for k, j in product(range(n_firing + 1), range(n_silent + 1)):
            low, high = interval(AnswerCounts(k, n_firing, j, n_silent))
            if low <= (a + b) / 2 <= high:
                covered += probability(k, n_firing, a) * probability(j, n_silent, b)
        coverage.append(covered)
    assert sum(coverage) / len(coverage) >= average and min(coverage) >= least


def test_the_interval_of_random_answers_covers_one_half() -> None:
    rng = random.Random(0)
    truth = [True, False] * 6
    scores = [
        score(count(truth, [rng.random() < 0.5 for _ in truth]), AnswerCounts(0, 0, 0, 0))
        for _ in range(1000)
    ]
    assert sum(each.low <= 0.5 <= each.high for each in scores) >= 930
    assert sum(each.verdict in ("good", "better than chance") for each in scores) <= 50


def test_a_constant_answer_is_worth_one_half() -> None:
    truth = [True] * 9 + [False] * 3
    assert score(count(truth, [True] * 12), AnswerCounts(0, 0, 0, 0)).balanced_accuracy == 0.5
    assert (
        score(count(truth, [False] * 12), AnswerCounts(0, 0, 0, 0)).verdict
        == "not better than chance"
    )


@pytest.mark.parametrize(
    "counts, says",
    [
        (AnswerCounts(6, 6, 6, 6), "good"),
        (AnswerCounts(5, 6, 5, 6), "better than chance"),
        (AnswerCounts(4, 6, 4, 6), "undecided: too few items to tell from chance"),
        (AnswerCounts(3, 6, 3, 6), "not better than chance"),
        (AnswerCounts(0, 6, 1, 6), "wrong: worse than chance"),
    ],
)
def test_the_verdict_is_that_of_the_interval(counts: AnswerCounts, says: str) -> None:
    assert score(counts, AnswerCounts(0, 0, 0, 0)).verdict == says


def test_several_tries_together_are_wrong_in_five_percent() -> None:
    """Guessing: the best of five labels, each with its own quiz of 12 and 12, looks good by
    luck."""
    rng = random.Random(0)
    alone, corrected, n_runs = 0, 0, 400
    for _ in range(n_runs):
        rights = [[sum(rng.random() < 0.5 for _ in range(12)) for _ in "ab"] for _ in range(5)]
        quizzes = [AnswerCounts(one, 12, other, 12) for one, other in rights]
        alone += any(interval(quiz)[0] > 0.5 for quiz in quizzes)
        corrected += any(interval(quiz, n_tries=5)[0] > 0.5 for quiz in quizzes)
    assert alone > 0.07 * n_runs and corrected <= 0.05 * n_runs


def test_a_try_among_five_has_an_interval_of_99_percent() -> None:
    edge, z = wilson(7, 12, z=2.5758293)[0], 2.5758293
    assert 7 / 12 - edge == pytest.approx(z * sqrt(edge * (1 - edge) / 12), rel=1e-6)
    below = sqrt(2 * (7 / 12 - edge) ** 2) / 2  # both classes alike
    assert interval(AnswerCounts(7, 12, 7, 12), n_tries=5)[0] == pytest.approx(7 / 12 - below)
