"""What changing features does: to one prediction, and to generated text."""

from dataclasses import dataclass, field

from saescope.records.controls import Comparison
from saescope.records.features import FeatureRef
from saescope.records.prediction import Readout
from saescope.verdicts import Effect, Judgement


@dataclass(frozen=True, slots=True)
class EditShare:
    """One edit of several, by itself and left out."""

    feature: int
    alone: float
    """The effect of this edit without the others."""
    all_but_this: float
    """The effect of the others without this edit: what `effect` goes beyond it is lost by leaving
    this one out."""


@dataclass(frozen=True, kw_only=True)
class EditEffect:
    """What edits of features do to the next-token prediction, beside the same along random
    features."""

    measure: str
    """What `effect` is on: "logprob" (nats) or "logit" of the target, or "difference", of the
    logits of target and `against`."""
    effect: float
    """The measured quantity after the edit minus before; of several prompts the mean over those
    that the edits touch."""
    control: Comparison
    """The effects of the same edits on random features (means over the same prompts)."""
    shares: list[EditShare]
    """What each of several edits does alone and left out, in the order of the edits."""
    touched: bool
    """False: the edits change nothing of any run, so that the effect is none."""
    unit_values: list[float]
    unit_source: str
    """Where the maxima come from: the index if there is one."""
    n_tokens: int
    n_left_out: int
    n_sinks: int
    """How many of those left out are positions whose norm at the site is out of proportion."""
    warnings: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, kw_only=True)
class Intervention(EditEffect):
    """Effect of edits on one prediction."""

    before: Readout
    after: Readout
    delta_logit: float
    """The target's logit (or its difference to `against`) after the edit minus before; it may be
    that all logits moved."""
    delta_logprob: float
    """The target's log-probability after the edit minus before, in nats."""
    kl: float
    """KL(before || after) in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEffect:
    """Effect of edits on one of several prompts."""

    target: str
    logprob_before: float
    """The target's log-probability in the clean run, in nats."""
    logprob_after: float
    effect: float
    touched: bool
    """False: the edits change nothing of this prompt's run; it counts in no mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignTest:
    """How many effects go each way, and the chance of so uneven a split of fair coins."""

    n_up: int
    n_down: int
    n_ties: int
    """Effects of exactly 0 on prompts that are touched; the test leaves them out."""
    p: float | None
    """The exact, two-sided p value; None where there are only ties."""


@dataclass(frozen=True, kw_only=True)
class Interventions(EditEffect):
    """Effect of the same edits on the predictions after several prompts."""

    on_prompts: list[PromptEffect]
    n_distinct: int
    """The number of prompts without repetitions: each counts once."""
    n_touched: int
    """The number of distinct prompts that the edits touch."""
    interval: tuple[float, float] | None
    """A 95 % interval of `effect` over the prompts that are touched (Student's t); None with fewer
    than 5."""
    sign_test: SignTest


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What can be counted on a generated text, as far as it has tokens."""

    concept_score: float | None
    """Share of the generated tokens that are concept tokens."""
    concept_logprob: float | None
    """How much steering changes the log of the concept tokens' summed probability along this text,
    in nats, averaged over its tokens."""
    perplexity: float | None
    repetition: float
    """1 - distinct / total 3-grams."""
    kl: float | None
    """KL(unsteered || steered) in nats, averaged over its tokens."""


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """One generated text."""

    label: str
    text: str
    n_tokens: int
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Arm(GeneratedText):
    """A generated text with what was changed at random."""

    features: list[FeatureRef] = field(default_factory=list[FeatureRef])
    """The random features of a control, one for every edit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """One strength, averaged over prompts and samples; None where there is nothing to measure."""

    strength: float
    concept_logprob: float | None
    interval: tuple[float, float] | None
    """95 % of the mean over prompts (Student's t); None with one prompt."""
    p: float | None
    """The rank of `concept_logprob` among those of 19 random features changed alike."""
    beyond: bool
    """`concept_logprob` lies outside of these, on the side away from no effect."""
    perplexity: float | None
    repetition: float
    kl: float | None
    verdict: Effect
    text: str
    """The first sample of the first prompt."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Several strengths beside one unsteered text of each prompt."""

    baseline: GeneratedText
    """The first prompt's text with the means over prompts."""
    rows: list[SweepRow]
    unit_values: list[float]
    unit_source: str
    concept_tokens: list[str]
    n_left_out: int
    """Positions of the prompts that are not edited, sinks included."""
    n_sinks: int
    warnings: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, kw_only=True)
class SteeredTexts:
    """Baseline, steered samples and controls of one prompt."""

    baseline: Arm
    steered: list[Arm]
    controls: list[Arm]
    unit_values: list[float]
    unit_source: str
    """Where the maxima come from: the index if there is one."""
    concept_logprob: float | None
    """The headline: on the unsteered text, token by token as it stands, how much steering changes
    the log of the concept tokens' summed probability, in nats, averaged over its tokens."""
    n_sinks: int
    """Positions of the prompt that are not edited because their norm at the site is out of
    proportion."""


@dataclass(frozen=True, kw_only=True)
class Steering(SteeredTexts):
    """What was generated, and what to make of it."""

    verdict: Judgement[Effect]
    concept_tokens: list[str]
    concept_control: Comparison
    """`concept_logprob` of 19 random features changed alike; none where no concept was named,
    since the tokens that a feature promotes are its own."""
    n_left_out: int
    """Positions of the prompt that are not edited, sinks included."""
    warnings: list[str] = field(default_factory=list[str])
