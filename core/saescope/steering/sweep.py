"""One edit at several strengths, or on several prompts, as one table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

from saescope.controls import ENOUGH, compare_with
from saescope.errors import ArgumentError
from saescope.models import LanguageModel, Tokens
from saescope.ops import SparseActs
from saescope.progress import Progress, counting
from saescope.records.steering import Arm, GeneratedText, Metrics, Sweep, SweepRow
from saescope.saes import SAE
from saescope.stack import Stack, as_stack
from saescope.steering.concept import ConceptTokens
from saescope.steering.edits import FeatureEdit, check_edits, scaled
from saescope.steering.forced import concept_changes
from saescope.steering.generate import Sampling, generate, n_steps
from saescope.steering.judge import ConceptChange, is_beyond, judge
from saescope.steering.means import t_interval
from saescope.steering.prepare import Plans, Prepared, distinct, prepare, repeated, units_over
from saescope.steering.steer import arm_of, check_writing
from saescope.steering.units import Controls, IndexedActivations, OneOrEach, Unit


@dataclass(frozen=True, slots=True)
class _OnPrompt:
    """One prompt at every strength."""

    baseline: Arm
    steered: list[list[Arm]]
    """Samples by strength."""
    changes: list[list[float]]
    """How the concept's log-probability changes, by strength, and how it does with each control."""


def sweep(
    model: LanguageModel,
    sae: SAE | Sequence[SAE],
    prompts: Sequence[Tokens],
    edits: Sequence[FeatureEdit],
    *,
    strengths: Sequence[float] = (1.0,),
    unit: str = "typical",
    reference: OneOrEach[SparseActs] = None,
    indexed: OneOrEach[IndexedActivations] = None,
    max_new_tokens: int = 48,
    n_samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    concept_tokens: Sequence[int] = (),
    progress: Progress | None = None,
) -> Sweep:
    """Steer at multiples of the edits' strengths on every prompt, beside one unsteered text of each
    and the same 19 random features for all. Without edits: the unsteered texts alone. A prompt that
    is given again counts once.

    Raises:
        ArgumentError: as `steer`, or strengths of edits that have none.
    """
    stack = as_stack(model, sae)
    prompts, places = distinct(prompts)
    for tokens in prompts:
        check_writing(model, tokens, n_samples, temperature)
    check_strengths(stack.as_given, edits, strengths)
    factors = strengths if edits else ()
    meant = Unit.of(unit, reference, indexed, len(stack.saes))
    ready = [
        prepare(stack, tokens, edits, unit=each, controls=Controls(ENOUGH, seed))
        for tokens, each in zip(prompts, units_over(stack, prompts, meant), strict=True)
        if edits
    ]
    seeds = [seed, *[*range(seed, seed + n_samples)] * len(factors)]
    concept = ConceptTokens.of(stack, edits, concept_tokens)
    n_rows = len(seeds) + (len(factors) * concept.n_runs(ready[0].controls) if ready else 0)
    steps = (n_steps(stack, each, n_rows, max_new_tokens) for each in prompts)
    advance = counting(progress, sum(steps))
    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, seeds=seeds, advance=advance
    )
    found = [
        _on_prompt(stack, tokens, ready[n] if ready else None, factors, concept, sampling)
        for n, tokens in enumerate(prompts)
    ]
    done = _report(stack, found, ready, factors, concept)
    return replace(done, warnings=[*repeated(places), *done.warnings])


def check_strengths(
    saes: Sequence[SAE], edits: Sequence[FeatureEdit], strengths: Sequence[float]
) -> None:
    """Raises ArgumentError for an edit that cannot be, or strengths of edits that have none;
    without edits the plain text is meant."""
    if not edits:
        return
    check_edits(saes, edits)
    if len(strengths) > 1 and all(edit.mode in ("ablate", "project_out") for edit in edits):
        raise ArgumentError(
            "These edits have no strength.",
            code="CONFLICTING_ARGUMENTS",
            field="strengths",
            got=[*strengths],
            allowed="one strength for ablate and project_out",
            hint="Leave strengths out, or use mode='scale'.",
        )


def _on_prompt(
    stack: Stack,
    tokens: Tokens,
    ready: Prepared | None,
    factors: Sequence[float],
    concept: ConceptTokens,
    sampling: Sampling,
) -> _OnPrompt:
    n_samples = (len(sampling.seeds) - 1) // max(1, len(factors))
    ours = [_times(ready.plans, factor) for factor in factors] if ready else []
    runs: list[Plans] = [{}, *(plans for plans in ours for _ in range(n_samples))]
    rows = generate(stack, tokens.ids, runs, sampling=sampling, concept=concept.ids)
    arms = [arm_of(stack.model, "", row, concept.ids) for row in rows]
    steered = [arms[1 + n * n_samples : 1 + (n + 1) * n_samples] for n, _ in enumerate(factors)]
    changes: list[list[float]] = []
    for factor, plans in zip(factors, ours, strict=True):
        others = ready.controls if ready and concept.is_named else []
        each = [plans, *(_times(other, factor) for other in others)] if concept.ids else []
        changes.append(
            concept_changes(
                stack, tokens.ids, rows[0].ids, each, concept.ids, advance=sampling.advance
            )
        )
    return _OnPrompt(arms[0], steered, changes)


def _times(plans: Plans, factor: float) -> Plans:
    return {i: scaled(plan, factor) for i, plan in plans.items()}


def _report(
    stack: Stack,
    found: Sequence[_OnPrompt],
    ready: Sequence[Prepared],
    factors: Sequence[float],
    concept: ConceptTokens,
) -> Sweep:
    baselines = [each.baseline for each in found]
    units = ready[0].units if ready else None
    return Sweep(
        baseline=GeneratedText(
            "baseline", baselines[0].text, baselines[0].n_tokens, _averaged(baselines)
        ),
        rows=[_row(found, n, factor, concept) for n, factor in enumerate(factors)],
        unit_values=units.values if units else [],
        unit_source=units.source if units else "",
        concept_tokens=[stack.model.token_text(i) for i in concept.ids],
        n_left_out=sum(int((~each.masks.any(0)).sum()) for each in ready),
        n_sinks=sum(each.n_sinks for each in ready),
        warnings=[*(units.warnings if units else []), *(concept.warnings if ready else [])],
    )


def _row(found: Sequence[_OnPrompt], n: int, factor: float, concept: ConceptTokens) -> SweepRow:
    steered = [arm for each in found for arm in each.steered[n]]
    baselines = [each.baseline for each in found for _ in each.steered[n]]
    metrics = _averaged(steered)
    own = [each.changes[n][0] for each in found if each.changes[n]]
    # [n_prompts][1 + n_controls] -> each control's mean over prompts: they are the same features.
    means = [mean(values) for values in zip(*(each.changes[n] for each in found), strict=True)]
    control = compare_with(means[0], means[1:]) if means else compare_with(0.0, [])
    change = ConceptChange(means[0] if means else None, control, concept.is_named)
    return SweepRow(
        strength=factor,
        concept_logprob=change.change,
        interval=t_interval(own),
        p=control.p,
        beyond=is_beyond(change.change, control),
        perplexity=metrics.perplexity,
        repetition=metrics.repetition,
        kl=metrics.kl,
        verdict=judge(baselines, steered, change, None).level,
        text=steered[0].text,
    )


def _averaged(arms: Sequence[Arm]) -> Metrics:
    def over(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return mean(known) if known else None

    all_metrics = [arm.metrics for arm in arms]
    return Metrics(
        concept_score=over([each.concept_score for each in all_metrics]),
        concept_logprob=over([each.concept_logprob for each in all_metrics]),
        perplexity=over([each.perplexity for each in all_metrics]),
        repetition=mean(each.repetition for each in all_metrics),
        kl=over([each.kl for each in all_metrics]),
    )
