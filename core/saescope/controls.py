"""When an effect is more than what random features do: one rule for attribution, edits and
steering."""

from collections.abc import Sequence
from math import comb, isclose
from statistics import mean, median, stdev

from saescope.records.controls import Comparison

LEVEL = 0.05
ENOUGH = 19
"""Controls with which an effect beyond all of them has p = 1/20."""


def compare_with(effect: float, controls: Sequence[float]) -> Comparison:
    """The effect's rank among its controls, by distance from the median of all of them.

    If the effect is exchangeable with its controls, p is at most alpha in a share alpha of cases,
    whatever their distribution: a Monte Carlo test (Barnard 1963), two-sided.
    """
    if not controls:
        return Comparison(None, None, 0, None, False)
    middle = median([effect, *controls])
    distance = abs(effect - middle)
    beyond = sum(
        abs(control - middle) > distance or isclose(abs(control - middle), distance, rel_tol=1e-9)
        for control in controls
    )
    p = (1 + beyond) / (1 + len(controls))
    spread = stdev(controls) if len(controls) > 1 else None
    return Comparison(mean(controls), spread, len(controls), p, p <= LEVEL)


def at_least(n: int, of: int) -> float:
    """How likely it is that so many or more of tests at LEVEL pass where there is nothing: the
    upper tail of the binomial distribution."""
    fewer = sum(comb(of, k) * LEVEL**k * (1 - LEVEL) ** (of - k) for k in range(n))
    return round(1 - fewer, 12)
