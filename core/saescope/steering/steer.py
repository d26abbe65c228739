"""Steering with features: what changes, and whether it is more than random features do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

from saescope.controls import ENOUGH, compare_with
from saescope.errors import ArgumentError
from saescope.models import LanguageModel, Tokens
from saescope.ops import SparseActs
from saescope.progress import NOBODY, Progress, counting
from saescope.records.controls import Comparison
from saescope.records.features import FeatureRef
from saescope.records.steering import Arm, Metrics, Steering
from saescope.saes import SAE
from saescope.sinks import many_sinks
from saescope.stack import Stack, as_stack
from saescope.steering.concept import ConceptTokens
from saescope.steering.conditions import silent_conditions
from saescope.steering.edits import FeatureEdit, check_edits
from saescope.steering.forced import concept_changes
from saescope.steering.generate import (
    Generation,
    Sampling,
    generate,
    n_steps,
    repetition_of,
    write,
)
from saescope.steering.judge import ConceptChange, is_relief, judge
from saescope.steering.prepare import Plans, Prepared, prepare
from saescope.steering.units import Controls, IndexedActivations, OneOrEach, Unit


def steer(
    model: LanguageModel,
    sae: SAE | Sequence[SAE],
    tokens: Tokens,
    edits: Sequence[FeatureEdit],
    *,
    unit: str = "typical",
    reference: OneOrEach[SparseActs] = None,
    indexed: OneOrEach[IndexedActivations] = None,
    max_new_tokens: int = 48,
    n_samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    n_controls: int = 2,
    concept_tokens: Sequence[int] = (),
    use_cache: bool = True,
    progress: Progress | None = None,
) -> Steering:
    """Generate unsteered, steered, and with equal changes of random features, all in one batch.

    Edits act at every position of prompt and continuation but position 0, special tokens and
    attention sinks. Units and controls are of what is indexed, else of what fires in prompt and
    `reference` (`ss.check_sae(...).acts`, as the tools do); with several SAEs these are lists.
    The concept's probability is compared with 19 controls, whatever `n_controls`, texts to see, is.

    Raises:
        ArgumentError: an edit that cannot be, samples at temperature 0, a prompt without room.
    """
    stack = as_stack(model, sae)
    check_edits(stack.as_given, edits)
    check_writing(model, tokens, n_samples, temperature)
    ready = prepare(
        stack,
        tokens,
        edits,
        unit=Unit.of(unit, reference, indexed, len(stack.saes)),
        controls=Controls(max(n_controls, ENOUGH), seed),
    )
    concept = ConceptTokens.of(stack, edits, concept_tokens)
    runs = [{}, *[ready.plans] * n_samples, *ready.controls[:n_controls]]
    n_all = n_steps(stack, tokens, len(runs), max_new_tokens) + concept.n_runs(ready.controls)
    sampling = Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seeds=[seed, *range(seed, seed + n_samples), *[seed] * (len(runs) - n_samples - 1)],
        use_cache=use_cache,
        advance=counting(progress, n_all),
    )
    rows = generate(stack, tokens.ids, runs, sampling=sampling, concept=concept.ids)
    return _report(_Written(stack, tokens, ready, concept, sampling), rows, n_samples)


@dataclass(frozen=True, slots=True)
class _Written:
    """What texts were written from, and how."""

    stack: Stack
    tokens: Tokens
    ready: Prepared
    concept: ConceptTokens
    sampling: Sampling


def _report(what: _Written, rows: Sequence[Generation], n_samples: int) -> Steering:
    ready, concept = what.ready, what.concept
    model, n_shown = what.stack.model, len(rows) - n_samples - 1
    labels = [
        "baseline",
        *(f"steered {i + 1}" for i in range(n_samples)),
        *(f"control: {_in_words(what.stack, drawn)}" for drawn in ready.drawn[:n_shown]),
    ]
    arms = [arm_of(model, label, row, concept.ids) for label, row in zip(labels, rows, strict=True)]
    baseline, steered = arms[0], arms[1 : n_samples + 1]
    controls = [
        replace(arm, features=drawn)
        for arm, drawn in zip(arms[n_samples + 1 :], ready.drawn, strict=False)
    ]
    change = _concept_change(what, rows[0].ids)
    n_edited = int(ready.masks.any(0).sum())
    return Steering(
        baseline=baseline,
        steered=steered,
        controls=controls,
        unit_values=ready.units.values,
        unit_source=ready.units.source,
        concept_tokens=[model.token_text(i) for i in concept.ids],
        concept_logprob=change.change,
        concept_control=change.control,
        verdict=judge(
            [baseline] * n_samples, steered, change, _relief(what, baseline, steered, controls)
        ),
        n_left_out=ready.masks.shape[1] - n_edited,
        n_sinks=ready.n_sinks,
        warnings=[
            *ready.units.warnings,
            *concept.warnings,
            *silent_conditions(what.stack, ready.sites, ready.plans),
            *many_sinks(ready.n_sinks, n_edited),
        ],
    )


def _concept_change(what: _Written, written: Sequence[int]) -> ConceptChange:
    """On the unsteered text; of controls only where the concept is the user's."""
    concept, ready = what.concept, what.ready
    if not concept.ids:
        return ConceptChange(None, compare_with(0.0, []), False)
    runs = [ready.plans, *(ready.controls if concept.is_named else [])]
    ids, advance = what.tokens.ids, what.sampling.advance
    own, *others = concept_changes(what.stack, ids, written, runs, concept.ids, advance=advance)
    return ConceptChange(own, compare_with(own, others), concept.is_named)


def _relief(
    what: _Written, baseline: Arm, steered: Sequence[Arm], shown: Sequence[Arm]
) -> Comparison | None:
    """Repetition beside that of enough controls, where it fell clearly."""
    if not is_relief(baseline, steered, shown):
        return None
    more: list[Plans] = what.ready.controls[len(shown) :]
    seeds = [what.sampling.seeds[0]] * len(more)
    sampling = replace(what.sampling, seeds=seeds, advance=NOBODY)
    rows = write(what.stack, what.tokens.ids, more, sampling=sampling) if more else []
    others = [
        *(arm.metrics.repetition for arm in shown),
        *(repetition_of(row) for row in rows),
    ]
    ours = mean(arm.metrics.repetition for arm in steered)
    return compare_with(ours, others) if others else None


def _in_words(stack: Stack, features: Sequence[FeatureRef]) -> str:
    """Features with the SAE of each where there are several."""
    if len(stack.saes) == 1:
        return f"feature {', '.join(str(ref.feature) for ref in features)}"
    names = {given: stack.name(i) for i, given in enumerate(stack.given)}
    return ", ".join(f"feature {ref.feature} of the {names[ref.sae]}" for ref in features)


def check_writing(model: LanguageModel, tokens: Tokens, n_samples: int, temperature: float) -> None:
    if n_samples > 1 and temperature == 0:
        raise ArgumentError(
            "At temperature 0 every sample is the same.",
            code="OUT_OF_RANGE",
            field="temperature",
            got=0,
            allowed="> 0 with n_samples > 1",
            hint="Set temperature=0.8, or n_samples=1.",
        )
    if len(tokens) >= model.n_ctx:
        raise ArgumentError(
            f"The prompt has {len(tokens)} tokens: nothing can follow in a context of "
            f"{model.n_ctx}.",
            code="PROMPT_TOO_LONG",
            field="prompt",
            got=len(tokens),
            allowed=model.n_ctx - 1,
            hint="Shorten the prompt.",
        )


def arm_of(model: LanguageModel, label: str, row: Generation, concept: Sequence[int]) -> Arm:
    """A row as it is reported."""
    score = sum(i in concept for i in row.ids) / len(row.ids) if concept and row.ids else None
    metrics = Metrics(
        concept_score=score,
        concept_logprob=row.concept_logprob,
        perplexity=row.perplexity,
        repetition=repetition_of(row.ids),
        kl=row.kl,
    )
    return Arm(label, model.tokenizer.join(row.ids), len(row.ids), metrics)
