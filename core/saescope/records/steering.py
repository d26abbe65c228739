"""What changing features does: to one prediction, and to generated text."""

from dataclasses import dataclass, field

from saescope.records.features import FeatureRef
from saescope.records.prediction import Readout
from saescope.verdicts import Effect, Judgement


@dataclass(frozen=True, slots=True)
class Intervention:
    """Effect of an edit on the next-token prediction."""

    before: Readout
    after: Readout
    delta_logit: float
    """After minus before, of the target's logit (of its difference to `against`)."""
    kl: float
    """KL(after, before) in nats."""
    control_mean: float | None
    control_sd: float | None
    control_n: int
    unit_values: list[float]
    unit_source: str
    n_tokens: int
    n_left_out: int
    n_sinks: int
    """How many of those left out are positions whose norm at the site is out of proportion."""
    warnings: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class Arm:
    """One continuation and its numbers; None where there is nothing to measure."""

    label: str
    text: str
    n_tokens: int
    concept_score: float | None
    """Share of the generated tokens that are concept tokens."""
    perplexity: float | None
    repetition: float
    """1 - distinct / total 3-grams."""
    kl: float | None
    features: list[FeatureRef] = field(default_factory=list[FeatureRef])
    """The random features of a control, one for every edit."""


@dataclass(frozen=True, slots=True)
class Steering:
    """Baseline, steered samples and controls of one prompt."""

    baseline: Arm
    steered: list[Arm]
    controls: list[Arm]
    unit_values: list[float]
    unit_source: str
    concept_tokens: list[str]
    verdict: Judgement[Effect]
    n_left_out: int
    """Positions of the prompt that are not edited."""
    n_sinks: int
    """How many of these have a norm at the site that is out of proportion."""
    warnings: list[str] = field(default_factory=list[str])
