"""The table of runs: one SQLite file for every server, worker and command line of this user. A row
outlives them all."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from saescope.database import Database, Row, Table, transaction
from saescope.fence import read_own

LIVE = ("queued", "running")
RESUMABLE = ("failed", "cancelled", "interrupted")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One job in a process of its own, as its row says."""

    id: str
    tool: str
    state: str
    created: float
    queued: float
    """The time at which it last entered the queue."""
    heartbeat: float
    started: float | None = None
    """The time at which its work began; waiting does not count."""
    ended: float | None = None
    pid: int | None = None
    name: str = ""
    """The name of the SAE that it makes; empty for a dry run."""
    dry_run: bool = False
    cancel: bool = False
    """Whether somebody asked it to stop."""
    phase: str = "starting"
    message: str = "starting"
    checkpoint: str | None = None
    request: dict[str, Any] = field(default_factory=dict[str, Any])
    """The arguments of the call that started it."""
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
_NUMBER, _MAYBE = (int, float), (int, float, type(None))
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("id", "tool", "state", "name", "phase", "message"), str),
    **dict.fromkeys(("created", "queued", "heartbeat"), _NUMBER),
    **dict.fromkeys(("started", "ended", "pid"), _MAYBE),
    **dict.fromkeys(_JSON, dict),
    "warnings": list,
}
_TABLE = Table(
    "runs", tuple(_COLUMNS), tuple("TEXT PRIMARY KEY" if name == "id" else "" for name in _COLUMNS)
)
ROW_FILE = "run.json"


class RunTable:
    """Opened anew for each statement: any thread or process may use it, and none holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> list[Run]:
        """Return all runs, newest first."""
        return self._found("ORDER BY created DESC")

    def get(self, run_id: str) -> Run | None:
        return next(iter(self._found("WHERE id = ?", run_id)), None)

    def add(self, run: Run, *, most_live: int) -> bool:
        """Whether there was room for one more live run and its name was free; of two callers at
        once only one gets the last place."""
        with _DATABASE.open(self.path) as db, transaction(db):
            if not _room(db, most_live) or (run.name and run.name in _names(db)):
                return False
            return _DATABASE.insert(db, _TABLE, _row(run))

    def revive(self, run_id: str, *, most_live: int, **changes: Any) -> bool | None:
        """Whether a run that had ended is live again; None where there is no room for one more."""
        with _DATABASE.open(self.path) as db, transaction(db):
            return _change(db, run_id, RESUMABLE, changes) if _room(db, most_live) else None

    def update(self, run_id: str, *, only_if: tuple[str, ...] = (), **changes: Any) -> bool:
        """Whether the row was changed: it is there, and in one of the states `only_if`."""
        with _DATABASE.open(self.path) as db, transaction(db):
            return _change(db, run_id, only_if, changes)

    def restore(self, runs: Sequence[Run]) -> None:
        """Add those runs that are not there."""
        with _DATABASE.open(self.path) as db, transaction(db):
            for run in runs:
                _DATABASE.insert(db, _TABLE, _row(run))

    def delete(self, run_id: str) -> None:
        with _DATABASE.open(self.path) as db, transaction(db):
            db.execute("DELETE FROM runs WHERE id = ?", [run_id])

    def _found(self, rest: str, *given: str) -> list[Run]:
        if not self.path.exists():
            return []
        with _DATABASE.open(self.path) as db:
            return [_run(row) for row in _DATABASE.select(db, _TABLE, rest, given)]


def kept_text(run: Run) -> str:
    """Write a run as it is kept in its own folder."""
    row = _row(run)
    return json.dumps({"digest": _TABLE.digest(row), "row": row})


def kept_run(file: Path) -> Run | None:
    """None for a file that is torn, of another version, or not as it was written."""
    try:
        content = json.loads(read_own(file))
        row = (
            content["row"] if "row" in content else _row(Run(**content))
        )  # older files had no digest
        good = "row" not in content or content["digest"] == _TABLE.digest(row)
        return _run(row) if good and _is_sound("runs", row) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _kept(path: Path) -> list[tuple[str, Row]]:
    runs = [kept_run(file) for file in path.parent.glob(f"*/{ROW_FILE}")]
    return [("runs", _row(run)) for run in runs if run]


def _change(
    db: sqlite3.Connection, run_id: str, only_if: tuple[str, ...], changes: dict[str, Any]
) -> bool:
    state = db.execute("SELECT state FROM runs WHERE id = ?", [run_id]).fetchone()
    if state is None or (only_if and state[0] not in only_if):
        return False
    stored = {name: _stored(name, value) for name, value in changes.items()}
    return _DATABASE.update(db, _TABLE, run_id, stored)


def _room(db: sqlite3.Connection, most_live: int) -> bool:
    return (
        db.execute("SELECT COUNT(*) FROM runs WHERE state IN (?, ?)", LIVE).fetchone()[0]
        < most_live
    )


def _names(db: sqlite3.Connection) -> set[str]:
    """Names of SAEs that runs have made, or may still make."""
    rows = db.execute(
        "SELECT name FROM runs WHERE checkpoint IS NOT NULL OR state IN (?, ?, ?)", (*LIVE, "done")
    )
    return {name for (name,) in rows}


def _stored(name: str, value: Any) -> Any:
    return json.dumps(value) if name in _JSON else int(value) if name in _FLAGS else value


def _row(run: Run) -> Row:
    return {name: _stored(name, getattr(run, name)) for name in _COLUMNS}


def _run(row: Row) -> Run:
    values: dict[str, Any] = {}
    for name, value in row.items():
        values[name] = (
            json.loads(value) if name in _JSON else bool(value) if name in _FLAGS else value
        )
    return Run(**values)


def _is_sound(_table: str, row: Row) -> bool:
    """Whether every cell is of its kind: rows from before there were digests are taken at their
    word."""
    try:
        run = _run(row)
    except (ValueError, TypeError):
        return False
    return all(isinstance(getattr(run, name), kind) for name, kind in _KINDS.items())


_DATABASE = Database(
    what="table of jobs", code="JOBS_UNAVAILABLE", tables=(_TABLE,), sound=_is_sound, kept=_kept
)
