"""Quizzes: blind, balanced, answered once; a right label scores high, a wrong one about one half,
and no card shows their texts."""

import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.core.features.planted import WORDS

from saescope.errors import ArgumentError, NotFoundError
from saescope.features import (
    Label,
    LabelStore,
    Quiz,
    QuizItem,
    QuizStore,
    feature_card,
    make_quiz,
    nearest_features,
)
from saescope.features.index import FeatureIndex
from saescope.features.labels.quiz_store import MARKS
from saescope.models import LanguageModel
from saescope.saes import SAE

QUEEN = WORDS.index(" Queen")


def judge_by(word: str) -> Callable[[QuizItem], bool]:
    """What somebody answers who knows nothing but the label "the word ..."."""

    def answer(item: QuizItem) -> bool:
        marked = re.search(f"{MARKS[0]}(.*?){MARKS[1]}", item.text)
        assert (marked is not None) == (item.kind == "fuzzing")
        return marked[1].strip() == word.strip() if marked else word.strip() in item.text.split()

    return answer


def take(quiz: Quiz, index: FeatureIndex, label: str, answer: Callable[[QuizItem], bool]) -> Label:
    answers = [answer(item) for item in quiz.items]
    weights_hash = index.manifest.weights_hash
    answered = QuizStore().answer(
        quiz.id,
        answers,
        weights_hash=weights_hash,
        feature=quiz.feature,
        text=label,
        source="agent",
    )
    return answered.label


@pytest.mark.parametrize("feature", range(len(WORDS)))
def test_the_right_label_answered_honestly_is_perfect(
    planted: SAE, planted_index: FeatureIndex, feature: int
) -> None:
    similar = [row.feature for row in nearest_features(planted, feature)]
    quiz = make_quiz(planted_index, feature, similar=similar)
    label = take(quiz, planted_index, f"the word{WORDS[feature]}", judge_by(WORDS[feature]))
    assert len(quiz.items) == 12 and label.score
    assert (
        label.score.balanced_accuracy,
        label.score.detection,
        label.score.fuzzing,
        label.verdict,
    ) == (1, 1, 1, "good")
    assert 0.7 < label.score.low < label.score.high == 1


@pytest.mark.parametrize("feature", [0, 3, 7])
def test_a_wrong_label_planted_in_the_store_scores_badly_and_says_so(
    planted_index: FeatureIndex, feature: int
) -> None:
    wrong, weights_hash = WORDS[feature + 1], planted_index.manifest.weights_hash
    LabelStore().add(weights_hash, feature, f"the word{wrong}", source="neuronpedia:some-model")
    quiz = make_quiz(planted_index, feature, n=16)
    label = take(quiz, planted_index, f"the word{wrong}", judge_by(wrong))
    assert label.source == "neuronpedia:some-model" and label.score
    assert label.score.balanced_accuracy <= 0.7 and label.score.low < 0.5
    assert label.verdict not in ("good", "better than chance")
    assert LabelStore().best(weights_hash, [feature])[feature].verdict == label.verdict


def test_random_answers_are_worth_one_half(planted_index: FeatureIndex) -> None:
    rng, covered = random.Random(0), 0
    for feature in range(len(WORDS)):
        score = take(
            make_quiz(planted_index, feature),
            planted_index,
            "anything",
            lambda item: rng.random() < 0.5,
        ).score
        assert score
        covered += score.low <= 0.5 <= score.high
    assert covered >= len(WORDS) - 2


def test_half_of_the_items_fire_in_both_kinds_and_their_order_tells_nothing(
    planted_index: FeatureIndex,
) -> None:
    orders: set[tuple[bool, ...]] = set()
    for seed in range(6):
        items = make_quiz(planted_index, QUEEN, seed=seed).items
        truth = [judge_by(" Queen")(item) for item in items]
        assert [item.n for item in items] == list(range(1, 13))
        for kind in ("detection", "fuzzing"):
            assert [
                right for item, right in zip(items, truth, strict=True) if item.kind == kind
            ].count(True) == 3
        orders.add(tuple(truth))
    assert len(orders) == 6


def test_some_fuzzing_items_mark_the_wrong_token_of_a_text_in_which_it_fires(
    planted_index: FeatureIndex,
) -> None:
    items = [
        item
        for seed in range(4)
        for item in make_quiz(planted_index, QUEEN, seed=seed).items
        if item.kind == "fuzzing"
    ]
    assert any(not judge_by(" Queen")(item) and "Queen" in item.text for item in items)


def test_no_text_of_a_quiz_is_on_a_card_nor_twice_in_a_quiz(
    glass: LanguageModel, planted: SAE, planted_index: FeatureIndex
) -> None:
    for feature in range(len(WORDS)):
        quiz = make_quiz(planted_index, feature, n=20)
        texts = [
            "".join(item.text.replace(MARKS[0], "").replace(MARKS[1], "").split())
            for item in quiz.items
        ]
        assert len(set(texts)) == len(texts)
        card = feature_card(glass, planted, feature, index=planted_index, n_examples=100)
        shown = ["".join("".join(example.tokens).split()) for example in card.examples]
        assert len(shown) > 5
        assert not any(a in b or b in a for a in shown for b in texts)


def test_the_same_call_gives_the_same_quiz_until_it_is_answered_and_then_other_texts(
    planted_index: FeatureIndex,
) -> None:
    quiz = make_quiz(planted_index, QUEEN)
    assert make_quiz(planted_index, QUEEN) == quiz
    take(quiz, planted_index, "x", lambda item: True)
    later = make_quiz(planted_index, QUEEN)
    assert later.id != quiz.id and not {item.text for item in later.items} & {
        item.text for item in quiz.items
    }


def test_a_quiz_is_answered_once_and_spends_its_texts_in_others_too(
    planted_index: FeatureIndex,
) -> None:
    first, second = make_quiz(planted_index, QUEEN, n=24), make_quiz(planted_index, QUEEN, n=20)
    take(first, planted_index, "x", judge_by(" Queen"))
    for quiz in (first, second):
        with pytest.raises(ArgumentError) as caught:
            take(quiz, planted_index, "x", judge_by(" Queen"))
        assert caught.value.code == "QUIZ_USED" and "make_quiz" in caught.value.hint
    [label] = LabelStore().of(planted_index.manifest.weights_hash, QUEEN)
    assert label.score and label.score.n == len(first.items)


def test_answers_must_fit_the_quiz(planted_index: FeatureIndex) -> None:
    quiz, weights_hash = make_quiz(planted_index, QUEEN), planted_index.manifest.weights_hash
    cases: list[tuple[str, str, list[bool], int, str]] = [
        ("QUIZ_NOT_FOUND", "q123", [True] * 12, QUEEN, weights_hash),
        ("ANSWERS_LENGTH", quiz.id, [True] * 11, QUEEN, weights_hash),
        ("QUIZ_MISMATCH", quiz.id, [True] * 12, QUEEN + 1, weights_hash),
        ("QUIZ_MISMATCH", quiz.id, [True] * 12, QUEEN, "other"),
    ]
    for code, quiz_id, answers, feature, sae in cases:
        with pytest.raises((ArgumentError, NotFoundError)) as caught:
            QuizStore().answer(
                quiz_id, answers, weights_hash=sae, feature=feature, text="x", source="agent"
            )
        assert caught.value.code == code
    assert LabelStore().of(weights_hash, QUEEN) == []
    take(quiz, planted_index, "still open", lambda item: True)


def test_encoding_the_texts_of_a_quiz_uses_it_up(planted_index: FeatureIndex) -> None:
    quiz, other = make_quiz(planted_index, QUEEN), make_quiz(planted_index, QUEEN + 1)
    item = quiz.items[0].text.replace(MARKS[0], "").replace(MARKS[1], "")
    assert QuizStore().void(["The Queen said very little."]) == []
    assert QuizStore().void(["unrelated", f"look: {item} again"]) == [quiz.id]
    with pytest.raises(ArgumentError, match="encoded after it was made"):
        take(quiz, planted_index, "x", lambda item: True)
    take(other, planted_index, "x", lambda item: True)


def test_when_the_index_has_no_texts_left_it_says_what_to_do(planted_index: FeatureIndex) -> None:
    sizes: list[int] = []
    with pytest.raises(NotFoundError) as caught:
        while True:
            quiz = make_quiz(planted_index, QUEEN, n=40)
            sizes.append(len(quiz.items))
            assert not quiz.warnings or f"Only {len(quiz.items)} of 40" in quiz.warnings[0]
            take(quiz, planted_index, "x", lambda item: True)
    assert (
        sizes
        and caught.value.code == "QUIZ_TOO_FEW_TEXTS"
        and "index_features" in caught.value.hint
    )


@pytest.mark.parametrize("n", [0, 3, 41])
def test_a_quiz_has_4_to_40_items(planted_index: FeatureIndex, n: int) -> None:
    with pytest.raises(ArgumentError, match="4 to 40"):
        make_quiz(planted_index, QUEEN, n=n)


def test_of_two_answers_at_once_one_counts(planted_index: FeatureIndex) -> None:
    quiz = make_quiz(planted_index, QUEEN)

    def attempt(_: int) -> str:
        try:
            take(quiz, planted_index, "x", judge_by(" Queen"))
        except ArgumentError as error:
            return error.code
        return "counted"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, range(4))) == ["QUIZ_USED"] * 3 + ["counted"]
    [label] = LabelStore().of(planted_index.manifest.weights_hash, QUEEN)
    assert label.score and label.score.n == 12


def test_the_items_that_were_missed_are_told(planted_index: FeatureIndex) -> None:
    quiz, right = make_quiz(planted_index, QUEEN), judge_by(" Queen")
    wrong = {2, 5, 11}
    answers = [right(item) ^ (item.n in wrong) for item in quiz.items]
    sae = planted_index.manifest.weights_hash
    missed = (
        QuizStore()
        .answer(quiz.id, answers, weights_hash=sae, feature=QUEEN, text="q", source="agent")
        .missed
    )
    assert [item.n for item in missed] == sorted(wrong)
    for item in missed:
        asked = quiz.items[item.n - 1]
        assert (item.kind, item.text, item.answer) == (asked.kind, asked.text, not right(asked))
        assert item.fires is right(asked)
