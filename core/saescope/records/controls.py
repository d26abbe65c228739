"""An effect beside the same effect of random features."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Comparison:
    """What controls do, and whether the effect is outside them."""

    mean: float | None
    sd: float | None
    n: int
    p: float | None
    """The share of effect and controls together that lie at least as far from their common median
    as the effect does, or of a share that is closed, that are as large: the chance of so extreme an
    effect if it were a control like the others."""
    outside: bool
    """p <= 0.05, which takes 19 controls."""
