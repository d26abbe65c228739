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
        return _ranked(0, controls)
    middle = median([effect, *controls])
    distance = abs(effect - middle)
    return _ranked(sum(_no_less(abs(each - middle), distance) for each in controls), controls)


def more_than(effect: float, controls: Sequence[float]) -> Comparison:
    """The effect's rank among its controls from above, one-sided: for what can only be more than
    these, such as a share that is closed. Those that go far the other way say nothing against
    it."""
    return _ranked(sum(_no_less(each, effect) for each in controls), controls)


def _no_less(control: float, effect: float) -> bool:
    return control > effect or isclose(control, effect, rel_tol=1e-9)


def _ranked(n_beyond: int, controls: Sequence[float]) -> Comparison:
    if not controls:
        return Comparison(None, None, 0, None, False)
    p = (1 + n_beyond) / (1 + len(controls))
    spread = stdev(controls) if len(controls) > 1 else None
    return Comparison(mean(controls), spread, len(controls), p, p <= LEVEL)


def at_least(n: int, of: int) -> float:
    """How likely it is that so many or more of tests at LEVEL pass where there is nothing: the
    upper tail of the binomial distribution."""
    fewer = sum(comb(of, k) * LEVEL**k * (1 - LEVEL) ** (of - k) for k in range(n))
    return round(1 - fewer, 12)
