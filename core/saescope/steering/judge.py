"""What to make of steered texts: by the concept's probability and by repetition, both ways."""

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from saescope.controls import ENOUGH
from saescope.records.controls import Comparison
from saescope.records.steering import GeneratedText
from saescope.verdicts import Effect, Judgement

MOST_PERPLEXED = 20
"""Times the baseline's perplexity above which a steered text counts as garbage."""
MOST_REPEATED = 0.5
"""Share of repeated 3-grams above which a text counts as a loop."""
LEAST_RELIEF = 0.1
"""Less repetition is looked into where it falls by this much: one 3-gram of ten."""


class ConceptChange(NamedTuple):
    """How the log-probability of the concept changed."""

    change: float | None
    control: Comparison
    is_named: bool
    """The user named its tokens; if not, they are those that the features promote."""


def judge(
    baselines: Sequence[GeneratedText],
    steered: Sequence[GeneratedText],
    concept: ConceptChange,
    relief: Comparison | None,
) -> Judgement[Effect]:
    """Each steered text with its own unsteered one; `relief`: the repetition of the steered texts
    beside that of enough controls, where it is worth a comparison."""
    broken = _broken(baselines, steered)
    if all(text.text == other.text for text, other in zip(steered, baselines, strict=True)):
        why = "the text is the unsteered one; raise the strength, if the mode has one"
        return Judgement(Effect.NONE, f"{why}{_beneath(concept)}")
    if broken:
        return Judgement(Effect.DEGENERATE, f"{broken}; lower the strength, if the mode has one")
    if is_beyond(concept.change, concept.control) and concept.is_named:
        less = "more" if (concept.change or 0) > 0 else "less"
        return Judgement(Effect.SPECIFIC, f"{_further(concept)}: {less} of the concept")
    if relief is None:
        return _not_specific(concept)
    falls = (
        f"repetition falls from {repetition(baselines):.2g} to {repetition(steered):.2g}, with "
        f"{relief.n} random features to {relief.mean:.2g} on average (p = {relief.p:.2g})"
    )
    if relief.outside:
        return Judgement(Effect.SPECIFIC, falls)
    other = _not_specific(concept)
    return Judgement(other.level, f"{other.why}; {falls}")


def _not_specific(concept: ConceptChange) -> Judgement[Effect]:
    if concept.change is None:
        why = "the text differs from the unsteered one; there is no concept to judge it by"
        return Judgement(Effect.CHANGED, why)
    if not concept.is_named:
        why = (
            f"its promoted tokens change by {concept.change:+.2g} nats, which tests no concept: "
            "name concept_tokens"
        )
        own = concept.change > 0
        return Judgement(Effect.OWN_TOKENS if own else Effect.CHANGED, why)
    if concept.control.n < ENOUGH:
        why = f"the concept's log-probability changes by {concept.change:+.2g} nats"
        few = f"there are too few other features to compare with ({concept.control.n})"
        return Judgement(Effect.UNCONTROLLED, f"{why}; {few}")
    return Judgement(Effect.UNSPECIFIC, _further(concept))


def is_beyond(change: float | None, control: Comparison) -> bool:
    """Whether an effect lies outside its controls, on the side away from no effect."""
    return (
        change is not None
        and control.mean is not None
        and control.outside
        and change * (change - control.mean) > 0
    )


def _further(concept: ConceptChange) -> str:
    control = concept.control
    return (
        f"the concept's log-probability changes by {concept.change:+.2g} nats, by "
        f"{control.mean:+.2g} on average of {control.n} random features (p = {control.p:.2g})"
    )


def _beneath(concept: ConceptChange) -> str:
    """What a text that stayed the same does not show."""
    shows = concept.is_named and is_beyond(concept.change, concept.control)
    return f" ({_further(concept)})" if shows else ""


def _broken(baselines: Sequence[GeneratedText], steered: Sequence[GeneratedText]) -> str:
    """How the steered texts fell apart where the unsteered one did not; nothing if they did not."""
    if repetition(steered) > max(MOST_REPEATED, repetition(baselines) + LEAST_RELIEF):
        return "the steered text repeats itself"
    if _perplexity(steered) > MOST_PERPLEXED * max(_perplexity(baselines), 1.0):
        return "the unsteered model finds the steered text most unlikely"
    return ""


def is_relief(
    baseline: GeneratedText, steered: Sequence[GeneratedText], controls: Sequence[GeneratedText]
) -> bool:
    """Whether the steered texts repeat themselves clearly less than the unsteered one and all these
    controls, so that enough controls should be written to compare with."""
    least = min(repetition([text]) for text in (baseline, *controls))
    ours = repetition(steered)
    # A text that ends at once repeats nothing, and shows nothing.
    goes_on = 2 * mean(text.n_tokens for text in steered) >= baseline.n_tokens
    return goes_on and ours < least and ours <= repetition([baseline]) - LEAST_RELIEF


def repetition(texts: Sequence[GeneratedText]) -> float:
    return mean(text.metrics.repetition for text in texts)


def _perplexity(texts: Sequence[GeneratedText]) -> float:
    return max((t.metrics.perplexity for t in texts if t.metrics.perplexity is not None), default=1)
