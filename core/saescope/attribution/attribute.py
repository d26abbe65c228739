"""Which features make the model predict a token: attributed cheaply, then measured by ablation,
beside matched controls."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
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
    NamedTarget,
    Tokens,
    counted,
    resolve_position,
)
from saescope.ops import SparseActs
from saescope.records.attribution import Agreement, Attribution, FeatureEffect, Joint, SAEShare
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
    metric: Metric
    position: int
    method: str = "gradient"
    n_controls: int = 0
    """Draws that were asked for."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What every active pair of one SAE is attributed, and what that comes to."""

    acts: SparseActs
    attributions: Float[Tensor, " n"]
    share: SAEShare
    completeness: float | None


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
    named = NamedTarget.of(model, target, against)
    stack = as_stack(model, sae)
    at = resolve_position(position, len(tokens))
    asked = {"method": method, "n_controls": n_controls if validate else 0}
    question = replace(_ask(stack, tokens, named, at, include_special), **asked)
    parts = _score(question)
    chosen = _strongest(parts, k, sign)
    if validate and chosen:
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
    named: NamedTarget,
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
    metric = Metric(named.on(logits), position - ids.shape[1])
    return _Question(stack, tokens, ids, usual, masks, sites, logits, metric, position)


def _score(question: _Question) -> list[_Part]:
    q, parts = question, list[_Part]()
    for i, (gradient, span) in enumerate(zip(*_gradients(question), strict=True)):
        sae, site, mask = q.stack.saes[i], q.sites[i], q.masks[i]
        acts = site.acts.select(mask[site.acts.positions])
        attributions = sae.contributions(acts, gradient, like=site.x).double()
        error = float((site.error.double() * gradient)[mask].sum())
        whole = float(attributions.abs().sum()) + abs(error)
        share = SAEShare(
            sae=q.stack.given[i],
            total=len(attributions),
            error_attribution=error,
            error_share=abs(error) / whole if whole else None,
            n_tokens=int(mask.sum()),
            n_left_out=int((~mask).sum()),
            n_sinks=int(q.usual.sum() - mask.sum()),
        )
        # Where no position is counted, clean and baseline are one run: their difference is
        # rounding.
        explains = bool(span) and bool(mask.any())
        completeness = (float(attributions.sum()) + error) / span if explains else None
        parts.append(_Part(acts, attributions, share, completeness))
    return parts


def _report(
    question: _Question,
    parts: Sequence[_Part],
    chosen: Sequence[tuple[int, int]],
    effects: Sequence[float | None],
    joint: Joint | None,
) -> Attribution:
    q, model = question, question.stack.model
    only = parts[0] if len(parts) == 1 else None
    counts = torch.stack(q.masks).any(0)
    target, against = q.metric.target.read(model, q.logits)
    features = [
        _effect(q, parts[which], i, effect)
        for (which, i), effect in zip(chosen, effects, strict=True)
    ]
    measured = [
        (row.attribution, row.measured_effect)
        for row in features
        if row.measured_effect is not None
    ]
    return Attribution(
        target=target,
        against=against,
        position=q.position,
        features=features,
        total=sum(part.share.total for part in parts),
        error_attribution=only and only.share.error_attribution,
        error_share=only and only.share.error_share,
        agreement=Agreement(
            pearson([a for a, _ in measured], [m for _, m in measured]),
            len(features) if joint else 0,
        ),
        joint=joint,
        completeness=only and only.completeness,
        n_tokens=int(counts.sum()),
        n_left_out=int((~counts).sum()),
        n_sinks=int(q.usual.sum() - counts.sum()),
        left_out=METHODS[q.method],
        by_sae=sorted((part.share for part in parts), key=lambda share: share.sae),
        warnings=_warnings(question, parts, len(chosen), joint),
    )


def _effect(question: _Question, part: _Part, i: int, measured: float | None) -> FeatureEffect:
    """Pair `i` of one SAE's."""
    pos = int(part.acts.positions[i])
    return FeatureEffect(
        sae=part.share.sae,
        feature=int(part.acts.features[i]),
        pos=pos,
        token=question.tokens.strings[pos],
        activation=float(part.acts.values[i]),
        attribution=float(part.attributions[i]),
        measured_effect=measured,
    )


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
    moved = [g.to(site.x) for g, site in zip(gradients, q.sites, strict=True)]
    return moved, [0.0] * len(moved)


def _strongest(parts: Sequence[_Part], k: int, sign: str) -> list[tuple[int, int]]:
    """The `k` pairs of all SAEs together: each one's SAE, and its place among that SAE's own."""
    # [all pairs], SAE after SAE: starts[i] is where those of SAE i begin.
    attributions = torch.cat([part.attributions for part in parts])
    starts = [0, *accumulate(part.share.total for part in parts)]
    strength = {"any": attributions.abs(), "positive": attributions, "negative": -attributions}[
        sign
    ]
    order = strength.sort(descending=True, stable=True).indices
    chosen = order[strength[order] > 0][:k].tolist()
    return [(which := bisect_right(starts, i) - 1, i - starts[which]) for i in chosen]


def _validate(
    question: _Question,
    parts: Sequence[_Part],
    chosen: Sequence[tuple[int, int]],
    seed: int,
) -> tuple[list[float], Joint]:
    q, entries_of = question, partial(torch.tensor, device=parts[0].attributions.device)
    together = {
        which: entries_of([i for w, i in chosen if w == which])
        for which in sorted({which for which, _ in chosen})
    }
    # One batch of runs: each listed pair alone, all of them together, then the controls.
    draws = _draw(question, parts, together, seed)
    groups = [*({which: entries_of([i])} for which, i in chosen), together, *draws]
    acts = [part.acts for part in parts]
    measured = measure_ablations(
        q.stack,
        q.ids,
        q.sites,
        [
            {w: Pairs(acts[w].features[rows], acts[w].positions[rows]) for w, rows in group.items()}
            for group in groups
        ],
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


def _warnings(
    question: _Question,
    parts: Sequence[_Part],
    n_listed: int,
    joint: Joint | None,
) -> list[str]:
    n_pairs, several = sum(part.share.total for part in parts), len(parts) > 1
    whose = [f"{question.stack.name(i)}: " if several else "" for i in range(len(parts))]
    if not any(part.share.n_tokens for part in parts):
        return [
            "No position is left: position 0 and special tokens are left out unless "
            "include_special=True."
        ]
    if not n_pairs:
        return ["No feature fires at the positions considered."]
    warnings = [OVERLAP] if several else []
    for name, part in zip(whose, parts, strict=True):
        sinks = many_sinks(part.share.n_sinks, part.share.n_tokens)
        warnings += [f"{name}{warning}" for warning in sinks]
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
