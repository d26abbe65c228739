"""Steering with features: what changes, and whether it is more than random features do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.effects import logit_effects
from saescope.errors import ArgumentError
from saescope.models import LanguageModel, Tokens, counted
from saescope.saes import SAE
from saescope.splice import read_site
from saescope.steering.edits import FeatureEdit, check_edits, control_plan, make_plan
from saescope.steering.generate import Generation, generate
from saescope.steering.intervene import known_maxima
from saescope.steering.units import draw_features, resolve_units

N_CONCEPT = 20


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


@dataclass(frozen=True, slots=True)
class Steering:
    """Baseline, steered samples and controls of one prompt."""

    baseline: Arm
    steered: list[Arm]
    controls: list[Arm]
    unit_values: list[float]
    unit_source: str
    concept_tokens: list[str]
    verdict: str
    warnings: list[str] = field(default_factory=list[str])


def steer(
    model: LanguageModel,
    sae: SAE,
    tokens: Tokens,
    edits: Sequence[FeatureEdit],
    *,
    unit: str = "max",
    reference: Float[Tensor, " d_sae"] | None = None,
    max_new_tokens: int = 48,
    n_samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    n_controls: int = 2,
    concept_tokens: Sequence[int] = (),
    use_cache: bool = True,
) -> Steering:
    """Generate from the prompt unsteered, steered, and with changes of equal norm along random features, all in one batch.

    Edits act at every position of prompt and continuation but position 0 and special tokens. `reference` are maxima on another text.

    Raises:
        ArgumentError: an edit that cannot be, several samples at temperature 0, or a prompt that fills the context.
    """
    _check(model, sae, tokens, edits, n_samples, temperature)
    masks = torch.stack([counted(tokens, edit.positions) for edit in edits]).to(model.device)
    maxima = known_maxima(read_site(model, sae, model.batch(tokens.ids)), counted(tokens).to(model.device), reference)
    units = resolve_units(edits, maxima, unit)
    plan = make_plan(sae, edits, units.values, masks)
    drawn = draw_features(edits, maxima, n_draws=n_controls, seed=seed)
    plans = [None, *[plan] * n_samples, *(control_plan(sae, plan, features) for features in drawn)]
    seeds = [seed, *range(seed, seed + n_samples), *[seed] * len(drawn)]
    rows = generate(
        model,
        sae,
        tokens.ids,
        plans,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seeds=seeds,
        use_cache=use_cache and not sae.sequential,
    )
    concept = list(concept_tokens) or _promoted(model, sae, edits)
    labels = ["baseline", *(f"steered {i + 1}" for i in range(n_samples)), *(f"control: feature {_listed(features)}" for features in drawn)]
    arms = [_arm(model, label, row, set(concept)) for label, row in zip(labels, rows, strict=True)]
    steered, controls = arms[1 : n_samples + 1], arms[n_samples + 1 :]
    shown = [model.token_text(i) for i in concept]
    warnings = [
        *units.warnings,
        *([] if concept else ["This site is no linear write to the residual stream: name concept_tokens to have a concept score."]),
    ]
    return Steering(arms[0], steered, controls, units.values, units.source, shown, _verdict(arms[0], steered, controls), warnings)


def _check(model: LanguageModel, sae: SAE, tokens: Tokens, edits: Sequence[FeatureEdit], n_samples: int, temperature: float) -> None:
    check_edits(sae, edits)
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
            f"The prompt has {len(tokens)} tokens: nothing can follow in a context of {model.n_ctx}.",
            code="PROMPT_TOO_LONG",
            field="prompt",
            got=len(tokens),
            allowed=model.n_ctx - 1,
            hint="Shorten the prompt.",
        )


def _promoted(model: LanguageModel, sae: SAE, edits: Sequence[FeatureEdit]) -> list[int]:
    """The tokens that the features promote most together, each feature weighing the same."""
    effects = logit_effects(model, sae, torch.tensor([edit.feature for edit in edits], device=sae.device))
    return [] if effects is None else (effects / effects.norm(dim=-1, keepdim=True)).sum(0).topk(N_CONCEPT).indices.tolist()


def _arm(model: LanguageModel, label: str, row: Generation, concept: set[int]) -> Arm:
    grams = list(zip(row.ids, row.ids[1:], row.ids[2:], strict=False))
    score = sum(i in concept for i in row.ids) / len(row.ids) if concept and row.ids else None
    repetition = 1 - len(set(grams)) / len(grams) if grams else 0.0
    return Arm(label, model.tokenizer.join(row.ids), len(row.ids), score, row.perplexity, repetition, row.kl)


def _verdict(baseline: Arm, steered: Sequence[Arm], controls: Sequence[Arm]) -> str:
    if all(arm.text == baseline.text for arm in steered):
        return "no visible effect: the text is the unsteered one; raise the strength"
    if mean(arm.repetition for arm in steered) > 0.5:
        return "degenerate: the steered text repeats itself; lower the strength"
    ours = _mean_score(steered)
    others = max(
        (score for score in (_mean_score([baseline]), *(_mean_score([arm]) for arm in controls)) if score is not None), default=None
    )
    if ours is None or others is None:
        return "changed: the text differs from the unsteered one; no concept score to judge it by"
    if not controls:
        return "changed, not controlled: set n_controls to compare with random features"
    if ours > others:
        return "specific: more concept tokens than the unsteered text and every random-feature control"
    return "unspecific: the text changes, but with no more concept tokens than the unsteered text or a random feature's"


def _mean_score(arms: Sequence[Arm]) -> float | None:
    scores = [arm.concept_score for arm in arms if arm.concept_score is not None]
    return mean(scores) if scores else None


def _listed(features: Sequence[int]) -> str:
    return ", ".join(str(i) for i in features)
