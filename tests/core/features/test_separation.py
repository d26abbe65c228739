"""Effect sizes, ranks and p values against loops, full enumeration and published examples."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import Tensor, tensor

from saescope.features.contrast.designs import Design, Groups, PairedTexts
from saescope.features.contrast.separation import (
    auc_interval,
    cohens_d,
    compare,
    compare_pairs,
    fisher,
)
from saescope.metrics import average_ranks, spearman


def sparse_scores(n: int, m: int, *, seed: int = 0, share: float = 0.4) -> Tensor:
    """Like activations: many zeros, some ties."""
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(n, m, generator=rng) * 8).round() * (torch.rand(n, m, generator=rng) < share)


def test_ranks_share_their_ties() -> None:
    ranks, ties = average_ranks(tensor([[3.0, 0.0], [1.0, 0.0], [3.0, 0.0], [7.0, 2.0]]))
    assert ranks.T.tolist() == [[2.5, 1, 2.5, 4], [2, 2, 2, 4]] and ties.tolist() == [6, 24]


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    scores, first = sparse_scores(11, 6), torch.arange(11) < 4
    for column, auc in zip(scores.T, compare(scores, first).auc, strict=True):
        pairs = [
            float(a > b) + float(a == b) / 2 for a, b in product(column[first], column[~first])
        ]
        assert float(auc) == pytest.approx(np.mean(pairs))


def test_cohens_d_is_numpys() -> None:
    a, b = (
        torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double(),
        torch.randn(5, 3).double() + 1,
    )
    pooled = np.sqrt((6 * a.numpy().var(0, ddof=1) + 4 * b.numpy().var(0, ddof=1)) / 10)
    assert np.allclose(cohens_d(a, b), (a.numpy().mean(0) - b.numpy().mean(0)) / pooled)
    assert cohens_d(torch.ones(3, 2), tensor([[1.0, 0.0]] * 3)).tolist() == [0, 100]


def test_mann_whitney_gives_the_published_p() -> None:
    # Ages of men and women at diagnosis: scipy.stats.mannwhitneyu(..., method="asymptotic")
    # documents 0.11134688653314041.
    scores = tensor([19, 22, 16, 29, 24, 20, 11, 17, 12]).double()[:, None]
    assert float(compare(scores, torch.arange(9) < 5).p) == pytest.approx(0.11134688653314041)


def test_fishers_p_is_the_published_one() -> None:
    assert fisher(8, 10, 9, 7) == pytest.approx(
        0.03496503496503495
    )  # scipy.stats.fisher_exact([[8, 2], [1, 5]])


def test_a_feature_that_fires_in_two_texts_of_the_smaller_set_is_no_discovery() -> None:
    scores, first = torch.zeros(45, 1), torch.arange(45) < 5
    scores[:2] = 1
    assert float(compare(scores, first).p) == pytest.approx(10 / 990)


def each_p(design: Design, scores: Tensor) -> Tensor:
    """p of each feature alone: a family of one."""
    return torch.cat([design.family_p(column[:, None], 0) for column in scores.T])


def test_p_values_of_regroupings_are_those_of_all_regroupings() -> None:
    scores, n1 = sparse_scores(9, 5, share=0.7).double(), 4
    ranks = average_ranks(scores)[0] - 5
    first = torch.arange(9) < n1
    observed = ranks[first].sum(0).abs()
    every = torch.stack([ranks[list(rows)].sum(0).abs() for rows in combinations(range(9), n1)])
    exact = (every >= observed - 1e-9).double().mean(0)
    assert torch.allclose(each_p(Groups(first, torch.ones(9)), scores), exact, atol=0.02)
    assert torch.allclose(compare(scores, first).p, exact, atol=0.1)


def test_p_values_of_flips_are_those_of_all_flips() -> None:
    changes = sparse_scores(10, 4, share=0.8).double() - 3 * (torch.arange(4) > 1)
    signed = average_ranks(changes.abs())[0] * changes.sign()
    every = torch.stack(
        [
            (tensor(signs)[:, None] * signed).sum(0).abs()
            for signs in product([-1.0, 1.0], repeat=10)
        ]
    )
    exact = (every >= signed.sum(0).abs() - 1e-9).double().mean(0)
    assert torch.allclose(each_p(PairedTexts(10), changes), exact, atol=0.02)


def test_wilcoxons_p_is_close_to_the_published_exact_one() -> None:
    # Heights of cross- and self-fertilised plants (Darwin 1876): scipy.stats.wilcoxon documents
    # 0.041259765625, exact.
    changes = tensor([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]).double()[:, None]
    found = compare_pairs(changes)
    assert float(found.p) == pytest.approx(0.041259765625, abs=0.004) and float(
        found.auc
    ) == pytest.approx(13 / 15)
    padded = torch.cat([changes, torch.zeros(5, 1)])
    assert float(compare_pairs(padded).p) == pytest.approx(float(found.p))


@pytest.mark.parametrize(
    "shift, n1, n2", [(0.0, 15, 15), (1.2, 15, 15), (1.2, 8, 30), (2.0, 10, 10)]
)
def test_the_interval_of_the_area_covers_the_true_area(shift: float, n1: int, n2: int) -> None:
    true = 0.5 * (1 + float(torch.erf(tensor(shift / 2))))
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(n1 + n2, 400, generator=rng)
    scores[:n1] += shift
    intervals = [
        auc_interval(auc, n1, n2)
        for auc in compare(scores, torch.arange(n1 + n2) < n1).auc.tolist()
    ]
    assert 0.925 <= np.mean([low <= true <= high for low, high in intervals]) <= 0.995


def test_the_interval_of_a_perfect_separation_is_not_a_point() -> None:
    low, high = auc_interval(1.0, 6, 6)
    assert 0.5 < low < 0.85 and high == 1.0


@pytest.mark.parametrize("n1, n2, share", [(20, 20, 0.1), (10, 40, 0.1), (6, 30, 0.5), (8, 8, 0.3)])
def test_without_a_difference_small_p_values_are_as_rare_as_they_should_be(
    n1: int, n2: int, share: float
) -> None:
    scores, first = sparse_scores(n1 + n2, 20000, share=share), torch.arange(n1 + n2) < n1
    p = compare(scores, first).p
    for level in (0.05, 0.01, 0.001):
        assert float((p <= level).double().mean()) <= level * 1.25 + 3 * (level / 20000) ** 0.5


def test_spearman_is_the_correlation_of_ranks() -> None:
    assert spearman(
        tensor([1.0, 2.0, 3.0, 4.0]), tensor([1.0, 10.0, 100.0, 1000.0])
    ) == pytest.approx(1)
    assert spearman(tensor([1.0, 1.0, 1.0]), tensor([1.0, 2.0, 3.0])) is None
