"""Labels: kept once, best first, found by their words, never more sure than their tests."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from saescope.errors import ArgumentError
from saescope.features import LabelStore, QuizStore
from saescope.features.labels.quiz_store import StoredItem
from saescope.notices import collected

SAE_A, SAE_B = "a" * 64, "b" * 64


def items(n: int = 12, *, name: str = "x") -> list[StoredItem]:
    return [
        StoredItem("fuzzing" if i % 4 > 1 else "detection", f"{name} {i}", i % 2 == 0, f"{name}{i}")
        for i in range(n)
    ]


def take_quiz(text: str, right: int, *, feature: int = 7, weights_hash: str = SAE_A) -> None:
    """Answer a new quiz so that `right` of its 12 items are right."""
    asked = items(name=f"{text} {right} ")
    quiz = QuizStore().add(weights_hash, feature, asked, n=12, seed=0)
    answers = [item.fires == (i < right) for i, item in enumerate(asked)]
    QuizStore().answer(
        quiz.id, answers, weights_hash=weights_hash, feature=feature, text=text, source="agent"
    )


def test_a_label_is_kept_with_its_source_and_says_that_it_was_not_tested() -> None:
    label = LabelStore().add(SAE_A, 7, "  names of\nqueens ", source="agent")
    assert (label.text, label.source, label.score, label.verdict) == (
        "names of queens",
        "agent",
        None,
        "not tested",
    )
    assert LabelStore().of(SAE_A, 7) == [label]
    assert LabelStore().of(SAE_A, 8) == [] and LabelStore().of(SAE_B, 7) == []


def test_the_same_words_again_are_the_same_label() -> None:
    first = LabelStore().add(SAE_A, 7, "names of queens", source="neuronpedia:gpt-4o")
    assert LabelStore().add(SAE_A, 7, "Names of Queens", source="agent") == first


def test_the_best_label_comes_first() -> None:
    store = LabelStore()
    for text, source in (
        ("unknown", "neuronpedia:x"),
        ("the user's word", "you"),
        ("newer", "agent"),
    ):
        store.add(SAE_A, 7, text, source=source)
    for text, right in (("random", 6), ("perfect", 12), ("fair", 8), ("upside down", 0)):
        take_quiz(text, right)
    ordered = [label.text for label in store.of(SAE_A, 7)]
    assert ordered == [
        "perfect",
        "fair",
        "the user's word",
        "newer",
        "unknown",
        "random",
        "upside down",
    ]
    assert store.best(SAE_A, [7, 8])[7].text == "perfect" and 8 not in store.best(SAE_A, [7, 8])


def test_quizzes_of_one_label_are_added_up_and_not_picked_from() -> None:
    take_quiz("queens", 12)
    take_quiz("queens", 6)
    [label] = LabelStore().of(SAE_A, 7)
    assert label.score and label.score.n == 24 and label.score.balanced_accuracy == 0.75
    assert label.score.n_tries == 2
    take_quiz("kings", 12)
    tries = {each.text: each.score and each.score.n_tries for each in LabelStore().of(SAE_A, 7)}
    assert tries == {"queens": 3, "kings": 3}, "whatever the label, each quiz is a try"
    again = next(each for each in LabelStore().of(SAE_A, 7) if each.text == "queens").score
    assert again and again.low < label.score.low and again.n == 24
    assert label.score.detection is not None and label.score.fuzzing is not None


def test_search_finds_words_by_their_stems_and_one_label_a_feature() -> None:
    store = LabelStore()
    store.add_many(
        SAE_A,
        [(1, "dogs and other animals"), (2, "an animal at night"), (3, "the sea"), (1, "animals")],
        source="neuronpedia:x",
    )
    store.add(SAE_B, 5, "animals", source="you")
    found, total = store.search(SAE_A, "Animal")
    assert {label.feature for label in found} == {1, 2} and total == 2
    assert store.search(SAE_A, "animal", k=1, offset=1)[0] == found[1:2]
    assert store.search(SAE_A, "volcano") == ([], 0)
    assert [label.feature for label in store.search(SAE_B, "animal")[0]] == [5]


def test_search_puts_labels_that_failed_their_test_last() -> None:
    take_quiz("animals", 3, feature=1)
    LabelStore().add(
        SAE_A, 2, "a very long label about several kinds of animals and of plants", source="agent"
    )
    assert [label.feature for label in LabelStore().search(SAE_A, "animals")[0]] == [2, 1]


@pytest.mark.parametrize(
    "query", ['"', "NEAR(", "text:animals", "* OR 1=1 --", "-", "''", "\x00", "AND OR NOT"]
)
def test_no_query_is_a_syntax_error(query: str) -> None:
    LabelStore().add(SAE_A, 1, "animals", source="you")
    assert LabelStore().search(SAE_A, query)[1] in (0, 1)


@pytest.mark.parametrize("text", ["", " \n ", "\u202e\u200b", "x" * 301])
def test_an_empty_or_endless_label_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        LabelStore().add(SAE_A, 1, text, source="you")
    assert caught.value.code == "LABEL_LENGTH" and LabelStore().of(SAE_A, 1) == []


def test_hostile_text_is_stored_as_plain_words() -> None:
    text = "dogs \u202eevil\u202c \x1b[31mred\x1b[0m <script>alert(1)</script>"
    stored = LabelStore().add(SAE_A, 1, text, source="neuronpedia:x").text
    assert (
        "\u202e" not in stored
        and "\x1b" not in stored
        and "<script>" not in stored
        and stored.startswith("dogs evil red")
    )


def test_a_removed_label_is_not_found_again() -> None:
    label = LabelStore().add(SAE_A, 1, "animals", source="you")
    assert LabelStore().remove(label.id) and not LabelStore().remove(label.id)
    assert LabelStore().search(SAE_A, "animals") == ([], 0) and LabelStore().of(SAE_A, 1) == []


def test_reading_makes_no_file() -> None:
    store = LabelStore()
    assert (store.of(SAE_A, 1), store.search(SAE_A, "x"), store.path.exists()) == (
        [],
        ([], 0),
        False,
    )


def test_a_damaged_file_is_made_anew_from_its_last_good_copy_and_said() -> None:
    store = LabelStore()
    label = store.add(SAE_A, 1, "names of queens", source="you")
    store.path.write_bytes(torn := b"no database at all, " * 100)
    with collected() as told:
        assert store.of(SAE_A, 1) == [label] and store.search(SAE_A, "queen")[0] == [label]
    aside = next(store.path.parent.glob("labels.db.damaged-*"))
    assert len(told) == 1 and aside.name in told[0] and aside.read_bytes() == torn


def test_connections_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"

    def write(worker: int) -> None:
        for feature in range(20):
            LabelStore(path).add(SAE_A, feature, f"label {worker}", source="agent")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert all(len(LabelStore(path).of(SAE_A, feature)) == 4 for feature in range(20))
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM labels").fetchone() == (80,)
