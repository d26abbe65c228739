"""Which features tell two sets of texts apart, or two models on the same texts: chosen on one half,
tested on the other."""

from collections.abc import Sequence
from typing import TypedDict, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.features.contrast.designs import LEAST_HALF, Design, Groups, Halves, PairedTexts
from saescope.features.contrast.separation import adjusted, spearman
from saescope.features.reading.text_scores import Summary, TextScores, score_changes, score_texts
from saescope.models import LanguageModel, Tokens
from saescope.records.features import Contrast, ContrastFeature, HeldOut
from saescope.saes import SAE
from saescope.sinks import many_sinks
from saescope.splice import check_fits

LEVEL = 0.05
"""False discovery rate, and level of the single tests."""
LEAST = 2
TRACKS_POSITION = 0.3


class Draw(TypedDict, total=False):
    """What a contrast chooses."""

    k: int
    """Features: 10 unless it is given."""
    seed: int
    """Draws the halves: 0 unless it is given."""


def contrast_texts(
    model: LanguageModel,
    sae: SAE,
    texts: Sequence[Tokens],
    *,
    against: Sequence[Tokens],
    by: Summary = "max",
    **draw: Unpack[Draw],
) -> Contrast:
    """The `k` features that tell `texts` from `against` best, either way round (`Draw`).

    Each text gives one number a feature (its maximum or mean over counted tokens). Half of each
    set, drawn by `seed`, chooses features by Mann & Whitney's test; the other half tests just
    those.

    Raises:
        ArgumentError: a set has fewer than two texts, or a text with no counted token.
    """
    _check(min(len(texts), len(against)))
    scores = score_texts(model, sae, [*texts, *against], by=by)
    return contrast_scores(
        Groups(torch.arange(len(scores.lengths)) < len(texts), scores.lengths),
        scores,
        **draw,
    )


def contrast_models(
    model: LanguageModel,
    sae: SAE,
    texts: Sequence[Tokens],
    *,
    other: LanguageModel,
    by: Summary = "max",
    **draw: Unpack[Draw],
) -> Contrast:
    """The `k` features that the same texts make fire otherwise in `model` than in `other` (a
    fine-tuned model and its base; `Draw`).

    One SAE and one tokenization serve both; the numbers are changes of each text, tested by
    Wilcoxon's signed ranks.

    Raises:
        ArgumentError: fewer than two texts, or a text with no counted token.
        MismatchError: the SAE has another width than `other` at its hook.
    """
    _check(len(texts))
    check_fits(other, sae, allow_mismatch=True)
    changes = score_changes(model, other, sae, texts, by=by)
    return contrast_scores(PairedTexts(len(texts)), changes, **draw)


def contrast_scores(design: Design, scores: TextScores, *, k: int = 10, seed: int = 0) -> Contrast:
    """The contrast of scores that are there already."""
    halves = design.halves(seed)
    chosen = design.compare(scores.scores[halves.chosen_on], halves.chosen_on)
    by_effect = chosen.d.abs().argsort(descending=True, stable=True)
    order = by_effect[chosen.p[by_effect].argsort(stable=True)][:k]
    columns, equal = scores.scores[:, order].double(), scores.equal_length[:, order].double()
    rises = chosen.auc[order] > 0.5
    both = torch.cat([columns, _sum_of(columns, rises, halves.chosen_on)], dim=1)
    *held_out, together = _separations(design, both, scores.lengths, halves, seed)
    q_chosen = adjusted(chosen.p)[order]
    q = (
        adjusted(torch.tensor([each.p for each in held_out], dtype=torch.float64))
        if halves.split
        else q_chosen
    )
    rest = design.compare(equal[halves.held_out], halves.held_out).auc
    features = [
        ContrastFeature(
            feature=int(scores.features[column]),
            held_out=each,
            q=float(q[i]),
            q_chosen=float(q_chosen[i]),
            confirmed=halves.split and float(q[i]) <= LEVEL and (each.auc > 0.5) == bool(rises[i]),
            auc_equal_length=float(rest[i]),
            position_correlation=float(scores.position_correlation[column]),
            confounds=_confounds(
                design, float(rest[i]), halves.held_out, float(scores.position_correlation[column])
            ),
        )
        for i, (column, each) in enumerate(zip(order.tolist(), held_out, strict=True))
    ]
    return Contrast(
        features=features,
        total=len(scores.features),
        together=together if features else None,
        n_texts=design.n[0],
        n_against=design.n[1],
        n_held_out=design.sizes(halves.held_out) if halves.split else None,
        length_auc=design.length_auc,
        length_p=design.length_p,
        verdict=verdict(features, split=halves.split, least=min(design.n)),
        warnings=[
            *_warnings(design, features, scores.n_equal),
            *many_sinks(scores.n_sinks, int(scores.lengths.sum())),
        ],
    )


def _separations(
    design: Design,
    columns: Float[Tensor, "n_texts k"],
    lengths: Float[Tensor, " n_texts"],
    halves: Halves,
    seed: int,
) -> list[HeldOut]:
    rows: Int[Tensor, " n"] = halves.held_out
    compared = design.compare(columns[rows], rows)
    p = design.permuted_p(columns[rows], rows, seed) if halves.split else compared.p
    return [
        HeldOut(
            auc=auc,
            low=low,
            high=high,
            d=float(compared.d[i]),
            p=float(p[i]),
            length_correlation=spearman(
                design.centred(columns[rows, i], rows), design.centred(lengths[rows], rows)
            ),
        )
        for i, auc in enumerate(compared.auc.tolist())
        for low, high in [design.interval(auc, rows)]
    ]


def _sum_of(
    columns: Float[Tensor, "n_texts k"], rises: Bool[Tensor, " k"], chosen_on: Int[Tensor, " n"]
) -> Float[Tensor, "n_texts 1"]:
    """Add up the chosen features, each with its sign and in standard deviations of the texts where
    it was chosen."""
    spread = (columns[chosen_on] - columns[chosen_on].mean(0)).square().mean(0).sqrt()
    weights = torch.where(rises, 1.0, -1.0).double() / spread.clamp(min=1e-12)
    return (columns * weights).sum(1, keepdim=True)


def _confounds(
    design: Design,
    auc_equal_length: float,
    held_out: Int[Tensor, " n"],
    position_correlation: float,
) -> list[str]:
    """Name what may explain a difference where the sets differ in length: "length" if texts of
    equal length are not told apart, "position" if the feature tracks that.

    Late positions are only in the longer texts, so the second is a way of the first.
    """
    if design.length_p >= LEVEL:
        return []
    low, high = design.interval(auc_equal_length, held_out)
    tracks = abs(position_correlation) >= TRACKS_POSITION
    return [name for name, is_so in (("length", low <= 0.5 <= high), ("position", tracks)) if is_so]


def verdict(features: Sequence[ContrastFeature], *, split: bool, least: int) -> str:
    """What may be claimed, in a sentence."""
    if not features:
        return "No feature fires on these texts."
    if not split:
        return (
            f"Too few texts ({least} in the smaller set) to choose features on one "
            "half and test them on the other: these are candidates, "
            f"nothing is confirmed. Give at least {2 * LEAST_HALF} texts a set, better 30."
        )
    confirmed = [feature for feature in features if feature.confirmed]
    clean = [feature for feature in confirmed if not feature.confounds]
    if not confirmed:
        return (
            f"None of the {len(features)} features chosen on one half separates the other "
            f"half (false discovery rate {LEVEL:g})."
        )
    doubt = (
        ""
        if len(clean) == len(confirmed)
        else f"; {len(confirmed) - len(clean)} of them may only reflect the length of the texts"
    )
    return (
        f"{len(confirmed)} of the {len(features)} features chosen on one half separate the "
        f"other half too{doubt}."
    )


def _warnings(design: Design, features: Sequence[ContrastFeature], n_equal: int) -> list[str]:
    if design.length_p >= LEVEL:
        return []
    flagged = sum(bool(feature.confounds) for feature in features)
    return [
        f"The sets differ in length (AUC {design.length_auc:.3g}, p "
        f"{design.length_p:.2g}): {flagged} of {len(features)} features do not "
        f"separate texts that are cut to {n_equal} tokens, or follow the position. "
        "Match the lengths to be sure."
    ]


def _check(n: int) -> None:
    if n < LEAST:
        raise ArgumentError(
            f"A contrast needs at least {LEAST} texts in each set.",
            code="TOO_FEW_TEXTS",
            field="texts",
            got=n,
            allowed=f"{LEAST} or more; {2 * LEAST_HALF} to hold a half out",
            hint="For one text against one other, call ss.rank_features(..., against=..., "
            'rank_by="contrast").',
            facts={"least": LEAST},
        )
