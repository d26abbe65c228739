"""What an index says of one feature, as plain data."""

from dataclasses import dataclass
from typing import NamedTuple

TOP = "top"


@dataclass(frozen=True, slots=True)
class HistogramBin:
    """A bar of a histogram: how many activations lie in [low, high)."""

    low: float
    high: float
    count: int


class Cofiring(NamedTuple):
    """A feature that fires at the same positions as another one, in a uniform sample of
    contexts."""

    feature: int
    n_together: int
    share: float
    """The share of the positions where the asked feature fires."""
    phi: float
    """Correlation of the two firing or not, in [-1, 1]."""


@dataclass(frozen=True, slots=True)
class FeatureStatisticsRow:
    """How often and how strongly one feature fires."""

    n_fired: int
    density: float
    """Share of the counted positions at which it fires."""
    mean: float
    """Over all counted positions, silent ones included."""
    mean_firing: float | None
    """Over the positions where it fires; None if it never does, as the next two."""
    max: float | None
    typical: float | None
    """99th percentile of the activations where it fires, to 2 %; None below an 8,000th of `max`,
    and in an index of an earlier version."""
    quantiles: dict[float, float] | None
    """Quantiles of the activations where it fires, at 0.5, 0.9 and 0.99; the first two are read off
    the histogram, so good to a factor 2^(1/4)."""
    histogram: list[HistogramBin]
    """Quarter octaves, from the lowest that is not empty to the highest; the lowest takes all that
    is smaller."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens around one of them, and what the feature does at each."""

    context: int
    """Number of the context in this index."""
    start: int
    """Position of the first token in the context."""
    tokens: tuple[str, ...]
    pos: int
    """The position of the token that the passage was chosen for, counted from the passage's
    first."""
    activations: tuple[float, ...]
    """The activation of the feature at each token; 0 = silent or not counted. Exact at `pos`,
    elsewhere to 2.2 %."""

    @property
    def token(self) -> str:
        return self.tokens[self.pos]

    @property
    def activation(self) -> float:
        return self.activations[self.pos]

    @property
    def firing(self) -> tuple[int, ...]:
        """The positions at which it fires."""
        return tuple(i for i, activation in enumerate(self.activations) if activation > 0)


@dataclass(frozen=True, slots=True)
class Example(Passage):
    """A passage for a feature's card; never from a context that a quiz may show."""

    band: str
    """"top", or the range of activations that it was sampled from: "2.83..4"."""
    quantile: float
    """Share of the feature's firings that are about as strong or weaker."""


@dataclass(frozen=True, slots=True)
class QuizPassage(Passage):
    """A passage for a quiz; never from a context that a card may show."""

    why: str
    """"firing", or why it is a good distractor: "same token", "feature 12 fires", "random"."""


class QuizPool(NamedTuple):
    """Material for a quiz, each list in random order by the seed, no context twice in all three
    together."""

    firing: list[QuizPassage]
    """`pos` is where it fires; over the whole range of activations."""
    near_miss: list[QuizPassage]
    """The feature is silent in the whole passage, though a token on which it fires is there, or a
    feature like it fires at `pos`."""
    random: list[QuizPassage]
    """Silent in the whole passage; `pos` is a counted token at random."""
