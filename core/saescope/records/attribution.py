"""What an attribution says: which features a logit rests on, with the evidence."""

from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class Joint:
    """All listed pairs ablated at once, beside as many matched pairs from outside the list."""

    measured_effect: float
    control_mean: float | None
    control_sd: float | None
    n_controls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SAEShare:
    """What one SAE sees and does not see of the logit."""

    sae: int
    total: int
    """Active (feature, position) pairs that were considered."""
    error_attribution: float
    error_share: float | None
    """|error attribution| as a share of it and all this SAE's attributions together, in absolute
    value."""
    n_tokens: int
    n_left_out: int
    n_sinks: int
    """How many of those left out are positions whose norm at the site is out of proportion."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Correlation of attribution and measured effect over the n listed features."""

    pearson: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """An explanation of one logit (or difference of two) with its evidence.

    With several SAEs, what belongs to one of them stands in `by_sae`, and error and completeness
    here are None: attributions of SAEs in series overlap, so that their sum means nothing.
    """

    target: TargetLogit
    against: TargetLogit | None
    position: int
    features: list[FeatureEffect]
    total: int
    """Active (feature, position) pairs that were considered, of all SAEs."""
    by_sae: list[SAEShare]
    error_attribution: float | None
    error_share: float | None
    agreement: Agreement
    joint: Joint | None
    completeness: float | None
    left_out: str
    """What the method does not see."""
    n_tokens: int
    """Positions that count for at least one of the SAEs."""
    n_left_out: int
    n_sinks: int
    """How many of those left out are positions whose norm at the site is out of proportion."""
    warnings: list[str] = field(default_factory=list[str])
