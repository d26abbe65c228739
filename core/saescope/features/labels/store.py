"""What features are called: several labels a feature, each with its source and the score of its
tests, searchable by their words."""

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from saescope.database import Row
from saescope.errors import ArgumentError
from saescope.features.labels.database import (
    LABELS,
    LABELS_DB,
    QUIZZES,
    VOID,
    labels_path,
    transaction,
)
from saescope.features.labels.scores import AnswerCounts, score
from saescope.records.labels import Label
from saescope.untrusted import MOST_CHARS, clean_line

MOST_MATCHES = 1000
_NOTHING = AnswerCounts(0, 0, 0, 0)


@dataclass(frozen=True)
class LabelStore:
    """The labels of all SAEs, by the hash of their weights."""

    path: Path = field(default_factory=labels_path)

    def add(self, weights_hash: str, feature: int, text: str, *, source: str) -> Label:
        """Store a label; one that is there already keeps its source and its score.

        Raises:
            ArgumentError: the text is empty or longer than 300 characters.
        """
        self.add_many(weights_hash, [(feature, text)], source=source)
        key = _key(clean_label(text))
        return next(label for label in self.of(weights_hash, feature) if _key(label.text) == key)

    def add_many(self, weights_hash: str, rows: Iterable[tuple[int, str]], *, source: str) -> None:
        """Store labels (feature, text) of one source, all or none."""
        labels = [(feature, clean_label(text)) for feature, text in rows]
        with LABELS_DB.open(self.path) as db, transaction(db):
            for feature, text in labels:
                insert_label(db, weights_hash, feature, text, source)

    def of(self, weights_hash: str, feature: int) -> list[Label]:
        """All labels of a feature: tested and better than chance first, then untested, then those
        that failed."""
        return self.of_many(weights_hash, [feature]).get(feature, [])

    def best(self, weights_hash: str, features: Sequence[int]) -> dict[int, Label]:
        """Return the first label of each feature that has one."""
        return {
            feature: labels[0] for feature, labels in self.of_many(weights_hash, features).items()
        }

    def of_many(self, weights_hash: str, features: Sequence[int]) -> dict[int, list[Label]]:
        """Return all labels of each feature that has any."""
        if not self.path.exists() or not features:
            return {}
        rest = "WHERE weights_hash = ? AND feature IN (SELECT value FROM json_each(?))"
        with LABELS_DB.open(self.path) as db:
            rows = LABELS_DB.select(db, LABELS, rest, (weights_hash, json.dumps(list(features))))
            labels = _labels(db, weights_hash, rows)
        by_feature: dict[int, list[Label]] = {}
        for label in sorted(labels, key=_trust):
            by_feature.setdefault(label.feature, []).append(label)
        return by_feature

    def search(
        self, weights_hash: str, query: str, *, k: int = 10, offset: int = 0
    ) -> tuple[list[Label], int]:
        """The features whose labels share words with `query`, one label each, and how many there
        are.

        Best match first (bm25, words by their stems); labels that failed their test come last.
        """
        words = [f'"{word}"' for word in re.findall(r"\w+", query)]
        if not self.path.exists() or not words:
            return [], 0
        rest = f"""JOIN label_words ON labels.id = label_words.rowid
            WHERE label_words MATCH ? AND weights_hash = ?
            ORDER BY bm25(label_words), feature, labels.id LIMIT {MOST_MATCHES}"""
        with LABELS_DB.open(self.path) as db:
            rows = LABELS_DB.select(db, LABELS, rest, (" OR ".join(words), weights_hash))
            labels = _labels(db, weights_hash, rows)
        first: dict[int, Label] = {}
        for label in sorted(labels, key=_failed):
            first.setdefault(label.feature, label)
        return list(first.values())[offset : offset + k], len(first)

    def remove(self, label_id: int) -> bool:
        """Remove a label, and tell whether there was such a one."""
        with LABELS_DB.open(self.path) as db:
            there = db.execute("DELETE FROM labels WHERE id = ?", [label_id]).rowcount == 1
            LABELS_DB.copy(db, self.path, every_s=0.0)
            return there


def clean_label(text: str) -> str:
    """Make a label one line of plain text.

    Raises:
        ArgumentError: nothing is left, or more than 300 characters.
    """
    cleaned = clean_line(text, len(text) + 1)
    if 0 < len(cleaned) <= MOST_CHARS:
        return cleaned
    raise ArgumentError(
        f"A label has 1 to {MOST_CHARS} characters.",
        code="LABEL_LENGTH",
        field="text",
        got=f"{len(cleaned)} characters",
        allowed=f"1..{MOST_CHARS}",
        hint="Say in one sentence on what the feature fires.",
    )


def insert_label(
    db: sqlite3.Connection, weights_hash: str, feature: int, text: str, source: str
) -> int:
    """The id of this label, which is new or was there; letter case does not count."""
    key = _key(text)
    of_feature = "WHERE weights_hash = ? AND feature = ? AND key = ?"
    if there := LABELS_DB.select(db, LABELS, of_feature, (weights_hash, feature, key)):
        return there[0]["id"]
    label_id = 1 + db.execute("SELECT coalesce(max(id), 0) FROM labels").fetchone()[0]
    row = {
        "id": label_id,
        "weights_hash": weights_hash,
        "feature": feature,
        "text": text,
        "key": key,
    }
    row |= {"source": source, "created": now(), "detection": None, "fuzzing": None}
    LABELS_DB.insert(db, LABELS, row)
    return label_id


def add_score(
    db: sqlite3.Connection, label_id: int, detection: AnswerCounts, fuzzing: AnswerCounts
) -> Label:
    """Add the answers of one more quiz to a label's own."""
    row = LABELS_DB.select(db, LABELS, "WHERE id = ?", [label_id])[0]
    pooled = {
        kind: json.dumps(_counts(row[kind]).plus(new))
        for kind, new in (("detection", detection), ("fuzzing", fuzzing))
    }
    LABELS_DB.update(db, LABELS, label_id, pooled)
    (label,) = _labels(db, row["weights_hash"], [row | pooled])
    return label


def now() -> str:
    """The present time, as it is stored."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _key(text: str) -> str:
    return text.casefold()


def _counts(stored: str | None) -> AnswerCounts:
    return AnswerCounts(*json.loads(stored)) if stored else _NOTHING


def _labels(db: sqlite3.Connection, weights_hash: str, rows: Sequence[Row]) -> list[Label]:
    """Labels with the tries of their features, which the quizzes tell: whoever tests again and
    again, or label after label, finds a good one by chance."""
    tested = [row["feature"] for row in rows if row["detection"] or row["fuzzing"]]
    rest = "WHERE weights_hash = ? AND feature IN (SELECT value FROM json_each(?)) "
    rest += "AND answered IS NOT NULL AND answered != ?"
    given = (weights_hash, json.dumps(tested), VOID)
    quizzes = LABELS_DB.select(db, QUIZZES, rest, given) if tested else []
    tries = Counter(quiz["feature"] for quiz in quizzes)
    return [_label(row, max(1, tries[row["feature"]])) for row in rows]


def _label(row: Row, n_tries: int) -> Label:
    counts = [_counts(row["detection"]), _counts(row["fuzzing"])]
    tested = score(*counts, n_tries=n_tries) if counts != [_NOTHING, _NOTHING] else None
    return Label(row["id"], row["feature"], row["text"], row["source"], row["created"], tested)


def _failed(label: Label) -> bool:
    return label.score is not None and label.score.balanced_accuracy <= 0.5


def _trust(label: Label) -> tuple[int, float, int]:
    """Above chance beyond doubt, above chance, the user's own word, other untested ones, failed;
    the newest first."""
    if label.score is None:
        return (2 if label.source == "you" else 3), 0.0, -label.id
    sure = label.score.low > 0.5
    return (4 if _failed(label) else 0 if sure else 1), -label.score.low, -label.id
