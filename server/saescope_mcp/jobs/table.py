"""The table of runs: one SQLite file for every server, worker and command line of this user. A row outlives them all."""

import json
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from saescope.errors import FormatError, ResourceError

LIVE = ("queued", "running")
RESUMABLE = ("failed", "cancelled", "interrupted")
BUSY_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One job in a process of its own, as its row says."""

    id: str
    tool: str
    state: str
    created: float
    queued: float
    """When it last entered the queue."""
    heartbeat: float
    started: float | None = None
    """When its work began; waiting does not count."""
    ended: float | None = None
    pid: int | None = None
    name: str = ""
    """Of the SAE that it makes; empty for a dry run."""
    dry_run: bool = False
    cancel: bool = False
    """Somebody asked it to stop."""
    phase: str = "starting"
    message: str = "starting"
    checkpoint: str | None = None
    request: dict[str, Any] = field(default_factory=dict[str, Any])
    """The arguments of the call."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the worker needs beside them: resolved names, folders that may be read."""
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    plan: dict[str, Any] = field(default_factory=dict[str, Any])
    progress: dict[str, Any] = field(default_factory=dict[str, Any])
    result: dict[str, Any] = field(default_factory=dict[str, Any])
    error: dict[str, Any] = field(default_factory=dict[str, Any])
    warnings: list[str] = field(default_factory=list[str])

    @property
    def live(self) -> bool:
        return self.state in LIVE

    def elapsed_s(self, now: float) -> float:
        return max(0.0, (self.ended or now) - (self.started or self.queued))


_JSON = {"request", "settings", "config", "plan", "progress", "result", "error", "warnings"}
_FLAGS = {"dry_run", "cancel"}
_COLUMNS = [column.name for column in fields(Run)]
_SCHEMA = f"CREATE TABLE IF NOT EXISTS runs ({', '.join(name + (' TEXT PRIMARY KEY' if name == 'id' else '') for name in _COLUMNS)})"


class RunTable:
    """Opened anew for each statement: any thread or process may use it, and none holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> list[Run]:
        """Newest first."""
        if not self.path.exists():
            return []
        with self._open() as db:
            return [
                _run(row)
                for row in db.execute(
                    f"SELECT {', '.join(_COLUMNS)} FROM runs ORDER BY created DESC"
                )
            ]

    def get(self, run_id: str) -> Run | None:
        return next((run for run in self.all() if run.id == run_id), None)

    def add(self, run: Run, *, most_live: int) -> bool:
        """Whether there was room for one more live run and its name was free; of two callers at once only one gets the last place."""
        with self._open() as db, _transaction(db):
            if not _room(db, most_live) or (run.name and run.name in _names(db)):
                return False
            values = [_stored(name, getattr(run, name)) for name in _COLUMNS]
            db.execute(
                f"INSERT INTO runs ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(values))})",
                values,
            )
        return True

    def revive(self, run_id: str, *, most_live: int, **changes: Any) -> bool | None:
        """Whether a run that had ended is live again; None where there is no room for one more."""
        with self._open() as db, _transaction(db):
            return self._change(db, run_id, RESUMABLE, changes) if _room(db, most_live) else None

    def update(self, run_id: str, *, only_if: tuple[str, ...] = (), **changes: Any) -> bool:
        """Whether the row was changed: it is there, and in one of the states `only_if`."""
        with self._open() as db, _transaction(db):
            return self._change(db, run_id, only_if, changes)

    @staticmethod
    def _change(
        db: sqlite3.Connection, run_id: str, only_if: tuple[str, ...], changes: dict[str, Any]
    ) -> bool:
        sets, values = (
            ", ".join(f"{name} = ?" for name in changes),
            [_stored(name, value) for name, value in changes.items()],
        )
        where = f" AND state IN ({', '.join('?' * len(only_if))})" if only_if else ""
        return (
            db.execute(
                f"UPDATE runs SET {sets} WHERE id = ?{where}", [*values, run_id, *only_if]
            ).rowcount
            == 1
        )

    def restore(self, runs: Sequence[Run]) -> None:
        """Add those that are not there."""
        values = [[_stored(name, getattr(run, name)) for name in _COLUMNS] for run in runs]
        with self._open() as db, _transaction(db):
            db.executemany(
                f"INSERT OR IGNORE INTO runs ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})",
                values,
            )

    def delete(self, run_id: str) -> None:
        with self._open() as db, _transaction(db):
            db.execute("DELETE FROM runs WHERE id = ?", [run_id])

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        """Raises ResourceError or FormatError where the file cannot be used."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)) as db:
                db.execute(
                    _SCHEMA
                )  # no write-ahead log: that one cannot be read on a full disk, a read-only one or a network's
                yield db
        except (sqlite3.OperationalError, OSError) as error:
            raise ResourceError(
                f"The table of jobs cannot be read or written: {error}.",
                code="JOBS_UNAVAILABLE",
                hint="Free space on that disk or make the folder of SAESCOPE_HOME writable, then call again.",
            ) from error
        except sqlite3.DatabaseError as error:
            raise FormatError(
                f"The table of jobs is damaged: {error}.",
                hint=f"Move {self.path} out of the way: jobs are found again by their folders.",
            ) from error


def _room(db: sqlite3.Connection, most_live: int) -> bool:
    return (
        db.execute("SELECT COUNT(*) FROM runs WHERE state IN (?, ?)", LIVE).fetchone()[0]
        < most_live
    )


def _names(db: sqlite3.Connection) -> set[str]:
    """Of SAEs that runs have made, or may still make."""
    rows = db.execute(
        "SELECT name FROM runs WHERE checkpoint IS NOT NULL OR state IN (?, ?, ?)", (*LIVE, "done")
    )
    return {name for (name,) in rows}


@contextmanager
def _transaction(db: sqlite3.Connection) -> Generator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:  # a full disk has ended it already
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _stored(name: str, value: Any) -> Any:
    return json.dumps(value) if name in _JSON else int(value) if name in _FLAGS else value


def _run(row: tuple[Any, ...]) -> Run:
    said: dict[str, Any] = {}
    for name, value in zip(_COLUMNS, row, strict=True):
        said[name] = (
            json.loads(value) if name in _JSON else bool(value) if name in _FLAGS else value
        )
    return Run(**said)
