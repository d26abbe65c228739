"""Whether an effect is beyond its controls, and how unlikely that is."""

from collections.abc import Mapping
from math import atan, cos, exp, lgamma, pi, sqrt
from typing import Any

from saescope.controls import ENOUGH

BY_T = "by Student's t"
BY_RANK = "by rank"


def beside(control: Mapping[str, Any] | None, size: float) -> dict[str, Any]:
    """Level, p and whether an effect goes further than its controls; fewer than enough count as
    none."""
    n = (control or {}).get("n") or 0
    if control is None or n < ENOUGH:
        return {"level": "intervened", "n_controls": n}
    mean, p = control["mean"], student(size, control["mean"], control.get("sd"), n)
    # An effect that is outside because controls do more than it is none.
    beyond = bool(control["outside"]) and size * (size - mean) > 0
    told = {"p": control.get("p"), "p_by": BY_RANK} if p is None else {"p": p, "p_by": BY_T}
    return {"level": "controlled", "n_controls": n, "beyond": beyond} | told


def student(size: float, mean: float, sd: float | None, n: int) -> float | None:
    """Two-sided p of one more draw as far off as this, if the controls are normal: ranks cannot
    fall below 1/(n + 1), whatever is left to correct."""
    if not sd or n < 3:
        return None
    t, df = abs(size - mean) / (sd * sqrt(1 + 1 / n)), n - 1
    start, steps = atan(t / sqrt(df)), 400
    width = (pi / 2 - start) / steps
    weights = (1 if i in (0, steps) else 4 if i % 2 else 2 for i in range(steps + 1))
    area = sum(
        weight * cos(min(start + i * width, pi / 2)) ** (df - 1) for i, weight in enumerate(weights)
    )
    scale = 2 * exp(lgamma((df + 1) / 2) - lgamma(df / 2)) / sqrt(pi)
    return min(1.0, scale * area * width / 3)
