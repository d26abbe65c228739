import math

import pytest
import torch
from tests.core.training.helpers import config

from saescope.training.pace import Pace


def pace(architecture: str = "standard", *, n_steps: int = 400) -> Pace:
    objective = config(architecture).objective
    return Pace(objective, target=20.0, n_steps=n_steps, device=torch.device("cpu"))


def update(steered: Pace, l0: float) -> None:
    steered.update(torch.tensor(l0), 1)


@pytest.mark.parametrize("n_steps", [50, 400, 5000])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_the_l0_comes_to_its_target_whatever_the_scale_of_the_coefficient(
    n_steps: int, scale: float
) -> None:
    """A plant like training: log L0 drifts towards one that falls with the coefficient."""
    steered, log_l0 = pace(n_steps=n_steps), math.log(60.0)
    for _ in range(n_steps):
        wanted = math.log(30.0) - 0.7 * math.log(float(steered.coefficient) / scale)
        log_l0 += max(-0.3, min(0.3, 0.2 * (wanted - log_l0)))
        update(steered, math.exp(log_l0))
    assert math.exp(log_l0) == pytest.approx(20.0, rel=0.05)


def test_more_features_than_wanted_raise_the_coefficient_and_fewer_lower_it() -> None:
    many, few = pace(), pace()
    before = many.coefficient
    for steered, l0 in ((many, 90.0), (few, 2.0)):
        for _ in range(200):
            update(steered, l0)
    assert many.coefficient > 10 * before
    assert few.coefficient < before / 10


def test_a_batch_without_any_feature_is_no_error() -> None:
    steered = pace()
    update(steered, 0.0)
    assert 0 < steered.coefficient < math.inf


def test_its_state_is_all_that_it_knows() -> None:
    steered, again = pace("jumprelu"), pace("jumprelu")
    for l0 in (70.0, 55.0, 31.0):
        update(steered, l0)
    again.load_state(steered.state())
    update(steered, 30.0)
    update(again, 30.0)
    assert again.coefficient == steered.coefficient
