"""Which features make the model predict a token: attributed cheaply, then measured by ablation,
beside matched controls."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from saescope.attribution.ablation import Ablations, Pair, measure_pairs, strongest
from saescope.attribution.question import Part, Question, ask, score
from saescope.controls import ENOUGH
from saescope.errors import ArgumentError
from saescope.finite import finite_together
from saescope.models import (
    LanguageModel,
    NamedTarget,
    Tokens,
    resolve_position,
)
from saescope.records.attribution import Agreement, Attribution, FeatureEffect, Joint, SAEShare
from saescope.saes import SAE
from saescope.sinks import many_sinks
from saescope.stack import as_stack

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


def attribute(
    model: LanguageModel,
    sae: SAE | Sequence[SAE],
    tokens: Tokens,
    *,
    target: int | str | None = None,
    against: int | str | None = None,
    position: int = -1,
    measure: str = "logprob",
    method: str = "gradient",
    k: int = 10,
    sign: str = "any",
    validate: bool = True,
    n_controls: int = ENOUGH,
    seed: int = 0,
    include_special: bool = False,
) -> Attribution:
    """The `k` (feature, position) pairs, of one SAE or of several, that add most to the target's
    log-probability at `position` (`measure="logit"`: to its logit; with `against`: to its logit's
    difference to that token's).

    attribution_i = f_i (W_dec_i . g): g is d measure / d site on the clean run ("gradient"),
    through the frozen final norm only ("direct"), or its mean along the path from zero
    ("integrated_gradients"). Most means in absolute value, or with `sign` "positive" or "negative"
    only what speaks for the target or against it. With `validate` each pair, all of them together,
    `n_controls` matched draws, a random sample of pairs and each SAE's error are ablated.

    With several SAEs a gradient is total: a pair's attribution holds what it does through the pairs
    above it, so attributions of SAEs in series overlap. All pairs together are ablated from the
    bottom up, each upper one set to zero in the run that lacks the lower ones.

    Raises:
        ArgumentError: an unknown measure, method or position, or "direct" where a site does not
            write to the residual stream.
        MismatchError: two SAEs write the same site.
    """
    _check(method, sign)
    with finite_together():
        question = ask(
            as_stack(model, sae),
            tokens,
            NamedTarget.of(model, target, against, measure),
            position=resolve_position(position, len(tokens)),
            include_special=include_special,
        )
        question = replace(question, method=method, n_controls=n_controls if validate else 0)
        parts = score(question)
        chosen = strongest(parts, k, sign)
        measured = measure_pairs(question, parts, chosen, seed) if validate and chosen else None
    return _report(question, parts, chosen, measured)


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


def _report(
    question: Question,
    parts: Sequence[Part],
    chosen: Sequence[Pair],
    measured: Ablations | None,
) -> Attribution:
    q = question
    wanted, other = q.metric.target.read(q.stack.model, q.logits)
    alone = measured.alone if measured else [None] * len(chosen)
    effects = measured.errors if measured else [None] * len(parts)
    shares = [
        replace(part.share, error_effect=effect)
        for part, effect in zip(parts, effects, strict=True)
    ]
    only = shares[0] if len(shares) == 1 else None
    counts = torch.stack(q.masks).any(0)
    return Attribution(
        target=wanted,
        against=other,
        position=q.position,
        measure=q.metric.target.quantity,
        features=[
            _effect(q, parts[which], i, effect)
            for (which, i), effect in zip(chosen, alone, strict=True)
        ],
        total=sum(share.total for share in shares),
        by_sae=sorted(shares, key=lambda share: share.sae),
        error_attribution=only and only.error_attribution,
        error_share=only and only.error_share,
        error_positions=only.error_positions if only else [],
        features_attribution=only and only.features_attribution,
        error_effect=only and only.error_effect,
        agreement=measured.agreement if measured else Agreement(None, 0, None, 0),
        joint=measured and measured.joint,
        by_sign=measured.by_sign if measured else [],
        completeness=only and parts[0].completeness,
        left_out=METHODS[q.method],
        n_tokens=int(counts.sum()),
        n_left_out=int((~counts).sum()),
        n_sinks=int(q.usual.sum() - counts.sum()),
        warnings=_warnings(question, parts, len(chosen)),
    )


def _effect(question: Question, part: Part, i: int, measured: float | None) -> FeatureEffect:
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


def _warnings(question: Question, parts: Sequence[Part], n_listed: int) -> list[str]:
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
    if question.n_controls and n_listed and n_pairs < 3 * n_listed:
        warnings.append(
            f"Only {n_pairs} active pairs to draw controls of {n_listed} from: the "
            "draws are much alike. Lower k."
        )
    return warnings + [
        f"{name}The attributions add up to {part.completeness:.2f} of the difference "
        "that they should explain: do not rely on them."
        for name, part in zip(whose, parts, strict=True)
        if part.completeness is not None and abs(part.completeness - 1) > MOST_INCOMPLETE
    ]


__all__ = ["METHODS", "Attribution", "FeatureEffect", "Joint", "SAEShare", "attribute"]
