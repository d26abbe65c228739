"""What a run's row has for those who draw it: curves, and how often features fire."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saescope.training.firings import FiringCounts
    from saescope.training.trainer import Point

FIELDS = ("step", "loss", "l0", "explained_variance", "dead_share", "lr")
MOST_POINTS = 200
"""A curve has no more; those of a set share `MOST_OF_ALL`: the row is written every second."""
MOST_OF_ALL = 800
LEAST_POINTS = 8
MOST_HISTOGRAMS = 40
Points = Sequence["Point"]


def evenly(points: Points, n: int) -> Points:
    """At most `n` of the points, evenly, the first and the last one included."""
    if len(points) <= n:
        return points
    return [points[round(i * (len(points) - 1) / (n - 1))] for i in range(n)]


def curves(runs: Mapping[str, Points]) -> dict[str, Any]:
    """Rows of `FIELDS` by the name of the SAE; "" is a run's only SAE, or what a set has in the
    median."""
    n = max(LEAST_POINTS, min(MOST_POINTS, MOST_OF_ALL // max(1, len(runs))))
    series = {
        name: [[_short(point.get(field)) for field in FIELDS] for point in evenly([*points], n)]
        for name, points in runs.items()
    }
    return {"fields": FIELDS, "series": {name: rows for name, rows in series.items() if rows}}


def medians(runs: Mapping[str, Points]) -> list[dict[str, Any]]:
    """The median of each number over the SAEs of a set, at each step of which any has a point."""
    at: dict[float, list[Point]] = {}
    for points in runs.values():
        for point in [*points]:
            at.setdefault(point["step"], []).append(point)
    return [
        {"step": step} | {field: median(each[field] for each in at[step]) for field in FIELDS[1:]}
        for step in sorted(at)
    ]


def densities(runs: "Mapping[str, FiringCounts | None]") -> dict[str, Any]:
    """How many features fired at how large a share of tokens, by the name of the SAE."""
    from saescope.evals.report import density_histogram

    made: dict[str, Any] = {}
    for name, firings in [*runs.items()][:MOST_HISTOGRAMS]:
        if firings is not None and firings.n_tokens:
            share = firings.counts.cpu().float() / firings.n_tokens
            made[name] = {
                "n_tokens": firings.n_tokens,
                "n_never": int((firings.counts == 0).sum()),
                "bins": [asdict(each) for each in density_histogram(share)],
            }
    return made


def _short(value: float | int | None) -> float | int | None:
    return float(f"{value:.5g}") if isinstance(value, float) else value
