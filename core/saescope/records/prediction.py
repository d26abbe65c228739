"""Next-token predictions."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TargetLogit:
    """One token as the model predicts it at a position."""

    token: str
    id: int
    logit: float
    prob: float
    rank: int
    """1 = the most likely."""


@dataclass(frozen=True, slots=True)
class Readout:
    """The prediction after the last token."""

    target: TargetLogit
    against: TargetLogit | None
    top: list[TargetLogit]
