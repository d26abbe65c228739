"""Verdicts: a level, which code compares, and a sentence, which people read."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar


class Quality(StrEnum):
    """How well an SAE reconstructs what the model does at its site."""

    GOOD = "good"
    FAIR = "fair"
    DOUBTFUL = "doubtful"
    WRONG = "wrong"
    UNKNOWN = "unknown"


class Effect(StrEnum):
    """What steering did to the text, beside what random features did."""

    NONE = "no visible effect"
    DEGENERATE = "degenerate"
    CHANGED = "changed"
    OWN_TOKENS = "promotes its own tokens"
    UNCONTROLLED = "changed, not controlled"
    UNSPECIFIC = "unspecific"
    SPECIFIC = "specific"


class Carrier(StrEnum):
    """What carries the difference between two prompts at the sites that were patched."""

    FEW = "the listed features"
    MANY = "many features"
    ERROR = "the error"
    ELSEWHERE = "not these sites"
    UNTOLD = "not told"


class Steerability(StrEnum):
    """Whether features bring a concept about without much damage, on prompts that no strength was
    chosen on."""

    NONE = "none"
    NOT_BETTER = "not better than a control"
    WEAK = "weak"
    USABLE = "usable"


class Choice(StrEnum):
    """What is to be taken for a concept."""

    ONE = "one feature"
    GROUP = "a group"
    NONE = "none is good enough"


class LabelVerdict(StrEnum):
    """What the score of a label means; the value is the whole sentence."""

    GOOD = "good"
    BETTER = "better than chance"
    CHANCE = "not better than chance"
    UNDECIDED = "undecided: too few items to tell from chance"
    WRONG = "wrong: worse than chance"
    NOT_TESTED = "not tested"


class Signal(StrEnum):
    """Whether a lens says more of a model's predictions than its controls do."""

    SIGNAL = "signal"
    NONE = "no signal at this size"
    UNKNOWN = "unknown: too few positions"


Level = TypeVar("Level", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Judgement(Generic[Level]):
    """A level of one scale, and why; as text it reads "level: why"."""

    level: Level
    why: str

    def __str__(self) -> str:
        return f"{self.level}: {self.why}"
