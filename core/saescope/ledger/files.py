"""The files of the ledger: one for each entry, which says itself what it is, and a table to find
them by, which can be made anew from the files."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from saescope.database import Database, Row, Table, transaction
from saescope.fence import read_own
from saescope.ledger.entry import KeptEntry

MOST_BYTES = 2**26
"""The largest file that is read."""
MOST_WORDS = 1000
"""Characters of a call that a search looks at."""
BLOCK = 4096

RESULTS = Table(
    "results",
    (
        *("id", "created", "seen", "tool", "saes", "evidence", "summary", "words"),
        *("n_bytes", "sha256"),
    ),
    (
        *("TEXT PRIMARY KEY", "TEXT NOT NULL", "TEXT NOT NULL", "TEXT NOT NULL", "TEXT NOT NULL"),
        *("TEXT", "TEXT NOT NULL", "TEXT NOT NULL", "INTEGER NOT NULL", "TEXT NOT NULL"),
    ),
)


def file_of(folder: Path, result_id: str) -> Path:
    """Where an entry is."""
    return folder / "results" / result_id[:2] / f"{result_id}.json"


def is_there(path: Path) -> bool:
    """Whether something is there. What may not be looked at is: opening it says why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def row_of(entry: KeptEntry, content: bytes) -> Row:
    """What the table says of an entry."""
    said = json.dumps([entry.summary, entry.arguments], ensure_ascii=False)
    return {
        "id": entry.result_id,
        "created": entry.created,
        "seen": entry.created,
        "tool": entry.tool,
        "saes": json.dumps(entry.saes),
        "evidence": entry.evidence,
        "summary": entry.summary,
        "words": said.casefold()[:MOST_WORDS],
        # A small file takes a block of the disk, and each has a row.
        "n_bytes": BLOCK * (1 + len(content) // BLOCK) + MOST_WORDS,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _from_files(database: Path) -> Iterator[tuple[str, Row]]:
    """Rows of those files that are what their names say."""
    for file in (database.parent / "results").glob("*/*.json"):
        with suppress(OSError, ValueError, TypeError, AttributeError):
            content = read_own(file, limit=MOST_BYTES)
            entry = KeptEntry.from_bytes(content)
            if entry.result_id == file.stem:
                yield RESULTS.name, row_of(entry, content)


LEDGER_DB = Database(
    what="table of the ledger",
    code="LEDGER_UNAVAILABLE",
    tables=(RESULTS,),
    more="CREATE INDEX IF NOT EXISTS results_seen ON results (seen);\n",
    kept=_from_files,
)


@contextmanager
def opened(folder: Path) -> Generator[sqlite3.Connection]:
    """The table of a ledger; where it is gone it is made anew from the files.

    Raises:
        ResourceError: LEDGER_UNAVAILABLE.
    """
    path = folder / "ledger.db"
    is_gone = not is_there(path) and is_there(folder / "results")
    with LEDGER_DB.open(path) as db:
        if is_gone:
            with transaction(db):
                for _, row in _from_files(path):
                    LEDGER_DB.insert(db, RESULTS, row)
        yield db
