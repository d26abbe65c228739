"""Turns numbers into a verdict that a newcomer understands: how good, why, and what to change.

Every limit here is a convention of this library, for a first verdict: no publication sets one.
Comparisons are with what something simpler reaches on the same documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from saescope.records.evaluation import Baselines, Interval, Reason, Verdict
from saescope.verdicts import Quality

GOOD_EV, FAIR_EV = 0.75, 0.5
GOOD_CE, FAIR_CE = 0.9, 0.7
MUCH_DEAD, MUCH_DENSE = 0.2, 0.02
SHRUNK, GROWN = 0.9, 1.1
LITTLE_COST = 0.1
"""Nats a token: where zeroing a site costs less, its CE score is little evidence."""
HIGH_LOSS = 5.0
"""Nats a token: a model that predicts as badly as that does not know this kind of text."""
WIDE = 0.05
"""Half of an interval from which on a number is called uncertain."""
FEW_TOKENS = 5000
DENSE = 0.1

_RANK: dict[Quality, int] = {
    Quality.WRONG: 0,
    Quality.DOUBTFUL: 1,
    Quality.FAIR: 2,
    Quality.GOOD: 3,
}
_SUMMARIES: dict[Quality, str] = {
    Quality.FAIR: "The SAE is usable, with a reservation",
    Quality.DOUBTFUL: "Do not draw conclusions from the SAE yet",
    Quality.WRONG: "The SAE does not belong here, or its training failed",
}
_ALL_GOOD = (
    "The SAE reconstructs most of what the model does here. "
    "Whether a single feature means one thing, its card and a quiz tell."
)
_UNKNOWN = (
    "There is too little text, or the activation never varies, so that quality cannot be measured."
)


class GradedReason(NamedTuple):
    """One finding, and the best level that it leaves possible."""

    level: Quality
    short: str
    """The finding in a few words, for the summary; empty where it says nothing of quality."""
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the verdict rests on."""

    n_tokens: int
    n_documents: int
    l0: float
    explained_variance: float | None
    ce_score: float | None
    clean_loss: float | None
    """The model's own cross-entropy in nats a token."""
    ablation_cost: float | None
    """What zeroing the site costs in nats a token; where that is little, a CE score says little."""
    dead_share: float
    dense_share: float
    l2_ratio: float
    baselines: Baselines | None
    intervals: dict[str, Interval]
    transcoder: bool


def judge(measured: Measured) -> Verdict:
    """The level is that of the worst finding, which the summary names beside what is good; every
    finding is a reason."""
    ev = measured.explained_variance
    if ev is None:
        why = Reason("Explained variance is undefined here.", "Evaluate on more text.")
        return Verdict(Quality.UNKNOWN, _UNKNOWN, (why,))
    findings = [
        _reconstruction(ev, measured.intervals.get("explained_variance")),
        *_predictions(measured),
        *_sparsity(measured),
        *_shrinkage(measured.l2_ratio),
        *_against_random(measured, ev),
        *_against_pca(measured, ev),
        *_certainty(measured),
    ]
    ordered = sorted(findings, key=lambda finding: _RANK[finding.level])
    level = ordered[0].level
    return Verdict(level, _summary(level, ordered), tuple(finding.reason for finding in ordered))


def _summary(level: Quality, findings: Sequence[GradedReason]) -> str:
    if level is Quality.GOOD:
        return _ALL_GOOD
    decided = [finding.short for finding in findings if finding.level is level]
    good = [each.short for each in findings if each.level is Quality.GOOD and each.short]
    rest = f" Good: {', '.join(good)}." if good else ""
    return f"{_SUMMARIES[level]}: {'; '.join(decided)}.{rest}"


def _reconstruction(ev: float, interval: Interval | None) -> GradedReason:
    statement = f"The features explain {ev:.0%} of the activation's variance"
    short = f"explained variance {ev:.2f}"
    if ev < 0:
        finding = (
            f"The reconstruction is worse than the mean activation (explained variance {ev:.2g})"
        )
        advice = (
            "Check that model, hook and preparation are those of the training; if it "
            "was trained here, lower lr and train longer."
        )
        return GradedReason(Quality.WRONG, f"{short}, below 0", Reason(f"{finding}.", advice))
    straddled = _straddled(ev, interval, (0.0, FAIR_EV, GOOD_EV))
    if ev < FAIR_EV:
        advice = (
            "Check model and hook; when training, use more tokens, a larger k (or "
            "smaller l1/l0 coefficient) or a wider SAE."
        )
        reason = Reason(f"{statement}: more than half is lost{straddled}.", advice)
        return GradedReason(Quality.DOUBTFUL, f"{short}, more than half is lost", reason)
    if ev < GOOD_EV:
        advice = (
            "More training tokens, a larger k (or smaller l1/l0 coefficient) or a "
            "wider SAE raise it."
        )
        reason = Reason(f"{statement}{straddled}.", advice)
        return GradedReason(Quality.FAIR, f"{short}, a noticeable part is not explained", reason)
    return GradedReason(Quality.GOOD, short, Reason(f"{statement}{straddled}."))


def _straddled(value: float, interval: Interval | None, limits: Sequence[float]) -> str:
    """A clause that says which limit the interval holds; empty if it holds none."""
    held = [limit for limit in limits if interval and interval.low < limit < interval.high]
    if interval is None or not held:
        return ""
    nearest = min(held, key=lambda limit: abs(limit - value))
    return (
        f"; its interval, {interval.low:.2f} to {interval.high:.2f}, holds {nearest:g}, the limit "
        "of another level, so that this text does not decide between the two"
    )


def _predictions(measured: Measured) -> list[GradedReason]:
    ce, cost, clean = measured.ce_score, measured.ablation_cost, measured.clean_loss
    if ce is None or cost is None or cost <= 0:
        nothing = (
            "Zeroing this site does not make the model worse here, so the CE score says nothing."
        )
        return [GradedReason(Quality.GOOD, "", Reason(nothing))]
    chance = measured.baselines.random_sae.ce_score if measured.baselines else None
    odd = [_high_loss(clean)] if clean is not None and clean > HIGH_LOSS else []
    odd += [_by_chance(chance)] if chance is not None and chance >= FAIR_CE else []
    statement = (
        f"With the SAE in its place the model keeps {ce:.0%} of what the site is worth to "
        "its predictions"
    )
    interval = measured.intervals.get("ablation_cost")
    if cost < LITTLE_COST or (interval is not None and interval.low <= 0):
        little = (
            f"{statement}; but the site is worth only {cost:.2g} nats a token"
            f"{'' if cost < LITTLE_COST else ', give or take as much'}, so that is little evidence."
        )
        return [GradedReason(Quality.GOOD, "", Reason(little)), *odd]
    statement += (
        f" (CE score{_straddled(ce, measured.intervals.get('ce_score'), (0, FAIR_CE, GOOD_CE))})."
    )
    short = f"CE score {ce:.2f}"
    if ce >= GOOD_CE:
        return [GradedReason(Quality.GOOD, short, Reason(statement)), *odd]
    advice = (
        "What the model needs is in the part that is lost: raise k or the width, or train longer."
    )
    level = Quality.FAIR if ce >= FAIR_CE else Quality.DOUBTFUL if ce > 0 else Quality.WRONG
    return [GradedReason(level, f"{short}, predictions suffer", Reason(statement, advice)), *odd]


def what_a_score_means(clean: float | None, cost: float | None) -> list[str]:
    """A sentence where a CE score says little: a model that does not know the text, a site that is
    worth next to nothing."""
    high = f"At {clean or 0:.1f} nats a token the model hardly knows this text: scores say little."
    little = (
        f"Zeroing the site costs {cost or 0:.2g} nats a token: a CE score of so little says little."
    )
    return [
        *([high] if clean is not None and clean > HIGH_LOSS else []),
        *([little] if cost is not None and cost < LITTLE_COST else []),
    ]


def _high_loss(clean: float) -> GradedReason:
    (finding,) = what_a_score_means(clean, None)
    advice = "Evaluate on text of the kind that the model was trained on."
    return GradedReason(Quality.GOOD, "", Reason(finding, advice))


def _by_chance(ce: float) -> GradedReason:
    finding = (
        f"With random features of the same number and L0 in its place the model keeps {ce:.0%}: "
        "here a high CE score is easy to reach."
    )
    return GradedReason(Quality.GOOD, "", Reason(finding, "Go by explained variance."))


def _sparsity(measured: Measured) -> list[GradedReason]:
    findings = list[GradedReason]()
    if measured.l0 == 0:
        advice = "Check the hook and the normalisation; lower the threshold or penalty."
        reason = Reason("No feature ever fires.", advice)
        findings.append(GradedReason(Quality.WRONG, "no feature ever fires", reason))
    if measured.dead_share > MUCH_DEAD:
        findings.append(_dead(measured.dead_share, measured.n_tokens))
    if measured.dense_share > MUCH_DENSE:
        statement = (
            f"{measured.dense_share:.1%} of the features fire at more than a tenth of the positions"
        )
        advice = (
            "Dense features rarely have one meaning: lower k (or raise the l1/l0 "
            "coefficient), or train on more tokens."
        )
        findings.append(GradedReason(Quality.FAIR, statement, Reason(f"{statement}.", advice)))
    return findings


def _dead(share: float, n_tokens: int) -> GradedReason:
    statement, advice = (
        f"{share:.0%} of the features never fired on {n_tokens} tokens",
        "Evaluate on more tokens first; then revive dead features in training (aux "
        "loss or resampling), or use a smaller d_sae.",
    )
    if n_tokens >= 10 * FEW_TOKENS:
        return GradedReason(Quality.FAIR, statement, Reason(f"{statement}.", advice))
    little = f"{statement}; with so little text many rare features count as dead."
    return GradedReason(Quality.GOOD, "", Reason(little, advice))


def _shrinkage(l2_ratio: float) -> list[GradedReason]:
    if SHRUNK <= l2_ratio <= GROWN:
        return []
    if l2_ratio > GROWN:
        statement = f"reconstructions are {l2_ratio - 1:.0%} too long"
        advice = "Check the normalisation: the SAE may expect inputs of another scale."
    else:
        statement = f"reconstructions are {1 - l2_ratio:.0%} too short"
        advice = (
            "An SAE that explains part of the activation is short by that part; an L1 penalty "
            "shortens it more: see the other reasons."
        )
    return [
        GradedReason(
            Quality.FAIR, statement, Reason(f"{statement[0].upper()}{statement[1:]}.", advice)
        )
    ]


def _against_random(measured: Measured, ev: float) -> list[GradedReason]:
    chance = measured.baselines.random_sae.explained_variance if measured.baselines else None
    if chance is None:
        return []
    than = f"random features of the same number and L0, which explain {chance:.0%}"
    better = _beyond(ev - chance, measured.intervals.get("over_random_sae"))
    if better is True:
        short = "better than random features"
        return [GradedReason(Quality.GOOD, short, Reason(f"The SAE explains more than {than}."))]
    if better is None:
        reason = Reason(
            f"On this text the SAE cannot be told from {than}.",
            "Evaluate on more tokens; if that stays, the training has learned little.",
        )
        return [GradedReason(Quality.DOUBTFUL, "not told apart from random features", reason)]
    advice = (
        "Training has learned nothing, or this is another model or hook: check both, "
        "then train longer."
    )
    reason = Reason(
        f"Random features of the same number and L0 explain {chance:.0%}: as much.", advice
    )
    return [GradedReason(Quality.WRONG, "random features explain as much", reason)]


def _against_pca(measured: Measured, ev: float) -> list[GradedReason]:
    """None for a transcoder: PCA sees its target, the transcoder does not."""
    pca = measured.baselines.pca if measured.baselines else None
    if (
        measured.baselines is None
        or pca is None
        or pca.explained_variance is None
        or measured.transcoder
    ):
        return []
    statement = (
        f"A PCA with as many directions as features fire ({pca.size}), fitted to other documents,"
    )
    share, needed = f"{pca.explained_variance:.0%}", measured.baselines.pca_rank_to_match
    better = _beyond(ev - pca.explained_variance, measured.intervals.get("over_pca"))
    if better is True:
        reason = Reason(f"{statement} explains {share}; it needs {needed} for as much as the SAE.")
        return [GradedReason(Quality.GOOD, f"better than {pca.size} directions of a PCA", reason)]
    if better is None:
        reason = Reason(
            f"{statement} explains {share}; this text does not tell which explains more.",
            "Evaluate on more tokens (n_tokens).",
        )
        return [GradedReason(Quality.FAIR, "not told apart from a PCA of the same rank", reason)]
    advice = (
        "The features are not worth their number yet: train on more tokens, or with a larger d_sae."
    )
    short = f"a PCA with {pca.size} directions explains more ({share})"
    reason = Reason(f"A PCA with {pca.size} directions explains more ({share}).", advice)
    return [GradedReason(Quality.DOUBTFUL, short, reason)]


def _beyond(difference: float, interval: Interval | None) -> bool | None:
    """Whether a difference is positive; None where its interval does not say."""
    if interval is None:
        return difference > 0
    return True if interval.low > 0 else False if interval.high <= 0 else None


def _certainty(measured: Measured) -> list[GradedReason]:
    wide = [
        name
        for name in ("explained_variance", "ce_score")
        if name in measured.intervals and _half(measured.intervals[name]) > WIDE
    ]
    if measured.intervals and measured.n_tokens >= FEW_TOKENS and not wide:
        return []
    what = f"only {measured.n_tokens} tokens"
    if wide:
        what = f"{' and '.join(wide)} uncertain by more than {WIDE}"
    elif not measured.intervals:
        what = f"{measured.n_documents} documents, too few for an interval"
    advice = "Evaluate on more tokens (n_tokens), of more documents, before comparing SAEs."
    return [GradedReason(Quality.GOOD, "", Reason(f"The text is short: {what}.", advice))]


def _half(interval: Interval) -> float:
    return (interval.high - interval.low) / 2
