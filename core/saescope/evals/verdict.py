"""Turns numbers into a verdict that a newcomer understands: how good, why, and what to change."""

from dataclasses import dataclass

from saescope.records.evaluation import Baselines, Interval, Reason, Verdict
from saescope.verdicts import Quality

GOOD_EV, FAIR_EV = 0.75, 0.5
GOOD_CE, FAIR_CE = 0.9, 0.7
MUCH_DEAD, MUCH_DENSE = 0.2, 0.02
SHRUNK, GROWN = 0.9, 1.1
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
    Quality.GOOD: "The SAE reconstructs most of what the model does here. "
    "Whether a single feature means one thing, its card and a quiz tell.",
    Quality.FAIR: "The SAE is usable, with a noticeable part of the activation that its features "
    "do not explain.",
    Quality.DOUBTFUL: "The SAE loses much of the activation, or is no better than something "
    "simpler: do not draw conclusions from it yet.",
    Quality.WRONG: "The SAE does not belong here, or its training failed: "
    "its reconstruction is worse than a constant or than random features.",
    Quality.UNKNOWN: "There is too little text, or the activation never varies, so that quality "
    "cannot be measured.",
}

Finding = tuple[Quality, Reason]
"""The best level that the finding leaves possible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the verdict rests on."""

    n_tokens: int
    l0: float
    explained_variance: float | None
    ce_score: float | None
    ablation_cost: float | None
    """What zeroing the site costs in nats a token; where that is little, a CE score says little."""
    dead_share: float
    dense_share: float
    l2_ratio: float
    baselines: Baselines | None
    intervals: dict[str, Interval]
    transcoder: bool


def judge(measured: Measured) -> Verdict:
    """The level is that of the worst finding; every finding is a reason."""
    ev = measured.explained_variance
    if ev is None:
        return Verdict(
            Quality.UNKNOWN,
            _SUMMARIES[Quality.UNKNOWN],
            (Reason("Explained variance is undefined here.", "Evaluate on more text."),),
        )
    findings: list[Finding] = [
        _reconstruction(ev),
        *_predictions(measured.ce_score, measured.ablation_cost),
        *_sparsity(measured),
        *_shrinkage(measured.l2_ratio),
        *_against(measured.baselines, ev, transcoder=measured.transcoder),
        *_certainty(measured.intervals, measured.n_tokens),
    ]
    ordered = sorted(findings, key=lambda finding: _RANK[finding[0]])
    level = ordered[0][0]
    return Verdict(level, _SUMMARIES[level], tuple(reason for _, reason in ordered))


def _reconstruction(ev: float) -> Finding:
    finding = f"The features explain {ev:.0%} of the activation's variance"
    if ev < 0:
        return Quality.WRONG, Reason(
            f"The reconstruction is worse than the mean activation (explained variance {ev:.2g}).",
            "Check that model, hook and preparation are those of the training; if it "
            "was trained here, lower lr and train longer.",
        )
    if ev < FAIR_EV:
        return Quality.DOUBTFUL, Reason(
            f"{finding}: more than half is lost.",
            "Check model and hook; when training, use more tokens, a larger k (or "
            "smaller l1/l0 coefficient) or a wider SAE.",
        )
    if ev < GOOD_EV:
        return Quality.FAIR, Reason(
            f"{finding}.",
            "More training tokens, a larger k (or smaller l1/l0 coefficient) or a "
            "wider SAE raise it.",
        )
    return Quality.GOOD, Reason(f"{finding}.")


def _predictions(ce: float | None, cost: float | None) -> list[Finding]:
    if ce is None or cost is None or cost <= 0:
        return [
            (
                Quality.GOOD,
                Reason(
                    "Zeroing this site does not make the model worse here, so the CE "
                    "score says nothing."
                ),
            )
        ]
    finding = (
        f"With the SAE in its place the model keeps {ce:.0%} of what the site is worth to "
        "its predictions"
    )
    if cost < 0.1:
        return [
            (
                Quality.GOOD,
                Reason(
                    f"{finding}; but the site is worth only {cost:.2g} nats a token, so "
                    "that is little evidence."
                ),
            )
        ]
    if ce >= GOOD_CE:
        return [(Quality.GOOD, Reason(f"{finding} (CE score)."))]
    advice = (
        "What the model needs is in the part that is lost: raise k or the width, or train longer."
    )
    return [
        (
            Quality.FAIR if ce >= FAIR_CE else Quality.DOUBTFUL if ce > 0 else Quality.WRONG,
            Reason(f"{finding} (CE score).", advice),
        )
    ]


def _sparsity(measured: Measured) -> list[Finding]:
    findings = list[Finding]()
    dead, dense, n_tokens = measured.dead_share, measured.dense_share, measured.n_tokens
    if measured.l0 == 0:
        findings.append(
            (
                Quality.WRONG,
                Reason(
                    "No feature ever fires.",
                    "Check the hook and the normalisation; lower the threshold or penalty.",
                ),
            )
        )
    if dead > MUCH_DEAD:
        few = (
            "; with so little text many rare features count as dead"
            if n_tokens < 10 * FEW_TOKENS
            else ""
        )
        advice = (
            "Evaluate on more tokens first; then revive dead features in training (aux "
            "loss or resampling), or use a smaller d_sae."
        )
        findings.append(
            (
                Quality.FAIR if not few else Quality.GOOD,
                Reason(
                    f"{dead:.0%} of the features never fired on {n_tokens} tokens{few}.", advice
                ),
            )
        )
    if dense > MUCH_DENSE:
        advice = (
            "Dense features rarely have one meaning: lower k (or raise the l1/l0 "
            "coefficient), or train on more tokens."
        )
        findings.append(
            (
                Quality.FAIR,
                Reason(
                    f"{dense:.1%} of the features fire at more than a tenth of the positions.",
                    advice,
                ),
            )
        )
    return findings


def _shrinkage(l2_ratio: float) -> list[Finding]:
    if SHRUNK <= l2_ratio <= GROWN:
        return []
    if l2_ratio > GROWN:
        advice = "Check the normalisation: the SAE may expect inputs of another scale."
        return [(Quality.FAIR, Reason(f"Reconstructions are {l2_ratio - 1:.0%} too long.", advice))]
    advice = (
        "An SAE that explains part of the activation is short by that part; an L1 penalty "
        "shortens it more: see the other reasons."
    )
    return [(Quality.FAIR, Reason(f"Reconstructions are {1 - l2_ratio:.0%} too short.", advice))]


def _against(baselines: Baselines | None, ev: float, *, transcoder: bool) -> list[Finding]:
    if baselines is None:
        return []
    findings = list[Finding]()
    chance, pca = baselines.random_sae, baselines.pca
    if chance.explained_variance is not None and ev <= chance.explained_variance:
        advice = (
            "Training has learned nothing, or this is another model or hook: check both, "
            "then train longer."
        )
        findings.append(
            (
                Quality.WRONG,
                Reason(
                    "Random features of the same number and L0 explain "
                    f"{chance.explained_variance:.0%}: as much.",
                    advice,
                ),
            )
        )
    if (
        pca.explained_variance is None or transcoder
    ):  # PCA sees the transcoder's target, the transcoder does not
        return findings
    if ev < pca.explained_variance:
        advice = (
            "The features are not worth their number yet: train on more tokens, or with a "
            "larger d_sae."
        )
        finding = f"A PCA with {pca.size} directions explains more ({pca.explained_variance:.0%})."
        return [*findings, (Quality.DOUBTFUL, Reason(finding, advice))]
    finding = (
        f"A PCA with as many directions as features fire ({pca.size}) explains "
        f"{pca.explained_variance:.0%}"
    )
    return [
        *findings,
        (
            Quality.GOOD,
            Reason(f"{finding}; it needs {baselines.pca_rank_to_match} for as much as the SAE."),
        ),
    ]


def _certainty(intervals: dict[str, Interval], n_tokens: int) -> list[Finding]:
    wide = [
        name
        for name in ("explained_variance", "ce_score")
        if name in intervals and _half(intervals[name]) > WIDE
    ]
    if n_tokens >= FEW_TOKENS and not wide:
        return []
    what = (
        f"{' and '.join(wide)} uncertain by more than {WIDE}" if wide else f"only {n_tokens} tokens"
    )
    return [
        (
            Quality.GOOD,
            Reason(
                f"The text is short: {what}.",
                "Evaluate on more tokens (n_tokens) before comparing SAEs.",
            ),
        )
    ]


def _half(interval: Interval) -> float:
    return (interval.high - interval.low) / 2
