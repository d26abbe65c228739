"""The rule for when an effect beats its controls: exact where nothing differs, and able to find
what does."""

import random

import pytest

from saescope.controls import ENOUGH, LEVEL, compare_with, more_than


@pytest.mark.parametrize(
    "draw",
    [
        random.paretovariate,
        *(pytest.param(draw, marks=pytest.mark.slow) for draw in (random.gauss, random.uniform)),
    ],
)
def test_an_effect_like_its_controls_is_outside_at_the_stated_rate(draw: object) -> None:
    rng = random.Random(0)
    made = {
        random.gauss: lambda: rng.gauss(3, 1),
        random.paretovariate: lambda: rng.paretovariate(1.1),  # heavy tail, one-sided
        random.uniform: lambda: rng.uniform(-1, 1),
    }[draw]  # pyright: ignore[reportArgumentType]
    n = 4000
    outside = sum(compare_with(made(), [made() for _ in range(ENOUGH)]).outside for _ in range(n))
    assert outside / n == pytest.approx(LEVEL, abs=4 * (LEVEL * (1 - LEVEL) / n) ** 0.5)


def test_p_is_the_rank_by_distance_from_the_common_median() -> None:
    controls = [0.1, -0.2, 0.3, 0.0]
    far = compare_with(-5, controls)
    assert (far.p, far.n, far.outside) == (1 / 5, 4, False), "four controls cannot tell"
    assert far.mean == pytest.approx(0.05) and far.sd == pytest.approx(0.2081666)
    near = compare_with(0.1, controls)
    assert near.p == 1.0


def test_with_enough_controls_an_effect_beyond_them_is_outside_on_either_side() -> None:
    controls = [i / 10 for i in range(-9, 10)]
    assert compare_with(1.5, controls).outside and compare_with(-1.5, controls).outside
    assert not compare_with(0.85, controls).outside
    assert not compare_with(1.5, controls[:-1]).outside


def test_controls_that_all_agree_leave_an_equal_effect_inside() -> None:
    same = compare_with(0.25, [0.25] * 19)
    assert same.p == 1.0 and not same.outside and same.sd == 0
    assert compare_with(0.0, []).p is None and not compare_with(9.0, []).outside


def test_what_goes_far_the_other_way_says_nothing_against_more() -> None:
    controls = [i / 10 for i in range(-9, 9)] + [-40.0]
    assert more_than(1.5, controls).outside and not compare_with(1.5, controls).outside
    assert more_than(-50.0, controls).p == 1.0 and compare_with(-50.0, controls).outside
    assert more_than(0.8, controls).p == 2 / 20, "one is as large"
