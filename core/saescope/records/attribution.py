"""What an attribution says: which features a logit rests on, with the evidence."""

from dataclasses import dataclass, field

from saescope.records.controls import Comparison
from saescope.records.prediction import TargetLogit


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureEffect:
    """One feature at one position: what it adds to the logit, and what is lost when it is
    ablated."""

    sae: int
    """Its SAE, by its place in the list that was given; 0 for one SAE alone."""
    feature: int
    pos: int
    token: str
    activation: float
    attribution: float
    measured_effect: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """Listed pairs ablated at once, beside as many pairs that match them in position and size."""

    measured_effect: float
    control: Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class JointOfSign(Joint):
    """Those listed pairs alone that are attributed to the target, or against it."""

    sign: str
    """"positive" or "negative"."""
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionError:
    """What the SAE does not reconstruct at one position."""

    pos: int
    token: str
    attribution: float
    """With its sign: positions may cancel."""
    share: float
    """In absolute value, as a share of the nodes at this position: of it and of the active pairs
    there, each in absolute value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SAEShare:
    """What one SAE sees and does not see of the prediction."""

    sae: int
    total: int
    """Active (feature, position) pairs that were considered."""
    error_attribution: float
    """What the model has at the site and the SAE does not reconstruct, with its sign, added up over
    positions."""
    error_share: float | None
    """The error as one node a position, in absolute value, as a share of all nodes: of these and of
    every active pair's attribution in absolute value."""
    error_positions: list[PositionError]
    """The positions at which the error is attributed most, in absolute value; five at most."""
    features_attribution: float
    """All active pairs with their signs: what the features say together."""
    error_effect: float | None
    """Measured: what is lost when the error is taken away at all positions that count."""
    n_tokens: int
    n_left_out: int
    n_sinks: int
    """How many of those left out are positions whose norm at the site is out of proportion."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well estimates say what is measured."""

    pearson: float | None
    """Correlation over the n listed pairs, which were chosen for large estimates."""
    n: int
    sample_spearman: float | None
    """Rank correlation over a random sample of all active pairs."""
    sample_n: int


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """An explanation of one prediction with its evidence; effects are contributions: what the
    measure has with a part and loses without it.

    With several SAEs, what belongs to one of them stands in `by_sae`, and error and completeness
    here are None: attributions of SAEs in series overlap, so that their sum means nothing.
    """

    target: TargetLogit
    against: TargetLogit | None
    position: int
    measure: str
    """What effects are effects on: "logprob" (nats) or "logit" of the target, or "difference", of
    the logits of target and `against`."""
    features: list[FeatureEffect]
    total: int
    """Active (feature, position) pairs that were considered, of all SAEs."""
    by_sae: list[SAEShare]
    error_attribution: float | None
    error_share: float | None
    error_positions: list[PositionError]
    features_attribution: float | None
    error_effect: float | None
    agreement: Agreement
    joint: Joint | None
    by_sign: list[JointOfSign]
    """Where listed pairs have both signs, so that together they cancel: those of each sign."""
    completeness: float | None
    left_out: str
    """What the method does not see."""
    n_tokens: int
    """Positions that count for at least one of the SAEs."""
    n_left_out: int
    n_sinks: int
    """How many of those left out are positions whose norm at the site is out of proportion."""
    warnings: list[str] = field(default_factory=list[str])
