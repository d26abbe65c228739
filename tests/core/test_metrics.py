"""Pure numbers against NumPy."""

import numpy as np
import pytest
import torch
from tests.core.oracle import kl

from saescope.metrics import RunningFit, kl_divergence, pearson, score_between

RNG = np.random.default_rng(0)
TARGET, OUT = RNG.normal(size=(16, 5)) + 3, RNG.normal(size=(16, 5)) + 3


def fit_of(target: torch.Tensor, out: torch.Tensor) -> RunningFit:
    fit = RunningFit()
    fit.add(target, out)
    return fit


def explained_variance(target: torch.Tensor, out: torch.Tensor) -> float | None:
    return fit_of(target, out).explained_variance


def mean_cosine(target: torch.Tensor, out: torch.Tensor) -> float | None:
    return fit_of(target, out).mean_cosine


def test_explained_variance_is_about_the_mean_over_positions() -> None:
    expected = 1 - ((TARGET - OUT) ** 2).sum() / ((TARGET - TARGET.mean(axis=0)) ** 2).sum()
    assert explained_variance(torch.tensor(TARGET), torch.tensor(OUT)) == pytest.approx(
        expected, rel=1e-12
    )
    assert explained_variance(torch.tensor(TARGET), torch.tensor(TARGET)) == 1
    mean = torch.tensor(TARGET).mean(0, keepdim=True).expand(16, 5)
    assert explained_variance(torch.tensor(TARGET), mean) == pytest.approx(0, abs=1e-12)


def test_explained_variance_of_nothing_to_explain_is_none() -> None:
    assert explained_variance(torch.ones(1, 3), torch.zeros(1, 3)) is None
    assert explained_variance(torch.ones(20, 3), torch.zeros(20, 3)) is None
    assert explained_variance(torch.ones(0, 3), torch.zeros(0, 3)) is None


def test_few_positions_have_no_explained_variance() -> None:
    fifteen = torch.tensor(TARGET[:15]), torch.tensor(OUT[:15])
    assert explained_variance(*fifteen) is None and mean_cosine(*fifteen) is not None


def test_cosine_is_averaged_over_positions() -> None:
    expected = np.mean(
        [a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(TARGET, OUT, strict=True)]
    )
    assert mean_cosine(torch.tensor(TARGET), torch.tensor(OUT)) == pytest.approx(
        expected, rel=1e-12
    )
    assert mean_cosine(torch.zeros(0, 3), torch.zeros(0, 3)) is None


def test_kl_divergence_is_of_the_first_from_the_second() -> None:
    ours = kl_divergence(torch.tensor(TARGET), torch.tensor(2 * OUT))
    np.testing.assert_allclose(ours.numpy(), kl(TARGET, 2 * OUT), rtol=1e-10)
    assert not np.allclose(ours.numpy(), kl(2 * OUT, TARGET))
    assert (kl_divergence(torch.tensor(TARGET), torch.tensor(TARGET)) == 0).all()


def test_pearson_is_numpys() -> None:
    a, b = TARGET[:, 0].tolist(), OUT[:, 0].tolist()
    assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-12)


@pytest.mark.parametrize(
    ("a", "b"), [([], []), ([1.0, 2.0], [2.0, 3.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])]
)
def test_pearson_of_too_little_is_none(a: list[float], b: list[float]) -> None:
    assert pearson(a, b) is None


@pytest.mark.parametrize(
    ("value", "expected"), [(2.0, 1.0), (10.0, 0.0), (4.0, 0.75), (12.0, -0.25)]
)
def test_a_score_is_1_at_the_best_and_0_at_the_worst(value: float, expected: float) -> None:
    assert score_between(10.0, 2.0, value) == expected
    assert score_between(2.0, 2.0, value) is None
