"""Steering with features: what changes, and whether it is more than random features do."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

import torch

from saescope.effects import logit_effects
from saescope.errors import ArgumentError
from saescope.models import LanguageModel, Tokens
from saescope.ops import SparseActs
from saescope.records.features import FeatureRef
from saescope.records.steering import Arm, Metrics, Steering
from saescope.saes import SAE
from saescope.sinks import many_sinks
from saescope.stack import Stack, as_stack
from saescope.steering.edits import FeatureEdit, check_edits
from saescope.steering.generate import Generation, Sampling, generate
from saescope.steering.prepare import Prepared, prepare
from saescope.steering.units import Controls, IndexedActivations, OneOrEach, Unit
from saescope.verdicts import Effect, Judgement

N_CONCEPT = 20
MOST_PERPLEXED = 20
"""Times the baseline's perplexity above which a steered text counts as garbage."""


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
) -> Steering:
    """Generate unsteered, steered, and with equal changes of random features, all in one batch.

    Edits act at every position of prompt and continuation but position 0, special tokens and
    attention sinks. Units are indexed, else of prompt and `reference` (`ss.check_sae(...).acts`);
    with several SAEs both are lists, and an edit names its SAE.

    Raises:
        ArgumentError: an edit that cannot be, several samples at temperature 0, or a prompt that
            fills the context.
    """
    stack = as_stack(model, sae)
    check_edits(stack.as_given, edits)
    _check(model, tokens, n_samples, temperature)
    ready = prepare(
        stack,
        tokens,
        edits,
        unit=Unit.of(unit, reference, indexed, len(stack.saes)),
        controls=Controls(n_controls, seed),
    )
    rows = generate(
        stack,
        tokens.ids,
        [{}, *[ready.plans] * n_samples, *ready.controls],
        Sampling(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seeds=[seed, *range(seed, seed + n_samples), *[seed] * len(ready.controls)],
        ),
        use_cache=use_cache and not any(each.sequential for each in stack.saes),
    )
    concept = list(concept_tokens) or _promoted(stack, edits)
    return _report(stack, rows, ready, concept, n_samples)


def _report(
    stack: Stack,
    rows: Sequence[Generation],
    ready: Prepared,
    concept: list[int],
    n_samples: int,
) -> Steering:
    model = stack.model
    labels = [
        "baseline",
        *(f"steered {i + 1}" for i in range(n_samples)),
        *(f"control: {_in_words(stack, features)}" for features in ready.drawn),
    ]
    arms = [_arm(model, label, row, set(concept)) for label, row in zip(labels, rows, strict=True)]
    baseline, steered = arms[0], arms[1 : n_samples + 1]
    controls = [
        replace(arm, features=features)
        for arm, features in zip(arms[n_samples + 1 :], ready.drawn, strict=True)
    ]
    n_edited = int(ready.masks.any(0).sum())
    no_concept = (
        "This site is no linear write to the residual stream: name concept_tokens to have "
        "a concept score."
    )
    return Steering(
        baseline=baseline,
        steered=steered,
        controls=controls,
        unit_values=ready.units.values,
        unit_source=ready.units.source,
        concept_tokens=[model.token_text(i) for i in concept],
        verdict=_verdict(baseline, steered, controls),
        n_left_out=ready.masks.shape[1] - n_edited,
        n_sinks=ready.n_sinks,
        warnings=[
            *ready.units.warnings,
            *([] if concept else [no_concept]),
            *many_sinks(ready.n_sinks, n_edited),
        ],
    )


def _in_words(stack: Stack, features: Sequence[FeatureRef]) -> str:
    """Features with the SAE of each where there are several."""
    if len(stack.saes) == 1:
        return f"feature {', '.join(str(ref.feature) for ref in features)}"
    names = {given: stack.name(i) for i, given in enumerate(stack.given)}
    return ", ".join(f"feature {ref.feature} of the {names[ref.sae]}" for ref in features)


def _check(model: LanguageModel, tokens: Tokens, n_samples: int, temperature: float) -> None:
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


def _promoted(stack: Stack, edits: Sequence[FeatureEdit]) -> list[int]:
    """The tokens that the features promote most together, each feature weighing the same; none if a
    site is no linear write."""
    effects = [
        logit_effects(stack.model, sae, torch.tensor(own, device=sae.device))
        for given, sae in enumerate(stack.as_given)
        if (own := [edit.feature for edit in edits if edit.sae == given])
    ]
    known = [each for each in effects if each is not None]
    if len(known) < len(effects):
        return []
    shares = [each / each.norm(dim=-1, keepdim=True).clamp(min=1e-12) for each in known]
    return torch.cat(shares).sum(0).topk(N_CONCEPT).indices.tolist()


def _arm(model: LanguageModel, label: str, row: Generation, concept: set[int]) -> Arm:
    grams = list(zip(row.ids, row.ids[1:], row.ids[2:], strict=False))
    score = sum(i in concept for i in row.ids) / len(row.ids) if concept and row.ids else None
    repetition = 1 - len(set(grams)) / len(grams) if grams else 0.0
    return Arm(
        label,
        model.tokenizer.join(row.ids),
        len(row.ids),
        Metrics(concept_score=score, perplexity=row.perplexity, repetition=repetition, kl=row.kl),
    )


def _verdict(baseline: Arm, steered: Sequence[Arm], controls: Sequence[Arm]) -> Judgement[Effect]:
    if all(arm.text == baseline.text for arm in steered):
        return Judgement(
            Effect.NONE, "the text is the unsteered one; raise the strength, if the mode has one"
        )
    if mean(arm.metrics.repetition for arm in steered) > 0.5:
        why = "the steered text repeats itself; lower the strength"
        return Judgement(Effect.DEGENERATE, why)
    if _perplexity(steered) > MOST_PERPLEXED * max(_perplexity([baseline]), 1.0):
        why = "the unsteered model finds the steered text most unlikely; lower the strength"
        return Judgement(Effect.DEGENERATE, why)
    ours = _mean_score(steered)
    others = max(
        (
            score
            for score in (_mean_score([baseline]), *(_mean_score([arm]) for arm in controls))
            if score is not None
        ),
        default=None,
    )
    if ours is None or others is None:
        why = "the text differs from the unsteered one; no concept score to judge it by"
        return Judgement(Effect.CHANGED, why)
    if not controls:
        why = "set n_controls to compare with random features"
        return Judgement(Effect.UNCONTROLLED, why)
    if ours > others:
        why = "more concept tokens than the unsteered text and every random-feature control"
        return Judgement(Effect.SPECIFIC, why)
    why = (
        "the text changes, but with no more concept tokens than the unsteered text "
        "or a random feature's"
    )
    return Judgement(Effect.UNSPECIFIC, why)


def _perplexity(arms: Sequence[Arm]) -> float:
    return max((each for arm in arms if (each := arm.metrics.perplexity) is not None), default=1.0)


def _mean_score(arms: Sequence[Arm]) -> float | None:
    scores = [each for arm in arms if (each := arm.metrics.concept_score) is not None]
    return mean(scores) if scores else None
