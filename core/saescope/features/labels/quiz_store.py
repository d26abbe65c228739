"""Quizzes with their answers, which never leave: each is answered once, and its texts are spent
with it."""

import hashlib
import json
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from saescope.database import Row
from saescope.errors import ArgumentError, NotFoundError
from saescope.features.labels.database import LABELS_DB, QUIZZES, VOID, labels_path, transaction
from saescope.features.labels.scores import count
from saescope.features.labels.store import Label, add_score, clean_label, insert_label, now
from saescope.records.labels import MissedItem, Quiz, QuizItem

MARKS = ("⟦", "⟧")
"""Around the token that a fuzzing item asks about."""
LEAST_SHARED = 40
"""A text that shares this many characters with an item is that item's."""


@dataclass(frozen=True, slots=True)
class StoredItem:
    """A question with its answer."""

    kind: str
    text: str
    fires: bool
    key: str
    """The key of the passage, whichever token is marked in it."""


class Answered(NamedTuple):
    """What an answered quiz says of a label."""

    label: Label
    missed: list[MissedItem]


@dataclass(frozen=True)
class QuizStore:
    """Keeps quizzes beside the labels, in the same file."""

    path: Path = field(default_factory=labels_path)

    def add(
        self, weights_hash: str, feature: int, items: Sequence[StoredItem], *, n: int, seed: int
    ) -> Quiz:
        """Keep a new quiz; `n` items were asked for."""
        quiz_id = f"q{secrets.token_hex(5)}"
        row = {
            "id": quiz_id,
            "weights_hash": weights_hash,
            "feature": feature,
            "n": n,
            "seed": seed,
        }
        row |= {"created": now(), "items": json.dumps([asdict(item) for item in items])}
        with LABELS_DB.open(self.path) as db:
            LABELS_DB.insert(db, QUIZZES, row | {"answered": None})
        return _shown(quiz_id, feature, items, n)

    def find_open(self, weights_hash: str, feature: int, *, n: int, seed: int) -> Quiz | None:
        """The quiz of an earlier call with the same arguments that can still be answered."""
        if not self.path.exists():
            return None
        spent = self.spent(weights_hash, feature)
        rest = "WHERE weights_hash = ? AND feature = ? AND n = ? AND seed = ? AND answered IS NULL"
        with LABELS_DB.open(self.path) as db:
            rows = LABELS_DB.select(db, QUIZZES, rest, (weights_hash, feature, n, seed))
        quizzes = [(row["id"], _items(row["items"])) for row in rows]
        fresh = [
            (quiz_id, items)
            for quiz_id, items in quizzes
            if not spent & {item.key for item in items}
        ]
        return _shown(fresh[0][0], feature, fresh[0][1], n) if fresh else None

    def spent(self, weights_hash: str, feature: int) -> frozenset[str]:
        """Keys of the passages whose answers the feature's scores have told something about."""
        if not self.path.exists():
            return frozenset()
        with LABELS_DB.open(self.path) as db:
            return _spent(db, weights_hash, feature)

    def answer(
        self,
        quiz_id: str,
        answers: Sequence[bool],
        *,
        weights_hash: str,
        feature: int,
        text: str,
        source: str,
    ) -> Answered:
        """The label `text`, scored by these answers beside those of earlier quizzes, and what was
        missed; the quiz is used up.

        Raises:
            NotFoundError: there is no such quiz.
            ArgumentError: it was answered, or is about another feature, or needs another number of
                answers.
        """
        cleaned = clean_label(text)
        with LABELS_DB.open(self.path) as db, transaction(db):
            rows = LABELS_DB.select(db, QUIZZES, "WHERE id = ?", [quiz_id])
            row = rows[0] if rows else None
            items = _checked(row, quiz_id, weights_hash, feature, n_answers=len(answers))
            answered = row["answered"] if row else None
            if answered is not None or _spent(db, weights_hash, feature) & {i.key for i in items}:
                raise _used(quiz_id, feature, answered)
            kinds = [
                count(
                    [item.fires for item in items if item.kind == kind],
                    [a for item, a in zip(items, answers, strict=True) if item.kind == kind],
                )
                for kind in ("detection", "fuzzing")
            ]
            label_id = insert_label(db, weights_hash, feature, cleaned, source)
            LABELS_DB.update(db, QUIZZES, quiz_id, {"answered": now()})
            return Answered(add_score(db, label_id, *kinds), _missed(items, answers))

    def void(self, texts: Sequence[str]) -> list[str]:
        """Use up every open quiz of which an item stands in `texts`: to be called before these are
        encoded, which would tell its answers.

        Returns their ids.
        """
        if not self.path.exists():
            return []
        plain = ["".join(text.split()) for text in texts]
        with LABELS_DB.open(self.path) as db:
            rows = LABELS_DB.select(db, QUIZZES, "WHERE answered IS NULL")
            seen = [
                row["id"]
                for row in rows
                if any(_shares(item, plain) for item in _items(row["items"]))
            ]
            with transaction(db) if seen else nullcontext():
                for quiz_id in seen:
                    _void(db, quiz_id)
        return seen


def passage_key(tokens: Sequence[str]) -> str:
    """Name a passage by its tokens."""
    return hashlib.sha256("\0".join(tokens).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _shown(quiz_id: str, feature: int, items: Sequence[StoredItem], n: int) -> Quiz:
    shown = [QuizItem(i, item.kind, item.text) for i, item in enumerate(items, 1)]
    short = (
        [f"Only {len(items)} of {n} items: the index has no more texts that were not yet asked."]
        if len(items) < n
        else []
    )
    return Quiz(quiz_id, feature, shown, short)


def _missed(items: Sequence[StoredItem], answers: Sequence[bool]) -> list[MissedItem]:
    return [
        MissedItem(i, item.kind, item.text, answer, item.fires)
        for i, (item, answer) in enumerate(zip(items, answers, strict=True), 1)
        if answer != item.fires
    ]


def _spent(db: sqlite3.Connection, weights_hash: str, feature: int) -> frozenset[str]:
    rest = "WHERE weights_hash = ? AND feature = ? AND answered IS NOT NULL"
    rows = LABELS_DB.select(db, QUIZZES, rest, (weights_hash, feature))
    return frozenset(item.key for row in rows for item in _items(row["items"]))


def _void(db: sqlite3.Connection, quiz_id: str) -> None:
    """Use up a quiz, unless it has been answered since it was looked at."""
    if LABELS_DB.select(db, QUIZZES, "WHERE id = ? AND answered IS NULL", [quiz_id]):
        LABELS_DB.update(db, QUIZZES, quiz_id, {"answered": VOID})


def _items(stored: str) -> list[StoredItem]:
    return [StoredItem(**item) for item in json.loads(stored)]


def _checked(
    row: Row | None, quiz_id: str, weights_hash: str, feature: int, *, n_answers: int
) -> list[StoredItem]:
    again, facts = (
        f"Make a quiz of feature {feature} with ss.make_quiz.",
        {"feature": feature},
    )
    if row is None:
        raise NotFoundError(
            f"There is no quiz {quiz_id!r}.",
            code="QUIZ_NOT_FOUND",
            field="quiz_id",
            got=quiz_id,
            hint=again,
            facts=facts,
        )
    if (row["weights_hash"], row["feature"]) != (weights_hash, feature):
        other = "" if row["weights_hash"] == weights_hash else " of another SAE"
        raise ArgumentError(
            f"Quiz {quiz_id} is about feature {row['feature']}{other}, not feature {feature}.",
            code="QUIZ_MISMATCH",
            field="quiz_id",
            got=quiz_id,
            allowed="a quiz of this feature",
            hint=again,
            facts=facts,
        )
    items = _items(row["items"])
    if n_answers != len(items):
        raise ArgumentError(
            f"Quiz {quiz_id} has {len(items)} items, got {n_answers} answers.",
            code="ANSWERS_LENGTH",
            field="answers",
            got=n_answers,
            allowed=len(items),
            hint="Give one boolean an item, in the order of the items.",
        )
    return items


def _used(quiz_id: str, feature: int, answered: str | None) -> ArgumentError:
    why = (
        "some of its texts were asked in a quiz that is answered"
        if answered is None
        else "it was answered before"
    )
    return ArgumentError(
        f"Quiz {quiz_id} cannot be answered: "
        f"{'its texts were encoded after it was made' if answered == VOID else why}.",
        code="QUIZ_USED",
        field="quiz_id",
        got=quiz_id,
        hint=f"Make a new quiz of feature {feature} with ss.make_quiz.",
        facts={"feature": feature},
    )


def _shares(item: StoredItem, plain: Sequence[str]) -> bool:
    """Whether a text holds a stretch of the item, or the item the text; spaces and marks do not
    count."""
    own = "".join(item.text.replace("⟦", "").replace("⟧", "").split())
    stretches = [
        own[i : i + LEAST_SHARED]
        for i in range(0, max(1, len(own) - LEAST_SHARED + 1), LEAST_SHARED // 2)
    ]
    return any(
        any(stretch in text for stretch in stretches)
        or (len(text) >= LEAST_SHARED // 2 and text in own)
        for text in plain
    )
