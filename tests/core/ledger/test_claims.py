"""Words, statistics and conflicts that a claim is judged by."""

from dataclasses import replace
from typing import Any

import pytest

from saescope.errors import ArgumentError
from saescope.ledger import KeptEntry, findings, judge_claim
from saescope.ledger.claims import LEVELS, NOT_ENGLISH
from saescope.ledger.sentences import sentence
from saescope.ledger.statistics import beside, student
from saescope.ledger.words import (
    absolute_words,
    other_features,
    quoted,
    told_direction,
    words_above,
)
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
            "before": {"target": {"token": " sea", "id": 9}, "against": None},
            "provenance": {
                "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
                "sae": "m/1.x",
                "weights_hash": more.pop("weights", "a" * 64),
            },
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
        ("project_out", 1.0, 1.0, ""),
        ("scale", 0.5, -1.0, "raises"),
        ("scale", 3.0, 1.0, "raises"),
        ("clamp", 0.0, -1.0, "raises"),
        ("clamp", 4.0, -1.0, ""),
        ("clamp", -4.0, -1.0, "raises"),
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
        ("It does so consistently.", "replicated"),
        ("It prevents the token.", "intervened"),
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
    assert other_features("Feature 3 and latent #12, not feature 4, in 1995.", 3) == [12, 4]
    assert other_features("Features 3, 8 and #9 raise it; neuron 10/11.", 3) == [8, 9, 10, 11]


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


def over(effects: dict[str, float], *, control: float = 0.0, **more: Any) -> KeptEntry:
    """The kept result of a push on several prompts, each with its effect."""
    up = sum(effect > 0 for effect in effects.values())
    n, size = len(effects), sum(effects.values()) / len(effects)
    sign = {"n_up": up, "n_down": n - up, "n_ties": 0, "p": 2 * 0.5**n if up in (0, n) else 0.4}
    rows = [{"target": " sea", "effect": e, "touched": True} for e in effects.values()]
    entry = pushed(size, control={"mean": control})
    targets = more.pop("targets", [])
    rows = [row | {"target": t} for row, t in zip(rows, targets, strict=True)] if targets else rows
    said = {"before": None, "on_prompts": rows, "n_touched": n, "sign_test": sign | more}
    given = entry.arguments | {"prompt": "", "prompts": [*effects]}
    return replace(entry, arguments=given, document=entry.document | said)


SEVEN = {f"On the {word}": 3.0 for word in ("sea", "sand", "hill", "road", "roof", "bus", "way")}
REPLICATED = replace(CLAIM, level="replicated")


def test_prompts_that_all_agree_replicate_and_one_that_does_not_ends_it() -> None:
    assert judge_claim(REPLICATED, [over(SEVEN)]).verdict == "stands"
    one_down = over(SEVEN | {"In the": -0.5}, p=0.04)
    assert judge_claim(REPLICATED, [one_down]).level == "controlled"
    ties = over(SEVEN | {"In the": 0.0}, p=0.016)
    assert judge_claim(REPLICATED, [ties]).level == "controlled"
    unknown = over(dict.fromkeys(SEVEN, 0.01), p=None)
    assert judge_claim(REPLICATED, [unknown]).level == "controlled"
    spelled = over(
        dict.fromkeys(("On the", "on the", "On the.", "ON THE", "On  the", "on the!"), 3.0)
    )
    assert judge_claim(REPLICATED, [spelled]).level == "controlled"


def test_a_sign_test_that_goes_against_its_mean_is_no_agreement() -> None:
    against = dict.fromkeys(SEVEN, -0.1) | {"In the": 30.0}
    assert judge_claim(REPLICATED, [over(against, p=0.01)]).level == "controlled"


def test_prompts_with_different_targets_are_an_effect_on_each() -> None:
    entry = over({"a": 1.0, "b": 2.0, "c": 4.0}, targets=[" sea", " king", " sea"])
    found = {each.effect: each for each in findings(entry)}
    assert (found[" sea"].size, found[" king"].size) == (2.5, 2.0)
    assert {each.level for each in found.values()} == {"intervened"}


@pytest.mark.parametrize("effect", [-0.2, 0.2])
def test_a_test_on_another_prompt_that_fails_ends_a_replication(effect: float) -> None:
    two = [pushed(), pushed(prompt="In the")]
    assert judge_claim(REPLICATED, two).verdict == "stands"
    failed = pushed(effect, prompt="By the", control={"outside": False, "p": 0.4})
    done = judge_claim(REPLICATED, two, others=[failed])
    assert (done.verdict, done.level) == ("lowered", "controlled")
    assert failed.result_id in done.reasons[1]


def test_an_effect_that_is_smaller_than_that_of_its_controls_is_none() -> None:
    small = pushed(0.5, control={"mean": 4.0})
    assert judge_claim(CLAIM, [small]).checks[0].counts == "fails"
    told = beside({"n": 19, "mean": -4.0, "sd": 0.5, "outside": True, "p": 0.05}, -0.5)
    assert told["beyond"] is False


def test_a_test_without_controls_says_nothing_where_the_same_one_with_them_fails() -> None:
    control = {"n": 0, "mean": None, "sd": None, "p": None, "outside": False}
    bare = pushed(control=control)
    said = replace(CLAIM, level="intervened")
    assert judge_claim(said, [bare]).verdict == "stands"
    failed = pushed(control={"outside": False, "p": 0.4})
    done = judge_claim(said, [bare], others=[failed])
    assert done.verdict == "refused" and failed.result_id in done.checks[0].why


def test_a_result_of_the_weights_of_now_counts_and_others_do_not() -> None:
    assert judge_claim(CLAIM, [pushed()], weights="a" * 64).verdict == "stands"
    done = judge_claim(CLAIM, [pushed()], weights="b" * 64)
    assert done.verdict == "refused" and "other weights (aaaaaaaa)" in done.checks[0].why
    other = pushed(-3.0, prompt="In the", weights="b" * 64)
    assert judge_claim(CLAIM, [pushed()], others=[other]).contradicting == ()


def test_another_spelling_of_a_token_is_a_look_but_no_evidence() -> None:
    entry = pushed(1.2)
    spelled = {"target": {"token": "Sea", "id": 8}, "against": None}
    looks = [
        replace(
            pushed(0.2, edit={"strength": float(i)}), document=entry.document | {"before": spelled}
        )
        for i in range(3, 9)
    ]
    assert judge_claim(CLAIM, looks).verdict == "refused"
    assert judge_claim(CLAIM, [entry], others=looks).looks.n_counted == 7


def test_a_bar_may_be_a_token_itself() -> None:
    bars = pushed()
    bars = replace(
        bars,
        document=bars.document | {"before": {"target": {"token": "||", "id": 7}, "against": None}},
    )
    assert judge_claim(replace(CLAIM, effect="||"), [bars]).verdict == "stands"
    assert judge_claim(replace(CLAIM, effect="|"), [bars]).verdict == "refused"


def test_a_finding_reads_as_plain_english() -> None:
    (found,) = findings(pushed())
    assert sentence(found) == (
        "adding 2 times its typical activation changes the log-probability of ' sea' by +3 nats on "
        "one prompt, further than 19 random features (p 1.5e-05 by Student's t): it raises it"
    )
    (found,) = findings(pushed(0.0, control={"outside": False, "p": 1.0}))
    assert sentence(found) == (
        "adding 2 times its typical activation does not change the log-probability of ' sea' on "
        "one prompt, no further than 19 random features (p 1 by Student's t): it does nothing to it"
    )
    (found,) = findings(over(SEVEN))
    assert "by +3 nats on average of 7 prompts, all of which agree, further than" in sentence(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It always does so.", ["always"]),
        ("It is necessary in every context.", ["necessary", "every context"]),
        ("It fires only on the sea.", ["fires only"]),
        ("It is the only feature that does so.", ["the only"]),
        ("It was measured only on one prompt.", []),
        ("It raises it on all 8 prompts.", []),
    ],
)
def test_words_that_no_number_of_tests_shows(text: str, words: list[str]) -> None:
    assert absolute_words(text) == words


def test_what_stands_in_quotes_is_told_from_apostrophes() -> None:
    text = "The model's ' sea' and \"king\" aren't `the` features' job."
    assert quoted(text) == [" sea", "king", "the"]
    assert quoted("It doesn't, and the tokens' sum isn't.") == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("It raises ' land'.", "another token"),
        ("It raises ' sea' on three prompts.", "says 3 prompts, its results have 1"),
        ("It raises ' sea' by 3.4 nats.", "3.4 nats, its results say +3"),
        ("It doesn't raise ' sea'.", "denies"),
        ("In layer 4 it raises ' sea'.", "layer 4, the SAE is of layer 1"),
        ("Features 3 and 4 raise ' sea'.", "names feature 4"),
        ("It raises ' sea', as feature four does.", "names feature 4"),
        ("It raises the probability of ' sea' by 40 %.", "40 %, which its results do not"),
        ("It doubles the probability of ' sea'.", "a factor"),
        ("It has no effect on ' sea'.", "denies"),
        ("It kills ' sea'.", "says that it lowers it"),
        ("It raises ' sea' on a hundred prompts.", "says 100 prompts"),
        ("It raises « land ».", "another token"),
        ("It raises ' sea' regardless of the prompt.", "'regardless'"),
        ("It raises ' sea' in all languages.", "'all languages'"),
        ("It raises ' sea' (p = 0.001).", "says 'p = 0.001'"),
        ("It raises ' sea', p < 1e-9.", "says 'p < 1e-9'"),
        ("In GPT-2 it raises ' sea'.", "the model GPT-2"),
        ("In SmolLM2-360M it raises ' sea'.", "the model SmolLM2-360M"),
        ("In Gemma 2 2B it raises ' sea'.", "the model Gemma 2 2B"),
        ("It raises ' sea' in larger models.", "'larger models'"),
        ("It raises ' sea' by 3.4.", "the number 3.4"),
        ("It raises ' sea' beyond 91 random features.", "the number 91"),
        ("It raises ' sea' by -3 nats.", "-3 nats, the claim that it raises it"),
        ("It raises ' sea' by 3 bits.", "a size in bits"),
        ("It raises ' sea' by four nats.", "'four nats'"),
        ("It makes ' sea' 5x as likely.", "a factor"),
        ("It raises ' sea' by half.", "a factor"),
        ("In the 4th layer it raises ' sea'.", "layer 4, the SAE is of layer 1"),
        ("In layers 1 and 4 it raises ' sea'.", "layer 4, the SAE is of layer 1"),
    ],
)
def test_a_sentence_that_says_something_else_than_its_fields_is_refused(
    text: str, why: str
) -> None:
    done = judge_claim(replace(CLAIM, text=text), [pushed()])
    assert done.verdict == "refused" and len(done.reasons) == 1 and why in done.reasons[0], (
        done.reasons
    )


@pytest.mark.parametrize(
    "text",
    [
        "It raises ' sea' by 3 nats.",
        "After 'On the' it raises the log-probability of ' sea' by about 3.0 nats on one prompt.",
        'In layer 1 of the model, feature 3 raises "sea".',
        "Removing it makes ' sea' less likely.",
        "In SmolLM2 135M it raises ' sea' further than 19 random features (p < 0.05).",
        "Adding 2 times its typical activation raises ' sea' by +3 nats, p = 1.5e-05.",
    ],
)
def test_a_sentence_that_says_what_its_fields_say_stands(text: str) -> None:
    done = judge_claim(replace(CLAIM, text=text), [pushed()])
    assert done.verdict == "stands" and not done.reasons, done.reasons


@pytest.mark.parametrize(
    "text",
    [
        "Feature 3 erh\u00f6ht die Wahrscheinlichkeit von ' sea'.",
        "Das Merkmal verursacht ' sea' immer.",
        "La feature 3 augmente la probabilit\u00e9 de ' sea'.",
        "It c\u0430uses ' sea'.",
    ],
)
def test_of_a_sentence_that_is_not_english_it_is_said_that_its_words_were_not_checked(
    text: str,
) -> None:
    done = judge_claim(replace(CLAIM, text=text), [pushed()])
    assert done.reasons == (NOT_ENGLISH,) and NOT_ENGLISH in done.printed
    wrong = judge_claim(replace(CLAIM, text=f"{text} 7.3"), [pushed()])
    assert wrong.verdict == "refused" and "the number 7.3" in wrong.reasons[0]
