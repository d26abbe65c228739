"""Labels and quizzes in one SQLite file, `labels.db` in the home folder; opened anew for each call,
by any thread or process."""

from pathlib import Path

from saescope.database import Database, Table, transaction
from saescope.names import home

LABELS = Table(
    "labels",
    ("id", "weights_hash", "feature", "text", "key", "source", "created", "detection", "fuzzing"),
    (
        *("INTEGER PRIMARY KEY", "TEXT NOT NULL", "INTEGER NOT NULL", "TEXT NOT NULL"),
        *("TEXT NOT NULL", "TEXT NOT NULL", "TEXT NOT NULL", "TEXT", "TEXT"),
    ),
    "UNIQUE (weights_hash, feature, key)",
)
QUIZZES = Table(
    "quizzes",
    ("id", "weights_hash", "feature", "n", "seed", "created", "items", "answered"),
    (
        *("TEXT PRIMARY KEY", "TEXT NOT NULL", "INTEGER NOT NULL", "INTEGER NOT NULL"),
        *("INTEGER NOT NULL", "TEXT NOT NULL", "TEXT NOT NULL", "TEXT"),
    ),
)
VOID = "void"
"""Stands for the time of the answer of a quiz that was never answered and cannot be."""
_MORE = """
CREATE VIRTUAL TABLE IF NOT EXISTS label_words USING fts5
    (text, content='labels', content_rowid='id', tokenize='porter unicode61');
CREATE TRIGGER IF NOT EXISTS label_added AFTER INSERT ON labels BEGIN
    INSERT INTO label_words (rowid, text) VALUES (new.id, new.text); END;
CREATE TRIGGER IF NOT EXISTS label_removed AFTER DELETE ON labels BEGIN
    INSERT INTO label_words (label_words, rowid, text) VALUES ('delete', old.id, old.text); END;
CREATE INDEX IF NOT EXISTS quizzes_of ON quizzes (weights_hash, feature);
"""
LABELS_DB = Database(
    what="table of labels",
    code="LABELS_UNAVAILABLE",
    tables=(LABELS, QUIZZES),
    more=_MORE,
    probe="INSERT INTO label_words (label_words, rank) VALUES ('integrity-check', 1)",
)


def labels_path() -> Path:
    """The database in which labels and quizzes are kept."""
    return home() / "labels.db"


__all__ = ["LABELS", "LABELS_DB", "QUIZZES", "VOID", "labels_path", "transaction"]
