"""What features are found by: which of them make a concept likelier."""

from dataclasses import dataclass

from saescope.records.features import FoundFeature


@dataclass(frozen=True, kw_only=True)
class Cause(FoundFeature):
    """A feature that moves the concept, by its gradient and, if it is one of the best, by pushes.

    Effects are changes of the log of the summed probability of the concept's texts, in nats, on
    average of the prompts;
    `score` is the effect per nat of KL where a push changes predictions by 0.5 nats: all features
    at the same damage.
    """

    screen: float
    """The first-order effect of a push of typical strength: activation times gradient."""
    equal_norm: float
    """The same of a push as long as the usual feature's."""
    strengths: list[float]
    """Strengths of the pushes that were measured, in units of the typical activation."""
    effects: list[float]
    kl: list[float]
    """KL(clean || pushed) of the same predictions, in nats: what else changes."""
    strength: float | None
    """Where the push changes predictions by 0.5 nats: a strength to begin with."""
    interval: tuple[float, float] | None
    """95 % of `score` over the prompts (Student's t); None with fewer than five."""
    p: float | None
    """The larger of two: beside random features, and beside the best of as many random
    directions as there are features."""
    causes: bool | None
    """Measured, outside both kinds of controls, and in the interval of one sign."""
    fires: bool
    """It was seen firing; of a silent feature strength 1 is the median of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlScores:
    """Scores of pushes that should do nothing."""

    n: int
    mean: float | None
    best: float | None
    """The one that moves the concept most in the direction asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalSets:
    """What was searched for and on what."""

    concept: str
    """The quantity whose change is an effect, in words."""
    n_prompts: int
    n_measured: int
    n_causes: int
    kl: float
    """The KL, in nats, at which scores are compared."""
    random_features: ControlScores
    """Features drawn at random, pushed as far as the usual candidate."""
    random_directions: ControlScores
    """Random directions, each the best by gradient of as many as there are features: what a
    search finds where there is nothing."""


@dataclass(frozen=True, kw_only=True)
class FoundCauses:
    """A page of the features that move a concept, best first."""

    features: list[Cause]
    total: int
    """Features whose first-order effect has the sign that is asked for."""
    score_is: str
    search: CausalSets
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class SelectedFeature(FoundFeature):
    """A candidate for a concept: how it tells texts, what it does, and why it is not the first."""

    auc: float
    """Chance that one of `texts` scores higher than one of `against`, by the mean of its three
    largest activations; held out where it was chosen by texts."""
    auc_interval: tuple[float, float]
    separates: bool
    """Clearly above chance, corrected for all that were looked at."""
    also_on: int
    """Texts of `against` on which it fires at least half as strongly as on the usual text on which
    it fires."""
    also_writes: float | None
    """The share of tokens that only `against` has (those that rise nearly as far), each as far as
    the feature fires on its texts, in the probability that its push gives to these and to the
    concept's; known where it causes and separates, and each text of `causes` is one token."""
    clean: bool
    """It separates with an area of 0.95 or more (or one whose interval reaches that), is `also_on`
    one in twenty of `against` at most (or on one), and `also_writes` 0.07 at most. No proof that it
    stands for nothing wider: that takes the right texts in `against`."""
    effect: float
    """Effect on the concept's log-probability per nat of KL, as `ss.find_causes` has it."""
    interval: tuple[float, float] | None
    """95 % of `effect` over the prompts."""
    causes: bool
    chance: float | None
    """p of its effect among the random directions (Student's t), corrected for all candidates that
    separate; above 0.05 it is not chosen. Of features that cause and separate."""
    strength: float
    """Where a push changes predictions by 0.5 nats."""
    perplexity: float | None
    """The factor by which a push of that strength raises the perplexity of `against`: damage; of
    the first few."""
    lost: str | None
    """Why it is not the first; None of the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureGroup:
    """Features that are pushed together, each at its own strength times one factor."""

    features: list[int]
    strengths: list[float]
    effect: float
    interval: tuple[float, float] | None
    auc: float
    """The area of the sum of their activations, each in its typical one, on all the texts: those
    that chose the features are among them."""
    also_writes: float | None
    """The same share as a feature has, by the sum of their pushes and of their activations."""
    clean: bool
    """The sum has an area of 0.95 or more and keeps off the others and their words; nothing is held
    out."""
    causes: bool
    """It causes as a feature does, and not by chance, corrected for all sums that were tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionFacts:
    """What was chosen, and what to think of the texts that it was chosen by."""

    verdict: str
    """The level: one feature, a group, or none is good enough."""
    group: FeatureGroup | None
    """Two to five features that do clearly more together than the best of them alone."""
    faults: list[str]
    """What is wrong with the texts."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Candidates, best first, and the choice."""

    features: list[SelectedFeature]
    total: int
    score_is: str
    why: str
    """The verdict in a sentence."""
    choice: SelectionFacts
    search: CausalSets
    warnings: list[str]
