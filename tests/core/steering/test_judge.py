"""Verdicts of steering: two-sided, by probability and by repetition."""

import pytest

from saescope.controls import compare_with
from saescope.records.steering import GeneratedText, Metrics
from saescope.steering.judge import ConceptChange, is_relief, judge
from saescope.verdicts import Effect

OTHERS = [(i - 9) / 10 for i in range(19)]
"""19 controls from -0.9 to 0.9."""


def text(
    words: str, *, repetition: float = 0.0, perplexity: float = 3.0, n_tokens: int = 40
) -> GeneratedText:
    metrics = Metrics(
        concept_score=0.0,
        concept_logprob=None,
        perplexity=perplexity,
        repetition=repetition,
        kl=0.1,
    )
    return GeneratedText("a", words, n_tokens, metrics)


def change(nats: float, *, is_named: bool = True, others: list[float] = OTHERS) -> ConceptChange:
    return ConceptChange(nats, compare_with(nats, others), is_named)


PLAIN, OTHER = text("plain"), [text("other")]


@pytest.mark.parametrize("nats", [1.3, -1.3])
def test_more_and_less_of_the_concept_than_all_controls_are_specific(nats: float) -> None:
    """3.7 times the mass is 1.3 nats; the count of its tokens stays 0."""
    verdict = judge([PLAIN], OTHER, change(nats), None)
    assert verdict.level == Effect.SPECIFIC and f"{nats:+.2g} nats" in verdict.why
    assert verdict.why.endswith(f"{'more' if nats > 0 else 'less'} of the concept")


def test_as_much_as_a_control_is_unspecific() -> None:
    assert judge([PLAIN], OTHER, change(0.85), None).level == Effect.UNSPECIFIC


def test_less_than_random_features_give_is_unspecific() -> None:
    """Outside the controls, but between them and no effect."""
    nearer = change(0.2, others=[2 + other for other in OTHERS])
    assert nearer.control.outside
    assert judge([PLAIN], OTHER, nearer, None).level == Effect.UNSPECIFIC


def test_tokens_that_nobody_named_earn_no_verdict() -> None:
    for nats, level in ((3.0, Effect.OWN_TOKENS), (-3.0, Effect.CHANGED)):
        assert judge([PLAIN], OTHER, change(nats, is_named=False), None).level == level


def test_too_few_features_to_compare_with_are_said() -> None:
    few = change(3.0, others=[0.1, 0.2])
    assert judge([PLAIN], OTHER, few, None).level == Effect.UNCONTROLLED


def test_an_ablation_that_ends_a_loop_is_specific() -> None:
    """Repetition 0.65 falls to 0.13, with the controls it stays: no loop is put down to the edit,
    and no concept has to be named."""
    loop, freed = text("loop", repetition=0.65), [text("freed", repetition=0.13)]
    shown = [text("loop", repetition=0.65), text("loop", repetition=0.6)]
    assert is_relief(loop, freed, shown)
    relief = compare_with(0.13, [0.65] * 10 + [0.6] * 9)
    verdict = judge([loop], freed, change(0.3, is_named=False), relief)
    assert verdict.level == Effect.SPECIFIC and "from 0.65 to 0.13" in verdict.why


def test_a_loop_that_random_features_end_too_is_said_and_not_specific() -> None:
    loop, freed = text("loop", repetition=0.65), [text("freed", repetition=0.2)]
    relief = compare_with(0.2, [0.65] * 15 + [0.1] * 4)
    verdict = judge([loop], freed, change(0.3), relief)
    assert verdict.level == Effect.UNSPECIFIC and "from 0.65 to 0.2," in verdict.why


def test_a_loop_that_was_there_before_is_not_degenerate() -> None:
    loop = text("loop", repetition=0.65)
    stays = [text("still a loop", repetition=0.66)]
    assert judge([loop], stays, change(0.3), None).level == Effect.UNSPECIFIC
    assert judge([PLAIN], stays, change(0.3), None).level == Effect.DEGENERATE


@pytest.mark.parametrize(
    ("steered", "shown"),
    [
        ([text("a", repetition=0.6)], []),
        ([text("a", repetition=0.1)], [text("b", repetition=0.1)]),
        ([text("", n_tokens=2)], []),
    ],
    ids=["hardly less", "as with a control", "it ends at once"],
)
def test_no_relief(steered: list[GeneratedText], shown: list[GeneratedText]) -> None:
    assert not is_relief(text("loop", repetition=0.65), steered, shown)


def test_a_text_that_stays_the_same_says_what_it_does_not_show() -> None:
    same = judge([PLAIN], [text("plain")], change(1.3), None)
    assert same.level == Effect.NONE and "+1.3 nats" in same.why
    assert "nats" not in judge([PLAIN], [text("plain")], change(0.1), None).why
