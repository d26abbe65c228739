"""Which features tell two sets of texts apart, or two models on the same texts: chosen on one half,
tested on the other, by turns."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypedDict, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.cancel import stop_if_cancelled
from saescope.errors import ArgumentError
from saescope.features.contrast.alike import neighbours_alike
from saescope.features.contrast.baselines import probe_auc, word_counts
from saescope.features.contrast.designs import LEAST_HALF, Design, Fold, Groups, PairedTexts
from saescope.features.contrast.model_controls import TwoModels, change_controls
from saescope.features.contrast.separation import Difference
from saescope.features.contrast.sets import each_once, groups_of
from saescope.features.reading.text_scores import Summary, TextScores, score_changes, score_texts
from saescope.metrics import spearman
from saescope.models import LanguageModel, Tokens
from saescope.records.features import (
    Contrast,
    ContrastBaseline,
    ContrastFeature,
    Separation,
    SideLevel,
    TopPlace,
)
from saescope.saes import SAE
from saescope.sinks import many_sinks
from saescope.splice import check_fits

LEVEL = 0.05
"""Chance of any false confirmation at all, and level of the single tests."""
LEAST = 2
TRACKS_POSITION = 0.3
POOL = 100
"""Features of each direction that a half chooses."""
WORDS = "bag_of_words"


class Draw(TypedDict, total=False):
    """What a contrast chooses."""

    by: Summary
    """The number that stands for a text: "max" unless it is given."""
    k: int
    """Features of each direction: 10 unless it is given."""
    seed: int
    """Draws halves and regroupings: 0 unless it is given."""
    unconfirmed: bool
    """List features too that are not confirmed: False unless it is given."""


def contrast_texts(
    model: LanguageModel,
    sae: SAE,
    texts: Sequence[Tokens],
    *,
    against: Sequence[Tokens],
    documents: Sequence[str] = (),
    **draw: Unpack[Draw],
) -> Contrast:
    """The features that tell `texts` from `against` best, `k` of each direction (`Draw`).

    Each text gives one number a feature (its maximum or mean over counted tokens). The texts are
    halved five times, and each half chooses features that the other tests: the effects listed are
    those of the testing halves. A feature is confirmed if its rank sum over all texts beats every
    feature's in 95 % of random regroupings. `documents` names the document of each text (those of
    `texts`, then those of `against`): texts of one document are halved and regrouped together.
    Without it a text and its counterpart, the same in the other set but for a word, are halved
    together, and a text that a set repeats counts once.

    Raises:
        ArgumentError: a set has fewer than two texts, or a text with no counted token.
    """
    texts, against, repeated = _once(texts, against, documents)
    _check(min(len(texts), len(against)))
    both = [*texts, *against]
    scores = score_texts(model, sae, both, by=draw.get("by", "max"))
    assert scores.means is not None
    inputs = {WORDS: word_counts(both), "mean_activation": scores.means}
    words = inputs[WORDS]
    design = groups_of(texts, against, scores.lengths, documents=documents, words=words)
    done = contrast_scores(design, scores, inputs=inputs, **draw)
    return replace(done, warnings=[*repeated, *done.warnings])


def contrast_models(
    model: LanguageModel,
    sae: SAE,
    texts: Sequence[Tokens],
    *,
    other: LanguageModel,
    against: Sequence[Tokens] = (),
    documents: Sequence[str] = (),
    **draw: Unpack[Draw],
) -> Contrast:
    """The features that the same texts make fire otherwise in `model` than in `other` (a fine-tuned
    model and its base), `k` of each direction (`Draw`).

    One SAE and one tokenization serve both; the numbers are changes of each text, tested by
    Wilcoxon's signed ranks. With `against` the changes of `texts` are compared with those of
    `against`: a difference of differences, which a change common to all texts does not move. Each
    row has `controls`: random halves of the texts in one model, random changes of equal norm.

    Raises:
        ArgumentError: fewer than two texts, or a text with no counted token.
        MismatchError: the SAE has another width than `other` at its hook.
    """
    texts, against, repeated = _once(texts, against, documents)
    _check(min(len(texts), len(against)) if against else len(texts))
    check_fits(other, sae, allow_mismatch=True)
    changes = score_changes(model, other, sae, [*texts, *against], by=draw.get("by", "max"))
    design = _of_changes(texts, against, changes.lengths, documents)
    done = contrast_scores(design, changes, **draw)
    done = replace(done, warnings=[*repeated, *done.warnings])
    if not done.features:
        return done
    controls = change_controls(
        TwoModels(model, other, sae, draw.get("by", "max")),
        [*texts, *against],
        changes,
        design=design,
        features=[row.feature for row in done.features],
        seed=draw.get("seed", 0),
    )
    rows = [replace(row, controls=each) for row, each in zip(done.features, controls, strict=True)]
    return replace(done, features=rows)


def _once(
    texts: Sequence[Tokens], against: Sequence[Tokens], documents: Sequence[str]
) -> tuple[list[Tokens], list[Tokens], list[str]]:
    """Each text of a set once, and what is to be said of the others; where documents are named,
    these say what is independent."""
    if documents:
        return [*texts], [*against], []
    once = each_once(texts, against)
    return [texts[i] for i in once.texts], [against[i] for i in once.against], once.warnings


def _of_changes(
    texts: Sequence[Tokens],
    against: Sequence[Tokens],
    lengths: Float[Tensor, " n_texts"],
    documents: Sequence[str],
) -> Design:
    if not against:
        return PairedTexts(len(texts), documents)
    return groups_of(texts, against, lengths, documents=documents)


def contrast_scores(
    design: Design,
    scores: TextScores,
    *,
    inputs: Mapping[str, Float[Tensor, "n_texts _"]] | None = None,
    **draw: Unpack[Draw],
) -> Contrast:
    """The contrast of scores that are there already; `inputs` are what the texts are without an
    SAE, each a baseline."""
    if not len(scores.features):
        return _nothing(design, scores)
    k, seed = draw.get("k", 10), draw.get("seed", 0)
    inputs = {"all_features": scores.scores, **(inputs or {}), "length": scores.lengths[:, None]}
    folds, effects, p, confirmed = told = tell_apart(design, scores, seed)
    unconfirmed = draw.get("unconfirmed", False) or not design.splits
    columns = [told.best(rises, unconfirmed=unconfirmed)[:k] for rises in (True, False)]
    features = [
        _row(design, scores, effects, int(column), float(p[column]))
        for column in torch.cat(columns)
    ]
    return Contrast(
        features=features,
        total=len(scores.features),
        n_confirmed=int(confirmed.sum()),
        n_candidates=int((effects.stable & ~confirmed).sum()),
        baselines=_baselines(design, folds, effects.best, inputs),
        n_texts=design.n[0],
        n_against=design.n[1],
        held_out=bool(folds),
        score_is=score_is(bool(folds)),
        length_auc=design.length_auc,
        length_p=design.length_p,
        verdict=_verdict(design, features, int(confirmed.sum()), len(scores.features)),
        warnings=_warnings(design, scores, features, seed),
    )


def _nothing(design: Design, scores: TextScores) -> Contrast:
    return Contrast(
        features=[],
        total=0,
        n_confirmed=0,
        n_candidates=0,
        baselines=[],
        n_texts=design.n[0],
        n_against=design.n[1],
        held_out=False,
        score_is=score_is(False),
        length_auc=design.length_auc,
        length_p=design.length_p,
        verdict="No feature fires on these texts.",
        warnings=many_sinks(scores.n_sinks, int(scores.lengths.sum())),
    )


class _Effects(NamedTuple):
    """What the testing halves say of each feature; all texts, where they are too few to halve."""

    d: Float[Tensor, " m"]
    auc: Float[Tensor, " m"]
    stable: Bool[Tensor, " m"]
    """At least half of the halves chose it."""
    rises: Bool[Tensor, " m"]
    """More on `texts`, over all texts."""
    best: float = 0.5
    """Mean held-out area of the one feature that a half likes best, turned upwards."""


class ToldApart(NamedTuple):
    """What a contrast finds out about all features, by their columns in the scores."""

    folds: Sequence[Fold]
    effects: _Effects
    p: Float[Tensor, " m"]
    confirmed: Bool[Tensor, " m"]

    def best(self, rises: bool, *, unconfirmed: bool) -> Int[Tensor, " _"]:
        """Features of one side that enough halves chose: the confirmed first, each part by held-out
        area, then by effect."""
        effects = self.effects
        listed = effects.stable & (self.confirmed | unconfirmed) & (effects.rises == rises)
        rank = sorted(
            listed.nonzero()[:, 0].tolist(),
            key=lambda i: (
                not self.confirmed[i],
                -abs(float(effects.auc[i]) - 0.5),
                -abs(float(effects.d[i])),
            ),
        )
        return torch.tensor(rank, dtype=torch.long)


def tell_apart(design: Design, scores: TextScores, seed: int) -> ToldApart:
    """Effects on the halves that had no part in choosing, and which of them are confirmed."""
    folds = design.folds(seed)
    effects = _effects(design, scores, folds)
    p = design.family_p(scores.scores, seed)
    return ToldApart(folds, effects, p, (p <= LEVEL) & design.splits)


def _effects(design: Design, scores: TextScores, folds: Sequence[Fold]) -> _Effects:
    table = scores.scores.double()
    whole = design.compare(table, torch.arange(len(table)))
    if not folds:
        return _Effects(whole.d, whole.auc, torch.ones_like(whole.auc).bool(), whole.auc > 0.5)
    sums, best = torch.zeros(3, table.shape[1], dtype=torch.float64), 0.0  # d, area, times chosen
    for fold in folds:
        stop_if_cancelled()
        there = design.compare(table[fold.chosen_on], fold.chosen_on)
        order, rises = _by_p(there), there.auc > 0.5
        columns = torch.cat([order[rises[order]][:POOL], order[~rises[order]][:POOL]])
        held_out = design.compare(table[fold.held_out][:, columns], fold.held_out)
        sums[:, columns] += torch.stack([held_out.d, held_out.auc, torch.ones(len(columns))])
        area = float(held_out.auc[columns == order[0]])
        best += (area if rises[order[0]] else 1 - area) / len(folds)
    n = sums[2].clamp(min=1)
    return _Effects(sums[0] / n, sums[1] / n, sums[2] >= len(folds) / 2, whole.auc > 0.5, best)


def _by_p(there: Difference) -> Int[Tensor, " m"]:
    """The surest first, of those equally sure the largest effect."""
    by_effect = there.d.abs().argsort(descending=True, stable=True)
    return by_effect[there.p[by_effect].argsort(stable=True)]


def _row(
    design: Design, scores: TextScores, effects: _Effects, i: int, p: float
) -> ContrastFeature:
    auc, rises = float(effects.auc[i]), bool(effects.rises[i])
    equal = design.compare(scores.equal_length[:, [i]].double(), torch.arange(len(scores.scores)))
    column, correlation = scores.scores[:, i].double(), float(scores.position_correlation[i])
    return ContrastFeature(
        feature=int(scores.features[i]),
        side="texts" if rises else "against",
        held_out=_separation(design, float(effects.d[i]), auc),
        p=p,
        confirmed=design.splits and p <= LEVEL,
        levels=levels_of(design, scores, i),
        top=_top(scores, int(scores.features[i]), design.side(rises)),
        auc_equal_length=float(equal.auc),
        length_correlation=spearman(design.centred(column), design.centred(scores.lengths)),
        position_correlation=correlation,
        confounds=_confounds(design, float(equal.auc), correlation),
    )


def _separation(design: Design, d: float, auc: float) -> Separation:
    low, high = design.interval(auc)
    return Separation(d=d, auc=auc, low=low, high=high)


def levels_of(design: Design, scores: TextScores, i: int) -> tuple[SideLevel, SideLevel]:
    """How a feature fires on `texts` and on `against`, or in the model studied and the other."""
    column = scores.scores[:, i].double()
    parts = [column[rows] for rows in design.sets()]
    if isinstance(design, PairedTexts):
        base = torch.zeros_like(column) if scores.other is None else scores.other[:, i].double()
        parts = [column + base, base]
    one, other = (
        SideLevel(mean=float(part.mean()), share=float((part > 0).double().mean()))
        for part in parts
    )
    return one, other


def _top(scores: TextScores, feature: int, rows: Int[Tensor, " _"]) -> TopPlace | None:
    """Where the feature fires most on these texts; None where it fires on none of them."""
    best = max(
        ((*scores.strongest[i].of(feature), -i) for i in rows.tolist() if scores.strongest),
        key=lambda place: (place[0], place[2]),
        default=(0.0, 0, 0),
    )
    activation, pos, i = best
    if not activation:
        return None
    return TopPlace(
        text_index=-i,
        pos=pos,
        token=scores.strongest[-i].tokens.strings[pos],
        activation=activation,
    )


def _baselines(
    design: Design,
    folds: Sequence[Fold],
    best: float,
    inputs: Mapping[str, Float[Tensor, "n_texts _"]],
) -> list[ContrastBaseline]:
    """What the testing halves make of the best feature, and of each of `inputs`; nothing fits two
    models' changes of the same texts."""
    if not folds:
        return []
    areas = {"best_feature": best}
    if isinstance(design, Groups):
        areas |= {name: probe_auc(each, design, folds) for name, each in inputs.items()}
    intervals = {name: design.interval(auc) for name, auc in areas.items()}
    return [
        ContrastBaseline(name=name, auc=areas[name], low=low, high=high)
        for name, (low, high) in intervals.items()
    ]


def _confounds(design: Design, auc_equal_length: float, position_correlation: float) -> list[str]:
    """Where the sets differ in length: "length" if texts of equal length are not told apart,
    "position" if the feature tracks that.

    Late positions are only in the longer texts, so the second is a way of the first.
    """
    if design.length_p >= LEVEL:
        return []
    low, high = design.interval(auc_equal_length)
    tracks = abs(position_correlation) >= TRACKS_POSITION
    return [name for name, is_so in (("length", low <= 0.5 <= high), ("position", tracks)) if is_so]


def _verdict(
    design: Design, features: Sequence[ContrastFeature], n_confirmed: int, total: int
) -> str:
    """What may be claimed, in a sentence."""
    if few := too_few(design):
        return few[0]
    if not n_confirmed:
        return (
            f"None of {total:,} features is confirmed: differences as large as the largest "
            f"here come up by chance in more than {LEVEL:.0%} of regroupings of these texts."
        )
    doubted = sum(bool(feature.confounds) for feature in features if feature.confirmed)
    doubt = (
        f"; {doubted} of those listed may only reflect the length of the texts" if doubted else ""
    )
    told = "is confirmed: it differs" if n_confirmed == 1 else "are confirmed: they differ"
    return (
        f"{n_confirmed:,} of {total:,} features {told} more than any "
        f"feature does in {1 - LEVEL:.0%} of random regroupings of these texts{doubt}."
    )


def too_few(design: Design) -> list[str]:
    """A sentence where nothing can be tested."""
    if design.splits:
        return []
    unit = "texts" if len(design.unit) == len(design.unit.unique()) else "documents"
    return [
        f"Too few {unit} ({min(design.n_units)} in the smaller set) to choose features on one "
        "half and test them on the other: these are candidates, "
        f"nothing is confirmed. Give at least {2 * LEAST_HALF} {unit} a set, better 30."
    ]


def score_is(held_out: bool) -> str:
    """What the score of a contrast measures."""
    where = "on texts held out by turns" if held_out else "nothing held out"
    return f"contrast: area under the curve (AUC) of the texts' largest activations, {where}"


def _warnings(
    design: Design, scores: TextScores, features: Sequence[ContrastFeature], seed: int
) -> list[str]:
    warnings = many_sinks(scores.n_sinks, int(scores.lengths.sum()))
    if design.length_p < LEVEL:
        flagged = sum(bool(feature.confounds) for feature in features)
        warnings.append(
            f"The sets differ in length (AUC {design.length_auc:.3g}, p {design.length_p:.2g}): "
            f"{flagged} of {len(features)} features do not separate texts that are cut to "
            f"{scores.n_equal} tokens, or follow the position. Match the lengths to be sure."
        )
    if neighbours_alike(design, scores.scores, seed):
        warnings.append(
            "Neighbouring texts in the list are more alike than others: if they are passages "
            "of the same documents, they count as independent here and differences are found too "
            "easily. Name the document of each text."
        )
    return warnings


def _check(n: int) -> None:
    if n < LEAST:
        raise ArgumentError(
            f"A contrast needs at least {LEAST} different texts in each set.",
            code="TOO_FEW_TEXTS",
            field="texts",
            got=n,
            allowed=f"{LEAST} or more; {2 * LEAST_HALF} to hold a half out",
            hint="For one text against one other, call ss.rank_features(..., against=..., "
            'rank_by="contrast").',
            facts={"least": LEAST},
        )
