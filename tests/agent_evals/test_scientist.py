"""The benchmark of agents that look for features: its formulas against the published numbers, its
planted worlds against what they promise."""

from typing import NamedTuple

import pytest
from agent_evals.scientist import scores
from agent_evals.scientist.scores import Seen, Steered, Tried

# The numbers of the public repository's own tests, data and results.


def test_the_published_example_scores_as_published() -> None:
    assert scores.rank_score(10, 10) == 100
    assert scores.rank_score(5, 10) == pytest.approx(400 / 3)
    assert scores.activation_score(0.9) == pytest.approx(80)
    assert scores.steering_score(scores.target_effect(3, 1, 0.5)) == 50
    assert scores.overall(100, 80, 50) == pytest.approx(230 / 3)


def test_the_stronger_control_counts_and_what_is_worse_scores_nothing() -> None:
    assert scores.steering_score(scores.target_effect(3, 1, 2)) == 25
    assert scores.target_effect(0, 1, 0.5) == -0.25
    assert scores.steering_score(-0.25) == 0 == scores.activation_score(0.2)


@pytest.mark.parametrize("rank", [0, -1, float("nan")])
def test_a_rank_that_is_none_is_refused(rank: float) -> None:
    with pytest.raises(ValueError, match="ranks begin at 1"):
        scores.rank_score(rank, 10)


@pytest.mark.parametrize("area", [-0.1, 1.1, float("nan")])
def test_an_area_that_is_none_is_refused(area: float) -> None:
    with pytest.raises(ValueError, match="an area"):
        scores.activation_score(area)


@pytest.mark.parametrize("rating", [-1, 5, float("nan")])
def test_a_rating_that_is_none_is_refused(rating: float) -> None:
    with pytest.raises(ValueError, match="a rating"):
        scores.target_effect(rating, 1, 1)


def test_a_silent_feature_has_the_worst_rank_and_equals_share_the_better_one() -> None:
    row = [0.0, 4.0, 2.0, 2.0, 0.0, 1.0, 0.0, 0.0]
    assert [scores.dictionary_rank(row[i], row) for i in (0, 1, 2, 3, 5)] == [8, 1, 2, 2, 4]


def test_an_area_counts_ties_half() -> None:
    assert scores.area_under([4, 2], [0, 0]) == 1
    assert scores.area_under([1, 0], [0, 1]) == 0.5
    with pytest.raises(ValueError, match="both sides"):
        scores.area_under([], [1.0])


class Published(NamedTuple):
    """A published row: area, share of positives it fires on, ratio on hard negatives; ratings and
    shares; and what it passed."""

    name: str
    seen: tuple[float, float, float]
    steered: tuple[float, float, float, float]
    effect: float
    passed: tuple[bool, bool]


PUBLISHED = [
    Published("cat", (0.9958, 1, 0.1413), (2.375, 0.7, 0.6, 0.975), 0.59375, (True, True)),
    Published("cat again", (0.9958, 1, 0.1413), (1.75, 0.65, 0.475, 0.9), 0.4375, (False, False)),
    Published("earnings", (1, 1, 0.1), (3.075, 0.975, 0.275, 0.725), 0.76875, (True, False)),
    Published("82885", (1, 1, 0), (2.4, 0.85, 0.175, 0.425), 0.6, (False, False)),
    Published("59750", (0.921875, 1, 0), (2.225, 0.725, 0.325, 0.6), 0.55625, (False, False)),
    Published("48097", (1, 1, 0), (1.8, 0.6, 0.05, 0.05), 0.45, (False, False)),
]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.name)
def test_the_gates_pass_what_was_published_as_passed(row: Published) -> None:
    area, active, hard_ratio = row.seen
    rating, success, usable, whole = row.steered
    seen = Seen(rank=1, area=area, active=active, hard_ratio=hard_ratio)
    steered = Steered(
        20, feature=rating, baseline=0, random=0, success=success, usable=usable, whole=whole
    )
    assert steered.effect == pytest.approx(row.effect)
    assert (scores.is_causal(seen, steered), scores.is_usable(seen, steered)) == row.passed


def test_each_condition_of_the_gates_counts() -> None:
    seen = Seen(rank=3, area=0.99, active=1.0, hard_ratio=0.297)
    good = Steered(
        20, feature=3.2, baseline=0.4, random=0.8, success=0.75, usable=0.7, whole=0.95,
        agreement=0.85,
    )  # fmt: skip
    assert scores.is_usable(seen, good)
    for change in ({"area": 0.949}, {"active": 0.79}, {"hard_ratio": 0.301}):
        assert not scores.is_causal(seen._replace(**change), good)
    for change in (
        {"n_prompts": 19},
        {"feature": 1.0},
        {"success": 0.69},
        {"whole": 0.49},
        {"agreement": 0.79},
    ):
        assert not scores.is_causal(seen, good._replace(**change))
    for change in ({"usable": 0.45}, {"whole": 0.89}):
        changed = good._replace(**change)
        assert scores.is_causal(seen, changed) and not scores.is_usable(seen, changed)


def test_a_strength_is_picked_by_success_then_rating_then_the_smaller() -> None:
    broken = Tried(1.5, whole=0.8, success=1.0, rating=4.0)
    tried = [Tried(0.5, 1, 0.4, 1.0), Tried(1.0, 0.9, 0.8, 2.0), Tried(1.25, 1, 0.8, 2.0), broken]
    assert scores.pick(tried) == tried[1]
    assert scores.pick([*tried, Tried(0.75, 1, 0.8, 2.5)]) == Tried(0.75, 1, 0.8, 2.5)
    assert scores.pick([broken]) is None


# The stand-in for the judge.


def test_a_nat_is_a_point_and_four_are_all() -> None:
    assert [scores.nats_rating(rise) for rise in (-1, 0, 2.5, 9)] == [0, 0, 2.5, 4]
    assert [scores.kept_rating(kl) for kl in (0, 1.5, 9)] == [4, 2.5, 0]


def test_a_text_that_goes_in_circles_is_degenerate() -> None:
    assert scores.is_degenerate([1, 2, 3] * 8)
    assert scores.is_degenerate([5, 5, 5, 5, 5, 5, 1, 2, 3, 4])
    assert scores.is_degenerate([1, 2, 3])
    assert not scores.is_degenerate([1, 2, 3, 4, 1, 2, 5, 6])


def test_a_share_has_the_interval_of_wilson() -> None:
    found = scores.share([True] * 8 + [False] * 2)
    assert (found.n, found.of) == (8, 10)
    assert (found.low, found.high) == (
        pytest.approx(0.490, abs=1e-3),
        pytest.approx(0.943, abs=1e-3),
    )
    assert str(scores.share([])) == "-"
