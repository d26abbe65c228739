"""Whether numbers are finite, however they are stored."""

import math

import pytest
import torch

from saescope.finite import all_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(
    dtype: torch.dtype, bad: float
) -> None:
    for place in (0, 11, 34):
        x = torch.linspace(-3, 3, 35, dtype=dtype)
        assert bool(all_finite(x.reshape(5, 7)))
        x[place] = bad
        assert not bool(all_finite(x.reshape(5, 7)))
        assert not bool(all_finite(x.reshape(7, 5).T[:, 1:] if place else x))


def test_the_ends_of_a_type_are_finite_and_so_is_nothing() -> None:
    ends = torch.finfo(torch.float32)
    assert bool(all_finite(torch.tensor([ends.min, ends.max])))
    assert bool(all_finite(torch.empty(0, 3)))
    assert bool(all_finite(torch.tensor(1.0)))
