"""The verdict: its level is that of the worst finding, and every bad finding says what to
change."""

from dataclasses import replace
from typing import Any

import pytest

from saescope.evals import Baseline, Baselines, Interval, Verdict
from saescope.evals.verdict import Measured, judge

BASELINES = Baselines(Baseline(32, 0.1, 0.2), Baseline(32, 0.5, 0.6), 150)
GOOD: dict[str, Any] = {
    "n_tokens": 20_000,
    "n_documents": 90,
    "l0": 32.0,
    "explained_variance": 0.85,
    "ce_score": 0.97,
    "clean_loss": 2.9,
    "ablation_cost": 6.0,
    "dead_share": 0.01,
    "dense_share": 0.001,
    "l2_ratio": 0.97,
    "baselines": BASELINES,
    "intervals": {"explained_variance": Interval(0.84, 0.86)},
    "transcoder": False,
}


def judged(changed: dict[str, Any]) -> Verdict:
    return judge(Measured(**{**GOOD, **changed}))


def test_a_good_sae_is_good_and_says_what_it_was_compared_with() -> None:
    verdict = judged({})
    assert verdict.level == "good" and not any(reason.advice for reason in verdict.reasons)
    assert any("PCA" in reason.finding and "150" in reason.finding for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("changed", "level", "words"),
    [
        ({"explained_variance": -0.2}, "wrong", "worse than the mean"),
        ({"explained_variance": 0.55}, "fair", "55%"),
        ({"explained_variance": 0.3, "baselines": None}, "doubtful", "more than half is lost"),
        ({"ce_score": 0.8}, "fair", "80%"),
        ({"ce_score": 0.58}, "doubtful", "58%"),
        ({"ce_score": -0.1}, "wrong", "CE score"),
        ({"dead_share": 0.4, "n_tokens": 200_000}, "fair", "never fired"),
        ({"dead_share": 0.4}, "good", "rare features count as dead"),
        ({"dense_share": 0.1}, "fair", "tenth of the positions"),
        ({"l2_ratio": 0.7}, "fair", "30% too short"),
        ({"l2_ratio": 1.4}, "fair", "40% too long"),
        ({"l0": 0.0}, "wrong", "No feature ever fires"),
        (
            {"baselines": replace(BASELINES, pca=Baseline(32, 0.9, 0.9))},
            "doubtful",
            "PCA with 32 directions explains more",
        ),
        (
            {"baselines": replace(BASELINES, random_sae=Baseline(32, 0.86, 0.9))},
            "wrong",
            "Random features",
        ),
        (
            {"intervals": {"over_random_sae": Interval(-0.02, 0.9)}},
            "doubtful",
            "cannot be told from random features",
        ),
        ({"intervals": {"over_random_sae": Interval(-0.9, -0.1)}}, "wrong", "Random features"),
        ({"intervals": {"over_pca": Interval(-0.01, 0.4)}}, "fair", "does not tell which"),
        ({"intervals": {"over_pca": Interval(-0.1, -0.01)}}, "doubtful", "explains more (50%)"),
        ({"intervals": {}}, "good", "90 documents, too few for an interval"),
        ({"clean_loss": 5.3}, "good", "At 5.3 nats a token"),
        (
            {"baselines": replace(BASELINES, random_sae=Baseline(32, 0.1, 0.945))},
            "good",
            "keeps 94%: here a high CE score is easy to reach",
        ),
        ({"n_tokens": 900}, "good", "The text is short"),
        ({"intervals": {"ce_score": Interval(0.7, 0.99)}}, "good", "ce_score uncertain"),
    ],
)
def test_the_worst_finding_decides_and_says_what_to_change(
    changed: dict[str, Any], level: str, words: str
) -> None:
    verdict = judged(changed)
    assert verdict.level == level
    (reason,) = [reason for reason in verdict.reasons if words in reason.finding]
    assert reason.advice
    if level != "good":
        assert verdict.reasons[0] == reason


def test_a_site_that_is_worth_nothing_has_no_ce_score_to_speak_of() -> None:
    verdict = judged({"ce_score": -9.0, "ablation_cost": -0.01})
    assert verdict.level == "good" and any(
        "says nothing" in reason.finding for reason in verdict.reasons
    )


def test_a_transcoder_is_not_measured_against_the_pca_of_its_target() -> None:
    assert (
        judged(
            {
                "transcoder": True,
                "explained_variance": 0.8,
                "baselines": replace(BASELINES, pca=Baseline(32, 0.9, 0.9)),
            }
        ).level
        == "good"
    )


def test_without_variance_there_is_no_verdict() -> None:
    assert judged({"explained_variance": None}).level == "unknown"


def test_the_summary_follows_from_the_finding_that_decided_and_names_what_is_good() -> None:
    verdict = judged({"explained_variance": 0.96, "dense_share": 0.073})
    assert verdict.summary == (
        "The SAE is usable, with a reservation: 7.3% of the features fire at more than a tenth of "
        "the positions. Good: explained variance 0.96, CE score 0.97, better than random "
        "features, better than 32 directions of a PCA."
    )
    two = judged({"explained_variance": 0.6, "l2_ratio": 0.8, "baselines": None}).summary
    assert "explained variance 0.60, a noticeable part is not explained; reconstructions" in two
    worst = judged({"explained_variance": -0.1, "dense_share": 0.5}).summary
    assert worst.startswith("The SAE does not belong here") and "dense" not in worst
    assert "-0.10, below 0" in worst and "CE score 0.97" in worst


@pytest.mark.parametrize(
    ("name", "value", "interval", "limit"),
    [
        ("explained_variance", 0.76, Interval(0.72, 0.79), "0.75"),
        ("explained_variance", 0.74, Interval(0.72, 0.79), "0.75"),
        ("explained_variance", 0.51, Interval(0.45, 0.56), "0.5"),
        ("ce_score", 0.92, Interval(0.88, 0.95), "0.9"),
        ("explained_variance", 0.85, Interval(0.83, 0.86), None),
    ],
)
def test_a_level_that_the_interval_straddles_is_said(
    name: str, value: float, interval: Interval, limit: str | None
) -> None:
    verdict = judged({name: value, "intervals": {name: interval}, "baselines": None})
    said = [reason.finding for reason in verdict.reasons if "does not decide" in reason.finding]
    assert len(said) == (limit is not None)
    assert limit is None or f"holds {limit}, the limit of another level" in said[0]


def test_a_site_whose_worth_is_not_told_from_nothing_makes_no_score_evidence() -> None:
    verdict = judged(
        {"ce_score": 0.3, "ablation_cost": 0.4, "intervals": {"ablation_cost": Interval(-0.1, 0.9)}}
    )
    assert verdict.level == "good" and any("little evidence" in r.finding for r in verdict.reasons)
