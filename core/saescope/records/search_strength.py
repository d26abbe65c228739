"""What a search for a strength found: the trials, and what the chosen strength does on prompts that
no trial has seen."""

from dataclasses import dataclass, field

from saescope.records.controls import Comparison
from saescope.verdicts import Judgement, Steerability


@dataclass(frozen=True, slots=True, kw_only=True)
class DamageBudget:
    """How much else may change."""

    max_kl: float
    """KL(unsteered || steered) in nats, averaged over the unsteered texts."""
    max_perplexity: float
    """The perplexity of the steered texts under the unsteered model, as a multiple of that of the
    unsteered texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrengthTrial:
    """One strength on the calibration prompts."""

    strength: float
    concept_logprob: float
    kl: float
    perplexity_ratio: float | None
    """Null where no text was written: the strength was not among the best."""
    repetition: float | None
    within: bool
    """It keeps to the budget, as far as it was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutRow:
    """One way to bring the concept about, on the held-out prompts."""

    arm: str
    strength: float | None
    """Counted as the strength of the search; None where none is added."""
    concept_logprob: float
    """The change of the concept's log-probability, in nats: the mean over the prompts."""
    interval: tuple[float, float] | None
    """95 % of the mean over prompts (Student's t)."""
    kl: float
    """KL(unsteered || this) in nats, averaged over the unsteered texts."""
    perplexity: float | None
    """The perplexity of its texts under the unsteered model; None where none were written."""
    repetition: float | None
    """1 - distinct / total 3-grams of its texts."""
    ahead: tuple[float, float] | None
    """95 % interval of how far the steering goes beyond it in the wanted direction, in nats,
    prompt by prompt; None of the steering itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """The steering without one of its features, on the held-out prompts."""

    sae: int
    """Its SAE, by its place in the list that was given; 0 for one SAE alone."""
    feature: int
    without: float
    """The change of the concept's log-probability that the others make, in nats."""
    lost: float
    """What is lost with this feature."""
    interval: tuple[float, float] | None
    """95 % of `lost` over prompts (Student's t)."""
    kl: float
    """KL(unsteered || without it), in nats."""


@dataclass(frozen=True, kw_only=True)
class StrengthSearch:
    """The best strength within the budget, found on the calibration prompts; all but `trials` is
    measured on the held-out ones."""

    verdict: Judgement[Steerability]
    strength: float | None
    """Times the strengths that were given; None: none keeps to the budget."""
    steered: HeldOutRow | None
    """The one held-out trial that the verdict rests on."""
    random: Comparison
    """`concept_logprob` of 19 mixes of as many random features, of the norm of this mix."""
    curve: tuple[HeldOutRow, ...]
    """Other strengths, to see how steep it is; none of them was chosen by these numbers."""
    controls: tuple[HeldOutRow, ...]
    """Other ways to bring the concept about."""
    leave_one_out: tuple[LeftOut, ...]
    baseline: HeldOutRow
    """The unsteered model: `concept_logprob` is the log-probability itself."""
    unit_values: tuple[float, ...]
    unit_source: str
    budget: DamageBudget
    trials: tuple[StrengthTrial, ...]
    """Every strength that was tried, the smallest first."""
    n_trials: int
    n_calibration: int
    """Prompts on which strengths were tried."""
    n_held_out: int
    prompt: str
    """The first held-out prompt; `baseline_text` and `steered_text` continue it."""
    baseline_text: str
    steered_text: str
    warnings: list[str] = field(default_factory=list[str])
