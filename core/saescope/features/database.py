"""Labels and quizzes in one SQLite file, `labels.db` in the home folder; opened anew for each call, by any thread or process."""

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from saescope.errors import FormatError, ResourceError
from saescope.names import home

BUSY_S = 10
_SCHEMA = """
CREATE TABLE IF NOT EXISTS labels (
    id INTEGER PRIMARY KEY, weights_hash TEXT NOT NULL, feature INTEGER NOT NULL, text TEXT NOT NULL, key TEXT NOT NULL,
    source TEXT NOT NULL, created TEXT NOT NULL, detection TEXT, fuzzing TEXT,
    UNIQUE (weights_hash, feature, key));
CREATE VIRTUAL TABLE IF NOT EXISTS label_words USING fts5 (text, content='labels', content_rowid='id', tokenize='porter unicode61');
CREATE TRIGGER IF NOT EXISTS label_added AFTER INSERT ON labels BEGIN
    INSERT INTO label_words (rowid, text) VALUES (new.id, new.text); END;
CREATE TRIGGER IF NOT EXISTS label_removed AFTER DELETE ON labels BEGIN
    INSERT INTO label_words (label_words, rowid, text) VALUES ('delete', old.id, old.text); END;
CREATE TABLE IF NOT EXISTS quizzes (
    id TEXT PRIMARY KEY, weights_hash TEXT NOT NULL, feature INTEGER NOT NULL, n INTEGER NOT NULL, seed INTEGER NOT NULL,
    created TEXT NOT NULL, items TEXT NOT NULL, answered TEXT);
CREATE INDEX IF NOT EXISTS quizzes_of ON quizzes (weights_hash, feature);
"""


def labels_path() -> Path:
    """Where labels and quizzes are kept."""
    return home() / "labels.db"


@contextmanager
def open_database(path: Path) -> Generator[sqlite3.Connection]:
    """A connection in autocommit mode, the tables made if need be.

    Raises:
        ResourceError: the file cannot be read or written.
        FormatError: it is damaged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_SCHEMA)
            yield db
    except (sqlite3.OperationalError, OSError) as error:
        raise ResourceError(
            f"The table of labels cannot be read or written: {error}.",
            code="LABELS_UNAVAILABLE",
            hint="Free space on that disk or make the folder of SAESCOPE_HOME writable, then call again.",
        ) from error
    except sqlite3.DatabaseError as error:
        raise FormatError(
            f"The table of labels is damaged: {error}.",
            hint=f"Move {path.name} out of the way; SAEs and indexes stay.",
        ) from error


@contextmanager
def transaction(db: sqlite3.Connection) -> Generator[None]:
    """All or nothing of what the block writes."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
