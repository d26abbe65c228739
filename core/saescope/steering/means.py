"""What several prompts say together: an interval of their mean, and a test of their signs."""

from collections.abc import Sequence
from math import comb, sqrt
from statistics import mean, stdev

from saescope.records.steering import SignTest

T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16)
"""Student's t at 97.5 % by degrees of freedom, from 1; with more, the last is a little wide."""


def t_interval(values: Sequence[float], *, least: int = 2) -> tuple[float, float] | None:
    """A 95 % interval of the mean; None with fewer than `least` values (two at least)."""
    if len(values) < least:
        return None
    half = T_975[min(len(values) - 1, len(T_975)) - 1] * stdev(values) / sqrt(len(values))
    return mean(values) - half, mean(values) + half


def sign_test(values: Sequence[float]) -> SignTest:
    """Whether more values rise than fall: the exact two-sided binomial test, zeros left out."""
    n_up, n_down = sum(value > 0 for value in values), sum(value < 0 for value in values)
    n = n_up + n_down
    tail = sum(comb(n, k) for k in range(min(n_up, n_down) + 1)) / 2**n
    p = min(1.0, 2 * tail) if n else None
    return SignTest(n_up=n_up, n_down=n_down, n_ties=len(values) - n, p=p)
