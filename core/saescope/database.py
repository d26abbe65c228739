"""SQLite files of ours, opened in one place with one opinion, and never trusted when they are read.

Each row carries a digest of what it says. A file that has changed since we last looked at it is
verified whole; a damaged one is made anew from its good rows and from wherever else they are kept,
and stays beside the new one. There is no write-ahead log: it cannot be read on a full disk, a
read-only one or a network's.
"""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from saescope.errors import ResourceError, free_space
from saescope.notices import tell

BUSY_S = 5.0
"""How long a statement waits for another process."""
COPY_EVERY_S = 60.0
VERSION = 1
"""The version of files whose rows have digests; older ones get them when they are first opened."""
Row = dict[str, Any]

_UNAVAILABLE = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM),
}
_verified: dict[Path, tuple[int, ...]] = {}
"""How each file looked when all of it was found good."""


class Table(NamedTuple):
    """Columns in order; the first is the key."""

    name: str
    columns: tuple[str, ...]
    declared: tuple[str, ...]
    """What follows the name of each in SQL."""
    unique: str = ""

    @property
    def key(self) -> str:
        return self.columns[0]

    @property
    def listed(self) -> str:
        return ", ".join(f"{self.name}.{column}" for column in (*self.columns, "digest"))

    @property
    def sql(self) -> str:
        columns = [
            f"{name} {kind}".strip() for name, kind in zip(self.columns, self.declared, strict=True)
        ]
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name} "
            f"({', '.join([*columns, 'digest TEXT', *([self.unique] if self.unique else [])])})"
        )

    def digest(self, row: Mapping[str, Any]) -> str:
        text = json.dumps([self.name, *(row[column] for column in self.columns)], default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Database:
    """A kind of file: what is in it, and what is said of it."""

    what: str
    code: str
    """The code of the error where it cannot be used."""
    tables: tuple[Table, ...]
    more: str = ""
    """The statements that make indexes and triggers."""
    sound: Callable[[str, Row], bool] = lambda table, row: True
    """Whether a row of a table can be what we wrote; asked of rows whose digest is right, too."""
    probe: str = ""
    """A statement that fails where an index of words is not as its rows say."""
    kept: Callable[[Path], Iterable[tuple[str, Row]]] | None = None
    """Rows that are kept elsewhere as well; by default in a copy of the file, made after
    changes."""

    @contextmanager
    def open(self, path: Path) -> Generator[sqlite3.Connection]:
        """A connection in autocommit mode to a file whose rows are good.

        Raises:
            ResourceError: the file cannot be read or written, or another program keeps it locked.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not path.exists()
            is_known = not is_new and _verified.get(path) == _looks(path)
            if not (is_new or is_known):
                self._make_good(path)
            with closing(connect(path)) as db:
                if not is_known:
                    self._prepare(db)
                yield db
                if db.total_changes:
                    self.copy(db, path)
                    _verified[path] = _looks(path)
        except (sqlite3.Error, OSError) as error:
            _verified.pop(path, None)
            raise self._unavailable(path, error) from error

    def select(
        self, db: sqlite3.Connection, table: Table, rest: str = "", given: Sequence[Any] = ()
    ) -> list[Row]:
        """Rows that are as they were written; others are said and left out."""
        rows = [
            _row(table, values)
            for values in db.execute(f"SELECT {table.listed} FROM {table.name} {rest}", given)
        ]
        good = [row for row in rows if self._is_good(table, row)]
        if len(good) < len(rows):
            tell(f"{len(rows) - len(good)} rows of the {self.what} are damaged and were left out.")
        return [{name: row[name] for name in table.columns} for row in good]

    def insert(self, db: sqlite3.Connection, table: Table, row: Row) -> bool:
        """Insert a row, and tell whether it is new."""
        names = (*table.columns, "digest")
        sql = (
            f"INSERT OR IGNORE INTO {table.name} ({', '.join(names)}) VALUES "
            f"({', '.join('?' * len(names))})"
        )
        return (
            db.execute(sql, [*(row[name] for name in table.columns), table.digest(row)]).rowcount
            == 1
        )

    def update(self, db: sqlite3.Connection, table: Table, key: Any, changes: Row) -> bool:
        """Change a row, and tell whether there was such a one."""
        rows = self.select(db, table, f"WHERE {table.key} = ?", [key])
        if not rows:
            return False
        digest = table.digest(rows[0] | changes)
        sets = ", ".join(f"{name} = ?" for name in (*changes, "digest"))
        db.execute(
            f"UPDATE {table.name} SET {sets} WHERE {table.key} = ?",
            [*changes.values(), digest, key],
        )
        return True

    def _is_good(self, table: Table, row: Row) -> bool:
        values = {name: row[name] for name in table.columns}
        return row["digest"] == table.digest(values) and self.sound(table.name, values)

    def _unavailable(self, path: Path, error: sqlite3.Error | OSError) -> ResourceError:
        hint = (
            "Free space on that disk or make the folder of SAESCOPE_HOME writable, then call again."
        )
        if isinstance(error, sqlite3.Error) and _code(error) in (
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
        ):
            hint = (
                f"Another program keeps {path.name} locked: close it, or call again in "
                "a few seconds."
            )
        return ResourceError(
            f"The {self.what} in {path.parent} cannot be read or written: {error} "
            f"({free_space(path.parent)}).",
            code=self.code,
            hint=hint,
        )

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Take over what older versions wrote."""
        if db.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            with suppress(sqlite3.OperationalError):  # an older version has it open: the next time
                db.execute("PRAGMA journal_mode=DELETE")
        if db.execute("PRAGMA user_version").fetchone()[0] >= VERSION:
            return
        with transaction(db):
            for table in self.tables:
                self._add_digests(db, table)
            for statement in filter(None, map(str.strip, self.more.split(";\n"))):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")

    def _add_digests(self, db: sqlite3.Connection, table: Table) -> None:
        db.execute(table.sql)
        if "digest" in (column[1] for column in db.execute(f"PRAGMA table_info({table.name})")):
            return
        db.execute(f"ALTER TABLE {table.name} ADD COLUMN digest TEXT")
        for values in db.execute(f"SELECT {table.listed} FROM {table.name}").fetchall():
            row = _row(table, values)
            if self.sound(table.name, {name: row[name] for name in table.columns}):
                db.execute(
                    f"UPDATE {table.name} SET digest = ? WHERE {table.key} IS ?",
                    [table.digest(row), row[table.key]],
                )

    def _make_good(self, path: Path) -> None:
        looks, why = _looks(path), self._damage(path)
        if why:
            with _alone(path):
                looks, why = (
                    _looks(path),
                    self._damage(path),
                )  # another process may have been faster
                if why and not self._is_renewed(path, why):
                    return
                looks = _looks(path)
        _verified[path] = looks

    def _damage(self, path: Path) -> str:
        """What is wrong with it, in words; empty if nothing is. Raises where it cannot be read
        now."""
        with _readable() as trouble, closing(connect(path)) as db:
            self._prepare(db)
            if (verdict := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
                return verdict.strip().splitlines()[-1]
            for table in self.tables:
                rows = db.execute(f"SELECT {table.listed} FROM {table.name} NOT INDEXED")
                if any(not self._is_good(table, _row(table, values)) for values in rows):
                    return "a row is not as it was written"
            if self.probe and os.access(path, os.W_OK):
                db.execute(self.probe)
        return trouble[0] if trouble else ""

    def _is_renewed(self, path: Path, why: str) -> bool:
        """On a full disk or a read-only one the file stays as it is, and each row is judged when it
        is read."""
        try:
            self._renew(path, why)
        except (OSError, sqlite3.OperationalError) as error:
            tell(f"The {self.what} is damaged ({why}) and cannot be made anew: {error}.")
            return False
        return True

    def _renew(self, path: Path, why: str) -> None:
        """A new file from the good rows of the old one and from those kept elsewhere; the old one
        stays beside it."""
        good, n_bad = self._salvage(path)
        kept = {(table, row[self._table(table).key]): row for table, row in self._kept(path)}
        back = {key: row for key, row in kept.items() if key not in good}
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        try:
            with closing(connect(fresh)) as db:
                self._prepare(db)
                with transaction(db):
                    for (table, _), row in (good | back).items():
                        self.insert(db, self._table(table), row)
            aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
            for end in ("-journal", "-wal", "-shm", ""):
                with suppress(FileNotFoundError):
                    os.replace(f"{path}{end}", f"{aside}{end}")
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        tell(
            f"The {self.what} was damaged ({why}; {n_bad} rows cannot be read) and has "
            f"been made anew: {len(good)} rows were good,"
            f" {len(back)} came from the last good copy. The damaged file is kept as {aside.name}."
        )

    def _salvage(self, path: Path) -> tuple[dict[tuple[str, Any], Row], int]:
        """Good rows by table and key, and how many bad ones were seen."""
        good, n_bad = dict[tuple[str, Any], Row](), 0
        for table in self.tables:
            for order in (
                "ASC",
                "DESC",
            ):  # a torn page ends a reading: from its other side one comes as far
                with _readable(), closing(connect(path)) as db:
                    for row in _scan(db, table, order):
                        if self._is_good(table, row):
                            good[table.name, row[table.key]] = row
                        else:
                            n_bad += order == "ASC"
        return good, n_bad

    def _kept(self, path: Path) -> Iterable[tuple[str, Row]]:
        if self.kept is not None:
            return self.kept(path)
        copy = _copy_of(path)
        return (
            ((table, row) for (table, _), row in self._salvage(copy)[0].items())
            if copy.exists()
            else ()
        )

    def copy(self, db: sqlite3.Connection, path: Path, *, every_s: float = COPY_EVERY_S) -> None:
        """Keep a copy of this moment, unless there is a fresh one. After a removal there must be:
        the row would come back."""
        copy, aside = _copy_of(path), path.with_name(f".{path.name}.copy")
        with suppress(OSError, sqlite3.Error):  # a full disk: the older copy stays
            if self.kept is not None or (
                copy.exists() and abs(time.time() - copy.stat().st_mtime) < every_s
            ):
                return
            try:
                aside.unlink(missing_ok=True)
                with closing(connect(aside)) as target:
                    db.backup(target)
                os.replace(aside, copy)
            finally:
                aside.unlink(missing_ok=True)

    def _table(self, name: str) -> Table:
        return next(table for table in self.tables if table.name == name)


@contextmanager
def transaction(db: sqlite3.Connection) -> Generator[None]:
    """Keep all of what the block writes, or after an exception nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:  # a full disk has ended it already
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def connect(path: Path, *, read_only: bool = False, any_thread: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode: the only place where SQLite opens a file.

    `read_only` is for a finished file that nobody writes any more: neither a lock nor a journal is
    looked for, so it can be read on a read-only disk too.
    """
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro&immutable=1" if read_only else path,
        uri=read_only,
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=not any_thread,
    )
    if not read_only:
        # A torn text must not end the reading: each row's digest tells that it is torn.
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return db


@contextmanager
def _readable() -> Generator[list[str]]:
    """Collects what is wrong with the file; raises on where it is the disk or another process."""
    trouble = list[str]()
    try:
        yield trouble
    except UnicodeDecodeError:  # sqlite3 quotes torn names in what it says
        trouble.append("torn names")
    except sqlite3.Error as error:
        if _code(error) in _UNAVAILABLE:
            raise
        trouble.append(str(error))


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _row(table: Table, values: Sequence[Any]) -> Row:
    return dict(zip((*table.columns, "digest"), values, strict=True))


def _scan(db: sqlite3.Connection, table: Table, order: str) -> Iterable[Row]:
    """All rows, without the help of an index; those of before there were digests get theirs."""
    new = "digest" in (column[1] for column in db.execute(f"PRAGMA table_info({table.name})"))
    listed = table.listed if new else ", ".join(table.columns)
    for values in db.execute(
        f"SELECT {listed} FROM {table.name} NOT INDEXED ORDER BY rowid {order}"
    ):
        row = dict(zip((*table.columns, "digest"), values, strict=False))
        yield row if new else row | {"digest": table.digest(row)}


@contextmanager
def _alone(path: Path) -> Generator[None]:
    """One process at a time makes a file anew; a mark that a killed one left is taken over."""
    mark = path.with_name(f".{path.name}.renewing")
    give_up = time.monotonic() + 2 * BUSY_S
    while True:
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            break
        except FileExistsError:
            if time.monotonic() > give_up:
                break
            time.sleep(0.05)
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def _looks(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _copy_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.last-good")
