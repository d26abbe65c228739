"""Investigations: named lists of results with notes."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from saescope.database import Database, Row, Table, transaction
from saescope.errors import ArgumentError, NotFoundError
from saescope.ledger.entry import now
from saescope.ledger.files import is_there
from saescope.names import nearest
from saescope.records.ledger import Investigation

MOST_NOTE = 2000
"""Characters of a note."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ITEMS = Table(
    "items",
    ("key", "name", "result_id", "note", "n", "added"),
    (
        *("TEXT PRIMARY KEY", "TEXT NOT NULL", "TEXT NOT NULL", "TEXT NOT NULL"),
        *("INTEGER NOT NULL", "TEXT NOT NULL"),
    ),
)
_DATABASE = Database(what="table of investigations", code="LEDGER_UNAVAILABLE", tables=(_ITEMS,))


@dataclass(frozen=True)
class Investigations:
    """Those of one ledger."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "investigations.db"

    def add(self, name: str, result_ids: Sequence[str], *, note: str = "") -> Investigation:
        """Add results to an investigation, which is made if it is new. The note is of these
        results, without any of the investigation itself; an empty one changes none.

        Raises:
            ArgumentError: INVESTIGATION_NAME or NOTE_LENGTH.
        """
        _check(name, note)
        with _DATABASE.open(self.path) as db, transaction(db):
            n = db.execute("SELECT coalesce(max(n), 0) FROM items").fetchone()[0]
            for place, result_id in enumerate(["", *dict.fromkeys(result_ids)]):
                said = note if bool(result_id) == bool(result_ids) else ""
                key = f"{name}/{result_id}"
                row = {"key": key, "name": name, "result_id": result_id, "note": said}
                new = _DATABASE.insert(db, _ITEMS, row | {"n": n + place, "added": now()})
                if said and not new:
                    _DATABASE.update(db, _ITEMS, key, {"note": said})
        return self.of(name)

    def remove(self, name: str, result_ids: Collection[str]) -> Investigation:
        """Take results out of an investigation; they stay in the ledger.

        Raises:
            NotFoundError: INVESTIGATION_NOT_FOUND.
        """
        self.of(name)
        with _DATABASE.open(self.path) as db:
            keys = [(f"{name}/{result_id}",) for result_id in result_ids if result_id]
            with transaction(db):
                db.executemany("DELETE FROM items WHERE key = ?", keys)
            _DATABASE.copy(db, self.path, every_s=0.0)
        return self.of(name)

    def of(self, name: str) -> Investigation:
        """One investigation.

        Raises:
            NotFoundError: INVESTIGATION_NOT_FOUND.
        """
        rows = self._rows("WHERE name = ? ORDER BY n", [name])
        if not rows:
            names = [each.name for each in self.all()]
            close = nearest(name, names, 1)
            raise NotFoundError(
                f"There is no investigation {name!r}.",
                code="INVESTIGATION_NOT_FOUND",
                field="investigation",
                got=name,
                allowed=", ".join(names) or "none has been made",
                hint=f"Use investigation={close[0]!r}." if close else "Add a result to make it.",
            )
        return _investigation(rows)

    def all(self) -> list[Investigation]:
        """All of them, by name."""
        by_name: dict[str, list[Row]] = {}
        for row in self._rows("ORDER BY name, n", []):
            by_name.setdefault(row["name"], []).append(row)
        return [_investigation(rows) for rows in by_name.values()]

    def pinned(self) -> frozenset[str]:
        """The results of any investigation."""
        return frozenset(row["result_id"] for row in self._rows("", []))

    def _rows(self, rest: str, given: Sequence[object]) -> list[Row]:
        if not is_there(self.path):
            return []
        with _DATABASE.open(self.path) as db:
            return _DATABASE.select(db, _ITEMS, rest, given)


def _investigation(rows: Sequence[Row]) -> Investigation:
    own = [row["note"] for row in rows if not row["result_id"]]
    results = [row for row in rows if row["result_id"]]
    return Investigation(
        name=rows[0]["name"],
        note=own[0] if own else "",
        result_ids=tuple(row["result_id"] for row in results),
        notes=tuple(row["note"] for row in results),
    )


def _check(name: str, note: str) -> None:
    if not _NAME.fullmatch(name):
        raise ArgumentError(
            f"{name!r} is no name of an investigation.",
            code="INVESTIGATION_NAME",
            field="investigation",
            got=name,
            allowed="1 to 64 letters, digits, '.', '_' and '-'",
            hint='Use a name such as "sea-feature".',
        )
    if len(note) > MOST_NOTE:
        raise ArgumentError(
            f"A note has at most {MOST_NOTE} characters.",
            code="NOTE_LENGTH",
            field="note",
            got=f"{len(note)} characters",
            allowed=f"0..{MOST_NOTE}",
            hint="Shorten it.",
        )
