"""What a run's row has for those who draw it."""

import torch

from saescope.training.firings import FiringCounts
from saescope_mcp.worker.curves import FIELDS, MOST_OF_ALL, curves, densities, evenly, medians


def points(n: int, scale: float = 1.0) -> list[dict[str, float | int]]:
    return [{"step": at + 1} | dict.fromkeys(FIELDS[1:], scale * (at + 1)) for at in range(n)]


def test_points_are_thinned_evenly_from_the_first_to_the_last() -> None:
    assert [point["step"] for point in evenly(points(9), 3)] == [1, 5, 9]
    assert evenly(points(3), 3) == points(3)


def test_the_curve_of_a_set_is_the_median_at_each_step() -> None:
    made = medians({"a": points(3), "b": points(3, 10.0), "c": points(2, 4.0)})
    assert [(each["step"], each["loss"]) for each in made] == [(1, 4.0), (2, 8.0), (3, 16.5)]


def test_curves_of_many_saes_stay_small() -> None:
    made = curves({f"layer_{at}": points(400) for at in range(40)})["series"]
    assert sum(len(rows) for rows in made.values()) <= MOST_OF_ALL
    assert all(rows[0][0] == 1 and rows[-1][0] == 400 for rows in made.values())
    assert curves({"": []})["series"] == {}


def test_densities_count_each_feature_once() -> None:
    counts = torch.tensor([0, 0, 1, 10, 500, 1000])
    made = densities({"": FiringCounts(counts, 1000), "none": None})
    assert [*made] == [""] and made[""]["n_never"] == 2 and made[""]["n_tokens"] == 1000
    for each in made[""]["bins"]:
        share = counts[counts > 0] / 1000
        inside = (share >= each["low"] * 0.999) & (share < each["high"] * 0.999)
        at_the_end = (share == 1).sum() if each["high"] == 1 else 0
        assert each["n_features"] == int(inside.sum() + at_the_end)
