"""Which features make the model predict a token: attributed cheaply, then measured by ablation, beside matched controls."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev

from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.attribution.ablation import Pairs, draw_controls, measure_ablations
from saescope.attribution.gradients import Metric, direct_gradient, path_gradient, site_gradient
from saescope.errors import ArgumentError
from saescope.metrics import pearson
from saescope.models import (
    LanguageModel,
    TargetLogit,
    Tokens,
    counted,
    read_token,
    resolve_position,
    token_pair,
)
from saescope.ops import SparseActs
from saescope.saes import SAE
from saescope.sinks import many_sinks
from saescope.splice import SiteRecord, read_site

METHODS = {
    "gradient": "Everything above the site is taken as linear at the clean run: saturation and interactions between features are not seen.",
    "direct": "Only the path straight to the logits at this position is seen, with the final norm's scale held fixed: not what later "
    "attention and MLP layers make of a feature, nor features at other positions.",
    "integrated_gradients": "The path runs from no features and no error to the clean run in a straight line: single ablations may differ.",
}

SIGNS = ("any", "positive", "negative")
MOST_INCOMPLETE = 0.1
"""How far completeness may be from 1 before a warning."""


@dataclass(frozen=True, slots=True)
class FeatureEffect:
    """One feature at one position: what it adds to the logit, and what is lost when it is ablated."""

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


@dataclass(frozen=True, slots=True)
class Attribution:
    """An explanation of one logit (or difference of two) with its evidence."""

    target: TargetLogit
    against: TargetLogit | None
    position: int
    features: list[FeatureEffect]
    total: int
    """Active (feature, position) pairs that were considered."""
    error_attribution: float
    error_share: float | None
    agreement_pearson: float | None
    agreement_n: int
    joint: Joint | None
    completeness: float | None
    n_tokens: int
    n_left_out: int
    n_sinks: int
    """Of those left out, the positions whose norm at the site is out of proportion."""
    left_out: str
    warnings: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class _Question:
    """One logit to explain, and everything that the clean run says about it."""

    model: LanguageModel
    sae: SAE
    tokens: Tokens
    ids: Int[Tensor, "1 n_pos"]
    mask: Bool[Tensor, " n_pos"]
    n_sinks: int
    site: SiteRecord
    logits: Float[Tensor, " d_vocab"]
    target: int
    against: int | None
    position: int

    @property
    def metric(self) -> Metric:
        return Metric(self.target, self.against, self.position - self.ids.shape[1])


@dataclass(frozen=True, slots=True)
class _Scores:
    """What every active pair, and the SAE's error, are attributed."""

    acts: SparseActs
    attributions: Float[Tensor, " n"]
    error: float
    completeness: float | None


def attribute(
    model: LanguageModel,
    sae: SAE,
    tokens: Tokens,
    *,
    target: int | str | None = None,
    against: int | str | None = None,
    position: int = -1,
    method: str = "gradient",
    k: int = 10,
    sign: str = "any",
    validate: bool = True,
    n_controls: int = 5,
    seed: int = 0,
    include_special: bool = False,
) -> Attribution:
    """The `k` (feature, position) pairs that add most to the target's logit at `position` (to its difference to `against`).

    attribution_i = f_i (W_dec_i . g): g is d logit / d site on the clean run ("gradient"), through the frozen final norm only
    ("direct"), or its mean along the path from zero ("integrated_gradients"). Most means in absolute value, or with `sign` "positive" or
    "negative" only what speaks for the target or against it. With `validate` each pair, all of them together and `n_controls` matched
    draws are ablated.

    Raises:
        ArgumentError: an unknown method or position, or "direct" where the site does not write to the residual stream.
    """
    for name, value, allowed in (("method", method, tuple(METHODS)), ("sign", sign, SIGNS)):
        if value not in allowed:
            raise ArgumentError(
                f"{name} {value!r} is unknown.",
                code="INVALID_CHOICE",
                field=name,
                got=value,
                allowed=allowed,
            )
    pair = token_pair(model, target, against)
    question = _ask(
        model, sae, tokens, *pair, resolve_position(position, len(tokens)), include_special
    )
    scores = _score(question, method)
    chosen = _strongest(scores.attributions, k, sign)
    if validate and len(chosen):
        effects, joint = _validate(question, scores.acts, chosen, n_controls, seed)
    else:
        effects, joint = [None] * len(chosen), None
    return _report(question, scores, chosen, effects, joint, method, n_controls if validate else 0)


def _ask(
    model: LanguageModel,
    sae: SAE,
    tokens: Tokens,
    target: int | None,
    against: int | None,
    position: int,
    include_special: bool,
) -> _Question:
    ids = model.batch(tokens.ids)
    logits = model.forward(ids)[0][0, position]
    site = read_site(model, sae, ids)
    usual = counted(tokens, include_special=include_special)
    mask = counted(tokens, include_special=include_special, sinks=site.sinks).to(model.device)
    wanted = int(logits.argmax()) if target is None else target
    n_sinks = int(usual.sum() - mask.sum())
    return _Question(
        model, sae, tokens, ids, mask, n_sinks, site, logits, wanted, against, position
    )


def _score(question: _Question, method: str) -> _Scores:
    q, site = question, question.site
    gradient, span = _gradient(question, method)
    acts = site.acts.select(q.mask[site.acts.positions])
    attributions = q.sae.contributions(acts, gradient, like=site.x).double()
    error = float((site.error.double() * gradient)[q.mask].sum())
    # Where no position is counted, clean and baseline are one run: their difference is rounding.
    explains = bool(span) and bool(q.mask.any())
    completeness = (float(attributions.sum()) + error) / span if explains else None
    return _Scores(acts, attributions, error, completeness)


def _report(
    question: _Question,
    scores: _Scores,
    chosen: Tensor,
    effects: Sequence[float | None],
    joint: Joint | None,
    method: str,
    n_controls: int,
) -> Attribution:
    q, acts, attributions = question, scores.acts, scores.attributions
    strings, positions = q.tokens.strings, acts.positions
    features = [
        FeatureEffect(
            int(acts.features[i]),
            pos := int(positions[i]),
            strings[pos],
            float(acts.values[i]),
            float(attributions[i]),
            effect,
        )
        for i, effect in zip(chosen.tolist(), effects, strict=True)
    ]
    total = float(attributions.abs().sum()) + abs(scores.error)
    return Attribution(
        target=read_token(q.model, q.logits, q.target),
        against=None if q.against is None else read_token(q.model, q.logits, q.against),
        position=q.position,
        features=features,
        total=len(attributions),
        error_attribution=scores.error,
        error_share=abs(scores.error) / total if total else None,
        agreement_pearson=_agreement(features),
        agreement_n=len(features) if joint else 0,
        joint=joint,
        completeness=scores.completeness,
        n_tokens=int(q.mask.sum()),
        n_left_out=int((~q.mask).sum()),
        n_sinks=q.n_sinks,
        left_out=METHODS[method],
        warnings=_warnings(question, scores, len(chosen), joint, n_controls),
    )


def _gradient(question: _Question, method: str) -> tuple[Float[Tensor, "n_pos d_out"], float]:
    q, site = question, question.site
    if method == "direct":
        return direct_gradient(q.model, q.sae, q.ids, q.metric).to(site.x), 0.0
    if method == "integrated_gradients":
        return path_gradient(q.model, q.sae, q.ids, q.metric, site, q.mask)
    return site_gradient(q.model, q.sae, q.ids, q.metric)[0][0].to(site.x), 0.0


def _strongest(attributions: Float[Tensor, " n"], k: int, sign: str) -> Int[Tensor, " k"]:
    strength = {"any": attributions.abs(), "positive": attributions, "negative": -attributions}[
        sign
    ]
    order = strength.sort(descending=True, stable=True).indices
    return order[strength[order] > 0][:k]


def _validate(
    question: _Question, acts: SparseActs, chosen: Int[Tensor, " k"], n_controls: int, seed: int
) -> tuple[list[float], Joint]:
    positions = acts.positions

    def pairs(entries: Tensor) -> Pairs:
        return Pairs(acts.values[entries], acts.features[entries], positions[entries])

    draws = draw_controls(
        acts, chosen, writes=question.sae.writes, n_controls=n_controls, seed=seed
    )
    groups = [
        *(pairs(entry) for entry in chosen.split(1)),
        pairs(chosen),
        *(pairs(draw) for draw in draws),
    ]
    q = question
    measured = measure_ablations(
        q.model,
        q.sae,
        q.ids,
        q.site,
        groups,
        target=q.target,
        against=q.against,
        position=q.position,
    )
    k, controls = len(chosen), measured[len(chosen) + 1 :]
    joint = Joint(
        measured[k],
        mean(controls) if controls else None,
        stdev(controls) if len(controls) > 1 else None,
        len(controls),
    )
    return measured[:k], joint


def _agreement(features: list[FeatureEffect]) -> float | None:
    measured = [
        (f.attribution, f.measured_effect) for f in features if f.measured_effect is not None
    ]
    return pearson([a for a, _ in measured], [m for _, m in measured])


def _warnings(
    question: _Question, scores: _Scores, n_listed: int, joint: Joint | None, n_controls: int
) -> list[str]:
    n_pairs = len(scores.attributions)
    if not bool(question.mask.any()):
        return [
            "No position is left: position 0 and special tokens are left out unless include_special=true."
        ]
    if not n_pairs:
        return ["No feature fires at the positions considered."]
    warnings = many_sinks(question.n_sinks, int(question.mask.sum()))
    if not bool(scores.attributions.any()):
        warnings.append(
            "Nothing that is counted comes before this prediction: choose a later position."
        )
    if joint and n_controls and n_pairs < 3 * n_listed:
        warnings.append(
            f"Only {n_pairs - n_listed} other active pairs to draw controls from: the draws are much alike. Lower k."
        )
    if scores.completeness is not None and abs(scores.completeness - 1) > MOST_INCOMPLETE:
        share = f"{scores.completeness:.2f}"
        warnings.append(
            f"The attributions add up to {share} of the difference that they should explain: do not rely on them."
        )
    return warnings


__all__ = ["METHODS", "Attribution", "FeatureEffect", "Joint", "attribute"]
