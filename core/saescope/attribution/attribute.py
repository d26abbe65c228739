"""Which features make the model predict a token: attributed cheaply, then measured by ablation,
beside matched controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.attribution.ablation import Pairs, draw_controls, measure_ablations
from saescope.attribution.gradients import (
    Metric,
    direct_gradients,
    path_gradient,
    site_gradients,
)
from saescope.errors import ArgumentError
from saescope.metrics import pearson
from saescope.models import (
    LanguageModel,
    Tokens,
    counted,
    read_token,
    resolve_position,
    token_pair,
)
from saescope.ops import SparseActs
from saescope.records.attribution import Attribution, FeatureEffect, Joint, SAEShare
from saescope.saes import SAE
from saescope.sinks import many_sinks
from saescope.splice import SiteRecord
from saescope.stack import Stack, as_stack

METHODS = {
    "gradient": "Everything above the site is taken as linear at the clean run: saturation and "
    "interactions between features are not seen.",
    "direct": "Only the path straight to the logits at this position is seen, with the final "
    "norm's scale held fixed: not what later "
    "attention and MLP layers make of a feature, nor features at other positions.",
    "integrated_gradients": "The path runs from no features and no error to the clean run in a "
    "straight line: "
    "single ablations may differ.",
}

SIGNS = ("any", "positive", "negative")
OVERLAP = (
    "Effects of SAEs in series overlap: what a feature does through features of an SAE "
    "above it is counted there once more. Do not add "
    "them up over SAEs."
)
MOST_INCOMPLETE = 0.1
"""How far completeness may be from 1 before a warning."""


@dataclass(frozen=True, slots=True)
class _Question:
    """One logit to explain, and everything that the clean run says about it; by SAE in the order of
    the stack."""

    stack: Stack
    tokens: Tokens
    ids: Int[Tensor, "1 n_pos"]
    usual: Bool[Tensor, " n_pos"]
    """Positions that count before sinks are left out."""
    masks: list[Bool[Tensor, " n_pos"]]
    sites: list[SiteRecord]
    logits: Float[Tensor, " d_vocab"]
    target: int
    against: int | None
    position: int
    method: str = "gradient"
    n_controls: int = 0
    """Draws that were asked for."""

    @property
    def model(self) -> LanguageModel:
        return self.stack.model

    @property
    def mask(self) -> Bool[Tensor, " n_pos"]:
        """Positions that count for at least one SAE."""
        return torch.stack(self.masks).any(0)

    @property
    def metric(self) -> Metric:
        return Metric(self.target, self.against, self.position - self.ids.shape[1])

    def n_sinks(self, mask: Bool[Tensor, " n_pos"]) -> int:
        return int(self.usual.sum() - mask.sum())


@dataclass(frozen=True, slots=True)
class _Part:
    """What every active pair of one SAE, and its error, are attributed."""

    acts: SparseActs
    attributions: Float[Tensor, " n"]
    error: float
    completeness: float | None

    @property
    def error_share(self) -> float | None:
        total = float(self.attributions.abs().sum()) + abs(self.error)
        return abs(self.error) / total if total else None


def attribute(
    model: LanguageModel,
    sae: SAE | Sequence[SAE],
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
    """The `k` (feature, position) pairs, of one SAE or of several, that add most to the target's
    logit at `position` (to its difference to `against`).

    attribution_i = f_i (W_dec_i . g): g is d logit / d site on the clean run ("gradient"), through
    the frozen final norm only ("direct"), or its mean along the path from zero
    ("integrated_gradients"). Most means in absolute value, or with `sign` "positive" or "negative"
    only what speaks for the target or against it. With `validate` each pair, all of them together
    and `n_controls` matched draws are ablated.

    With several SAEs a gradient is total: a pair's attribution holds what it does through the pairs
    above it, so attributions of SAEs in series overlap. All pairs together are ablated from the
    bottom up, each upper one set to zero in the run that lacks the lower ones.

    Raises:
        ArgumentError: an unknown method or position, or "direct" where a site does not write to the
            residual stream.
        MismatchError: two SAEs write the same site.
    """
    _check(method, sign)
    pair = token_pair(model, target, against)
    stack = as_stack(model, sae)
    at = resolve_position(position, len(tokens))
    asked = {"method": method, "n_controls": n_controls if validate else 0}
    question = replace(_ask(stack, tokens, *pair, at, include_special), **asked)
    parts = _score(question)
    chosen = _strongest(torch.cat([part.attributions for part in parts]), k, sign)
    if validate and len(chosen):
        effects, joint = _validate(question, parts, chosen, seed)
    else:
        effects, joint = [None] * len(chosen), None
    return _report(question, parts, chosen, effects, joint)


def _check(method: str, sign: str) -> None:
    for name, value, allowed in (("method", method, tuple(METHODS)), ("sign", sign, SIGNS)):
        if value not in allowed:
            raise ArgumentError(
                f"{name} {value!r} is unknown.",
                code="INVALID_CHOICE",
                field=name,
                got=value,
                allowed=allowed,
            )


def _ask(
    stack: Stack,
    tokens: Tokens,
    target: int | None,
    against: int | None,
    position: int,
    include_special: bool,
) -> _Question:
    model = stack.model
    ids = model.batch(tokens.ids)
    logits = model.forward(ids)[0][0, position]
    sites = stack.read(ids)
    usual, *masks = (
        counted(tokens, include_special=include_special, sinks=sinks).to(model.device)
        for sinks in (None, *(site.sinks for site in sites))
    )
    wanted = int(logits.argmax()) if target is None else target
    return _Question(stack, tokens, ids, usual, masks, sites, logits, wanted, against, position)


def _score(question: _Question) -> list[_Part]:
    q = question
    gradients, spans = _gradients(question)
    return [
        _part(sae, site, mask, gradient, span)
        for sae, site, mask, gradient, span in zip(
            q.stack.saes, q.sites, q.masks, gradients, spans, strict=True
        )
    ]


def _part(sae: SAE, site: SiteRecord, mask: Tensor, gradient: Tensor, span: float) -> _Part:
    acts = site.acts.select(mask[site.acts.positions])
    attributions = sae.contributions(acts, gradient, like=site.x).double()
    error = float((site.error.double() * gradient)[mask].sum())
    # Where no position is counted, clean and baseline are one run: their difference is rounding.
    explains = bool(span) and bool(mask.any())
    completeness = (float(attributions.sum()) + error) / span if explains else None
    return _Part(acts, attributions, error, completeness)


def _report(
    question: _Question,
    parts: Sequence[_Part],
    chosen: Tensor,
    effects: Sequence[float | None],
    joint: Joint | None,
) -> Attribution:
    q = question
    only = parts[0] if len(parts) == 1 else None
    features = [
        _effect(q, parts, i, effect) for i, effect in zip(chosen.tolist(), effects, strict=True)
    ]
    return Attribution(
        target=read_token(q.model, q.logits, q.target),
        against=None if q.against is None else read_token(q.model, q.logits, q.against),
        position=q.position,
        features=features,
        total=sum(len(part.attributions) for part in parts),
        error_attribution=only and only.error,
        error_share=only and only.error_share,
        agreement_pearson=_agreement(features),
        agreement_n=len(features) if joint else 0,
        joint=joint,
        completeness=only and only.completeness,
        n_tokens=int(q.mask.sum()),
        n_left_out=int((~q.mask).sum()),
        n_sinks=q.n_sinks(q.mask),
        left_out=METHODS[q.method],
        shares=_shares(question, parts),
        warnings=_warnings(question, parts, len(chosen), joint),
    )


def _effect(
    question: _Question, parts: Sequence[_Part], i: int, measured: float | None
) -> FeatureEffect:
    """The pair `i` of all SAEs' pairs in a row."""
    which, i = _locate(parts, i)
    acts = parts[which].acts
    pos = int(acts.positions[i])
    return FeatureEffect(
        question.stack.given[which],
        int(acts.features[i]),
        pos,
        question.tokens.strings[pos],
        float(acts.values[i]),
        float(parts[which].attributions[i]),
        measured,
    )


def _locate(parts: Sequence[_Part], i: int) -> tuple[int, int]:
    """The SAE of pair `i` of all SAEs' pairs in a row, and its place among that SAE's own."""
    for which, part in enumerate(parts):
        if i < len(part.attributions):
            return which, i
        i -= len(part.attributions)
    raise IndexError(i)


def _shares(question: _Question, parts: Sequence[_Part]) -> list[SAEShare]:
    """By SAE, in the order in which they were given."""
    shares = [
        SAEShare(
            sae=given,
            total=len(part.attributions),
            error_attribution=part.error,
            error_share=part.error_share,
            n_tokens=int(mask.sum()),
            n_left_out=int((~mask).sum()),
            n_sinks=question.n_sinks(mask),
        )
        for given, part, mask in zip(question.stack.given, parts, question.masks, strict=True)
    ]
    return sorted(shares, key=lambda share: share.sae)


def _gradients(
    question: _Question,
) -> tuple[list[Float[Tensor, "n_pos d_out"]], list[float]]:
    q, stack = question, question.stack
    if q.method == "integrated_gradients":
        paths = [
            path_gradient(stack.alone(i), q.ids, q.metric, q.sites[i], q.masks[i])
            for i in range(len(stack.saes))
        ]
        return [gradient for gradient, _ in paths], [span for _, span in paths]
    if q.method == "direct":
        gradients = direct_gradients(stack, q.ids, q.metric)
    else:
        gradients = [rows[0] for rows in site_gradients(stack, q.ids, q.metric)[0]]
    # No run without the features was made: there is no difference for them to add up to.
    found = [g.to(site.x) for g, site in zip(gradients, q.sites, strict=True)]
    return found, [0.0] * len(found)


def _strongest(attributions: Float[Tensor, " n"], k: int, sign: str) -> Int[Tensor, " k"]:
    strength = {"any": attributions.abs(), "positive": attributions, "negative": -attributions}[
        sign
    ]
    order = strength.sort(descending=True, stable=True).indices
    return order[strength[order] > 0][:k]


def _validate(
    question: _Question,
    parts: Sequence[_Part],
    chosen: Int[Tensor, " k"],
    seed: int,
) -> tuple[list[float], Joint]:
    q, located = question, [_locate(parts, i) for i in chosen.tolist()]
    together = {
        which: chosen.new_tensor([i for w, i in located if w == which])
        for which in sorted({which for which, _ in located})
    }
    # One batch of runs: each listed pair alone, all of them together, then the controls.
    draws = _draw(question, parts, together, seed)
    groups = [*({which: chosen.new_tensor([i])} for which, i in located), together, *draws]
    measured = measure_ablations(
        q.stack,
        q.ids,
        q.sites,
        [{w: _pairs(parts[w].acts, entries) for w, entries in group.items()} for group in groups],
        q.metric,
    )
    # measured: [k alone, 1 together, the controls].
    k, controls = len(chosen), measured[len(chosen) + 1 :]
    joint = Joint(
        measured[k],
        mean(controls) if controls else None,
        stdev(controls) if len(controls) > 1 else None,
        len(controls),
    )
    return measured[:k], joint


def _draw(
    question: _Question,
    parts: Sequence[_Part],
    together: Mapping[int, Tensor],
    seed: int,
) -> list[dict[int, Tensor]]:
    """Controls for all listed pairs: of each SAE as many other pairs as are listed of it."""
    n_controls = question.n_controls
    drawn = {
        which: draw_controls(
            parts[which].acts,
            entries,
            writes=question.stack.saes[which].writes,
            n_controls=n_controls,
            seed=seed,
        )
        for which, entries in together.items()
    }
    draws = [{which: of[i] for which, of in drawn.items() if of} for i in range(n_controls)]
    return [draw for draw in draws if draw]


def _pairs(acts: SparseActs, entries: Tensor) -> Pairs:
    return Pairs(acts.features[entries], acts.positions[entries])


def _agreement(features: list[FeatureEffect]) -> float | None:
    measured = [
        (f.attribution, f.measured_effect) for f in features if f.measured_effect is not None
    ]
    return pearson([a for a, _ in measured], [m for _, m in measured])


def _warnings(
    question: _Question,
    parts: Sequence[_Part],
    n_listed: int,
    joint: Joint | None,
) -> list[str]:
    n_pairs, stack, several = (
        sum(len(part.attributions) for part in parts),
        question.stack,
        len(parts) > 1,
    )
    whose = [f"{stack.name(i)}: " if several else "" for i in range(len(parts))]
    if not bool(question.mask.any()):
        return [
            "No position is left: position 0 and special tokens are left out unless "
            "include_special=True."
        ]
    if not n_pairs:
        return ["No feature fires at the positions considered."]
    warnings = [OVERLAP] if several else []
    for name, mask in zip(whose, question.masks, strict=True):
        warnings += [
            f"{name}{said}" for said in many_sinks(question.n_sinks(mask), int(mask.sum()))
        ]
    if not any(bool(part.attributions.any()) for part in parts):
        warnings.append(
            "Nothing that is counted comes before this prediction: choose a later position."
        )
    if joint and question.n_controls and n_pairs < 3 * n_listed:
        warnings.append(
            f"Only {n_pairs - n_listed} other active pairs to draw controls from: the "
            "draws are much alike. Lower k."
        )
    return warnings + [
        f"{name}The attributions add up to {part.completeness:.2f} of the difference "
        "that they should explain: do not rely on them."
        for name, part in zip(whose, parts, strict=True)
        if part.completeness is not None and abs(part.completeness - 1) > MOST_INCOMPLETE
    ]


__all__ = ["METHODS", "Attribution", "FeatureEffect", "Joint", "SAEShare", "attribute"]
