"""Words, statistics and conflicts that a claim is judged by."""

from dataclasses import replace
from typing import Any

import pytest

from saescope.errors import ArgumentError
from saescope.ledger import KeptEntry, findings, judge_claim
from saescope.ledger.claims import LEVELS
from saescope.ledger.findings import student
from saescope.ledger.words import other_features, told_direction, words_above
from saescope.records.claims import FeatureClaim

CLAIM = FeatureClaim(
    text="It raises it.",
    sae="m/1.x",
    feature=3,
    effect=" sea",
    direction="raises",
    level="controlled",
)


def pushed(effect: float = 3.0, *, prompt: str = "On the", **more: Any) -> KeptEntry:
    """The kept result of a push beside 19 controls of deviation 0.5."""
    control = {"mean": 0.0, "sd": 0.5, "n": 19, "p": 0.05, "outside": True}
    edit = {"feature": 3, "mode": "add", "strength": 2.0, "positions": []}
    return KeptEntry(
        tool="intervene",
        arguments={
            "sae": "m/1.x",
            "prompt": prompt,
            "prompts": [],
            "edits": [edit | more.pop("edit", {})],
            "target": " sea",
            "against": "",
        },
        document={
            "summary": "s",
            "evidence": "controlled",
            "effect": effect,
            "touched": True,
            "control": control | more.pop("control", {}),
            "before": {"target": {"token": " sea"}},
            "provenance": {"sae": "m/1.x", "weights_hash": more.pop("weights", "a" * 64)},
        },
    )


@pytest.mark.parametrize(
    ("t", "n", "p"), [(2.101, 19, 0.05), (2.878, 19, 0.01), (4.303, 3, 0.05), (2.228, 11, 0.05)]
)
def test_p_is_that_of_the_published_tables(t: float, n: int, p: float) -> None:
    """Student's t with n - 1 degrees of freedom; one more draw is sqrt(1 + 1/n) as wide."""
    assert student(t * (1 + 1 / n) ** 0.5, 0.0, 1.0, n) == pytest.approx(p, rel=2e-3)


@pytest.mark.parametrize(
    ("mode", "strength", "effect", "direction"),
    [
        ("add", 2.0, 1.0, "raises"),
        ("add", -2.0, 1.0, "lowers"),
        ("ablate", 1.0, -1.0, "raises"),
        ("project_out", 1.0, 1.0, "lowers"),
        ("scale", 0.5, -1.0, "raises"),
        ("scale", 3.0, 1.0, "raises"),
        ("clamp", 0.0, -1.0, "raises"),
        ("clamp", 4.0, -1.0, "lowers"),
    ],
)
def test_what_a_feature_does_is_told_from_what_its_edit_does(
    mode: str, strength: float, effect: float, direction: str
) -> None:
    (found,) = findings(pushed(effect, edit={"mode": mode, "strength": strength}))
    assert found.direction == direction


@pytest.mark.parametrize(
    ("text", "direction"),
    [
        ("It raises it.", "raises"),
        ("Removing it lowers the token.", "raises"),
        ("Without it the token is more likely.", "lowers"),
        ("It suppresses the token.", "lowers"),
        ("It raises one and lowers another.", ""),
        ("It fires on the sea.", ""),
    ],
)
def test_the_direction_of_a_sentence(text: str, direction: str) -> None:
    assert told_direction(text) == direction


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("Feature 3 causes it.", "intervened"),
        ("It is BECAUSE of feature 3.", "intervened"),
        ("Feature 3 drives the prediction.", "intervened"),
        ("It is the sea feature.", "correlates"),
        ("It represents the sea.", "correlates"),
        ("Its effect is specific.", "controlled"),
        ("It does so for all prompts.", "replicated"),
        ("It is necessary.", "replicated"),
        ("It fires on the sea.", None),
        ("It was active at three tokens.", None),
    ],
)
def test_words_need_a_level(text: str, level: str | None) -> None:
    needed = [each for _, each in words_above(text, -1, LEVELS)]
    assert needed == ([level] if level else [])
    if level:
        assert words_above(text, LEVELS.index(level), LEVELS) == []


def test_features_that_a_text_names() -> None:
    assert other_features("Feature 3 and latent #12, not feature 4 or 1995.", 3) == [12, 4]


def test_a_result_with_controls_that_says_the_opposite_takes_the_controls_away() -> None:
    one, other = pushed(), pushed(-3.0, prompt="In the")
    assert judge_claim(CLAIM, [one]).verdict == "stands"
    done = judge_claim(CLAIM, [one], others=[other])
    assert (done.verdict, done.level) == ("lowered", "intervened")
    assert done.contradicting[0].result_id == other.result_id


def test_results_of_changed_weights_do_not_add_up() -> None:
    one, other = pushed(), pushed(prompt="In the", weights="b" * 64)
    done = judge_claim(replace(CLAIM, level="replicated"), [one, other])
    assert done.verdict == "refused" and "different weights" in done.reasons[0]


def test_many_looks_cost_a_weak_result_its_level_and_a_strong_one_nothing() -> None:
    control = {"p": 0.4, "outside": False}
    looks = [pushed(0.2, edit={"strength": float(i)}, control=control) for i in range(3, 13)]
    assert judge_claim(CLAIM, [pushed(1.3)]).level == "controlled"
    picked = judge_claim(CLAIM, [pushed(1.3)], others=looks)
    assert (picked.level, picked.looks.n_counted) == ("intervened", 11)
    assert judge_claim(CLAIM, [pushed(5.0)], others=looks).level == "controlled"


def test_a_level_or_direction_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="level"):
        judge_claim(replace(CLAIM, level="proven"), [pushed()])
    with pytest.raises(ArgumentError, match="direction"):
        judge_claim(replace(CLAIM, direction="moves"), [pushed()])
