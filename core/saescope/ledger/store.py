"""The ledger: every result under its id, bounded in age and size, verified when it is read."""

import hashlib
import json
import re
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from saescope.database import Row, transaction
from saescope.errors import ArgumentError, FormatError, NotFoundError
from saescope.fence import read_own
from saescope.ledger.entry import KeptEntry, now
from saescope.ledger.files import (
    LEDGER_DB,
    MOST_BYTES,
    RESULTS,
    file_of,
    is_there,
    opened,
    row_of,
    write,
)
from saescope.ledger.investigations import Investigations
from saescope.names import home
from saescope.records.ledger import KeptResult

ROOM = 0.9
"""The share of the most bytes that is left after a cut, so that not every entry makes one."""


def ledger_path() -> Path:
    """The folder of the ledger."""
    return home() / "ledger"


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultFilter:
    """Which results are looked for; all that is given must fit."""

    text: str = ""
    """Words of the call or of the summary."""
    tool: str = ""
    sae: str = ""
    day: str = ""
    """The beginning of a date, such as "2026-11-30", "2026-11" or "2026"."""
    tools: tuple[str, ...] = ()
    """Any of these tools; empty: all."""

    def __post_init__(self) -> None:
        if self.day and not _is_day(self.day):
            raise ArgumentError(
                f"{self.day!r} is no day.",
                code="INVALID_DAY",
                field="day",
                got=self.day,
                allowed="a date in UTC, or its beginning: 2026-11-30, 2026-11 or 2026",
                hint=f'Use day="{now()[:10]}" for today.',
            )


def _is_day(text: str) -> bool:
    """Whether it is the beginning of a date that exists."""
    forms = {4: "%Y", 7: "%Y-%m", 10: "%Y-%m-%d"}
    try:
        datetime.strptime(text, forms.get(len(text), ""))
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Ledger:
    """Kept results; any process of this user may write and read at any time."""

    folder: Path = field(default_factory=ledger_path)
    max_bytes: int = 2**27
    max_days: int = 365

    @property
    def _is_there(self) -> bool:
        return is_there(self.folder / "results")

    @property
    def investigations(self) -> Investigations:
        return Investigations(self.folder)

    def keep(self, entry: KeptEntry) -> bool:
        """Keep a result, and tell whether it is new; one that is there is seen again.

        Raises:
            ResourceError: LEDGER_UNAVAILABLE: it cannot be written.
        """
        with opened(self.folder) as db:
            with suppress(OSError):  # prompts and texts of the user; some disks have no modes
                self.folder.chmod(0o700)
            if self._is_kept(db, entry.result_id):
                LEDGER_DB.update(db, RESULTS, entry.result_id, {"seen": now()})
                return False
            content = entry.to_bytes()
            path = file_of(self.folder, entry.result_id)
            write(path, content)
            try:
                with transaction(db):
                    db.execute("DELETE FROM results WHERE id = ?", [entry.result_id])
                    LEDGER_DB.insert(db, RESULTS, row_of(entry, content))
            except sqlite3.Error:
                path.unlink(missing_ok=True)
                raise
            self._cut(db, entry.result_id)
            return True

    def bring(self, result_id: str) -> KeptEntry:
        """A kept result, as it was.

        Raises:
            NotFoundError: RESULT_NOT_FOUND.
            FormatError: RESULT_DAMAGED: it is no longer what was written.
            ResourceError: LEDGER_UNAVAILABLE.
        """
        rows = self._rows("WHERE id = ?", [result_id])
        if not rows:
            raise NotFoundError(
                f"The ledger has no result {result_id!r}.",
                code="RESULT_NOT_FOUND",
                field="result_id",
                got=result_id,
                allowed="the result_id of an earlier result, 12 digits and letters",
                hint="ss.Ledger().find() lists what is kept.",
                facts={"result_id": result_id},
            )
        return self._verified(rows[0])

    def find(
        self,
        wanted: ResultFilter | None = None,
        *,
        among: Collection[str] | None = None,
        limit: int = 20,
        offset: int = 0,
    ) -> tuple[list[KeptResult], int]:
        """Results that fit, the newest first, and how many there are; `among` bounds them to these
        ids."""
        rest, given = _conditions(wanted or ResultFilter(), among)
        if not self._is_there:
            return [], 0
        with opened(self.folder) as db:
            total = db.execute(f"SELECT count(*) FROM results {rest}", given).fetchone()[0]
            page = f"{rest} ORDER BY created DESC, id LIMIT ? OFFSET ?"
            rows = LEDGER_DB.select(db, RESULTS, page, [*given, limit, offset])
        return [kept_result(row) for row in rows], total

    def forget(self, result_ids: Collection[str]) -> int:
        """Remove results, and tell how many there were."""
        if not self._is_there:
            return 0
        with opened(self.folder) as db:
            there = [each for each in dict.fromkeys(result_ids) if self._row(db, each)]
            self._remove(db, there)
        return len(there)

    def _rows(self, rest: str, given: Sequence[object]) -> list[Row]:
        if not self._is_there:
            return []
        with opened(self.folder) as db:
            return LEDGER_DB.select(db, RESULTS, rest, given)

    def _row(self, db: sqlite3.Connection, result_id: str) -> Row | None:
        return next(iter(LEDGER_DB.select(db, RESULTS, "WHERE id = ?", [result_id])), None)

    def _is_kept(self, db: sqlite3.Connection, result_id: str) -> bool:
        row = self._row(db, result_id)
        try:
            return row is not None and bool(self._verified(row))
        except FormatError:  # what comes now takes its place
            return False

    def _verified(self, row: Row) -> KeptEntry:
        result_id, why = row["id"], ""
        try:
            content = read_own(file_of(self.folder, result_id), limit=MOST_BYTES)
            if hashlib.sha256(content).hexdigest() != row["sha256"]:
                why = "is not as it was written"
            else:
                entry = KeptEntry.from_bytes(content)
                if entry.result_id == result_id:
                    return entry
                why = "is the result of another call"
        except OSError as error:
            why = f"cannot be read ({error.strerror or error})"
        except ValueError as error:
            why = str(error)
        raise FormatError(
            f"The ledger's entry {result_id} of {row['tool']} is damaged: its file {why}.",
            code="RESULT_DAMAGED",
            field="result_id",
            got=result_id,
            hint=f"Make the call of {row['tool']} again; it is kept anew.",
        )

    def _cut(self, db: sqlite3.Connection, written: str) -> None:
        """Remove what is too old, then the oldest while all of it is too large, but not what has
        just been written; results of investigations do not age, and go last."""
        total, oldest = db.execute("SELECT sum(n_bytes), min(seen) FROM results").fetchone()
        limit = (datetime.now(UTC) - timedelta(days=self.max_days)).isoformat(timespec="seconds")
        if total <= self.max_bytes and oldest >= limit:
            return
        pinned = self.investigations.pinned()
        rows = db.execute("SELECT id, seen, n_bytes FROM results ORDER BY seen, id").fetchall()
        gone = [row[0] for row in rows if row[1] < limit and row[0] not in {*pinned, written}]
        left = total - sum(row[2] for row in rows if row[0] in {*gone})
        if left > self.max_bytes:
            there = [row for row in rows if row[0] not in {*gone, written}]
            for row in sorted(there, key=lambda row: row[0] in pinned):
                if left <= ROOM * self.max_bytes:
                    break
                gone.append(row[0])
                left -= row[2]
        self._remove(db, gone)

    def _remove(self, db: sqlite3.Connection, result_ids: Sequence[str]) -> None:
        # The file goes first: a table that is made anew takes its rows from the files.
        for result_id in result_ids:
            file_of(self.folder, result_id).unlink(missing_ok=True)
        with transaction(db):
            db.executemany("DELETE FROM results WHERE id = ?", [(each,) for each in result_ids])


def kept_result(row: Row) -> KeptResult:
    """A row of the table as it is listed."""
    return KeptResult(
        result_id=row["id"],
        created=row["created"],
        tool=row["tool"],
        about=tuple(json.loads(row["saes"])),
        evidence=row["evidence"],
        says=row["summary"],
    )


def _conditions(wanted: ResultFilter, among: Collection[str] | None) -> tuple[str, list[object]]:
    """The clause of a search, and what it is given."""
    words = re.findall(r"\S+", wanted.text.casefold())
    found = [("instr(words, ?) > 0", word) for word in words]
    found += [("tool = ?", wanted.tool)] if wanted.tool else []
    among_tools = "tool IN (SELECT value FROM json_each(?))"
    found += [(among_tools, json.dumps(wanted.tools))] if wanted.tools else []
    found += [("? IN (SELECT value FROM json_each(saes))", wanted.sae)] if wanted.sae else []
    found += [("substr(created, 1, length(?)) = ?", wanted.day)] if wanted.day else []
    if among is not None:
        found.append(("id IN (SELECT value FROM json_each(?))", json.dumps([*among])))
    given = [value for clause, value in found for _ in range(clause.count("?"))]
    clauses = " AND ".join(clause for clause, _ in found)
    return (f"WHERE {clauses}" if clauses else ""), given
