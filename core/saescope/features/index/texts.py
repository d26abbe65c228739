"""The contexts that an index shows, in SQLite: read one by one, never all at once."""

import json
import sqlite3
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.database import connect
from saescope.errors import FormatError, cannot_write

FILE = "texts.db"
_IDS = np.dtype("<i4")


class ContextLog:
    """Every context of a run by its hash, on disk. What comes after a checkpoint is forgotten when
    the run resumes from it."""

    def __init__(self, folder: Path, *, n_contexts: int = 0) -> None:
        with _disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self.file = folder / "contexts.db"
            self._database = connect(self.file, any_thread=True)
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS contexts (number INTEGER PRIMARY KEY, hash "
                "INTEGER UNIQUE, ids BLOB)"
            )
            # Rows after the checkpoint belong to batches that will be read again.
            self._forget(n_contexts)
            self._database.execute("BEGIN")

    def add(
        self,
        hashes: Int[Tensor, " n"],
        ids: Int[Tensor, "n context_size"],
        numbers: Int[Tensor, " n"],
    ) -> Bool[Tensor, " n"]:
        """Add contexts with numbers above all that are there, and tell which of them are new."""
        fresh = list[bool]()
        rows = zip(numbers.tolist(), hashes.tolist(), ids.cpu().numpy().astype(_IDS), strict=True)
        with _disk_errors(self.file.parent):
            for number, hash_, row in rows:
                row_of = (number, hash_, row.tobytes())
                fresh.append(
                    self._database.execute(
                        "INSERT OR IGNORE INTO contexts VALUES (?, ?, ?)", row_of
                    ).rowcount
                    == 1
                )
                self.n_contexts = number + 1
        return torch.tensor(fresh, dtype=torch.bool)

    @contextmanager
    def unless(self, error: type[Exception]) -> Generator[None]:
        """What the block adds is forgotten if it raises this error."""
        before = self.n_contexts
        try:
            yield
        except error:
            with _disk_errors(self.file.parent):
                self._forget(before)
            raise

    def _forget(self, n_contexts: int) -> None:
        # Kept, what comes again would not be fresh any more.
        self._database.execute("DELETE FROM contexts WHERE number >= ?", (n_contexts,))
        self.n_contexts = n_contexts

    def commit(self) -> None:
        """All contexts so far are on disk after this."""
        with _disk_errors(self.file.parent):
            self._database.execute("COMMIT")
            self._database.execute("BEGIN")

    def numbers(self, hashes: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The number of each context; hashes that were never added get -1."""
        known = np.fromiter(
            (
                x
                for row in self._database.execute("SELECT hash, number FROM contexts ORDER BY hash")
                for x in row
            ),
            dtype=np.int64,
        ).reshape(-1, 2)
        if not len(known):
            return torch.full_like(hashes, -1)
        table = torch.from_numpy(known)
        places = torch.searchsorted(table[:, 0].contiguous(), hashes).clamp(max=len(table) - 1)
        return torch.where(table[places, 0] == hashes, table[places, 1], -1)

    def write(self, file: Path, wanted: Sequence[int], text_of: Callable[[int], str]) -> None:
        """A database of the wanted contexts and of the tokens in them."""
        with (
            _disk_errors(file.parent),
            closing(connect(file)) as database,
        ):
            database.execute("PRAGMA journal_mode=OFF")
            database.execute("BEGIN")
            database.execute("CREATE TABLE contexts (number INTEGER PRIMARY KEY, ids BLOB)")
            database.execute("CREATE TABLE tokens (id INTEGER PRIMARY KEY, text TEXT)")
            seen = set[int]()
            for number, ids in self._rows(wanted):
                seen.update(np.frombuffer(ids, _IDS).tolist())
                database.execute("INSERT INTO contexts VALUES (?, ?)", (number, ids))
            database.executemany(
                "INSERT INTO tokens VALUES (?, ?)",
                ((i, _storable(text_of(i))) for i in sorted(seen) if i >= 0),
            )
            database.execute("COMMIT")

    def close(self) -> None:
        self._database.close()

    def _rows(self, wanted: Sequence[int]) -> Iterable[tuple[int, bytes]]:
        chosen = set(wanted)
        return (
            (n, ids)
            for n, ids in self._database.execute("SELECT number, ids FROM contexts ORDER BY number")
            if n in chosen
        )


class ContextTexts:
    """Contexts of a finished index."""

    def __init__(self, file: Path, verify: Callable[[], None]) -> None:
        self.file, self.verify = file, verify

    def ids(self, numbers: Iterable[int]) -> dict[int, Int[Tensor, " context_size"]]:
        """Token ids by the number of their context; -1 where the text had ended."""
        rows = self._ask(
            "SELECT number, ids FROM contexts WHERE number IN (SELECT value FROM json_each(?))",
            numbers,
        )
        return {
            number: torch.from_numpy(np.frombuffer(ids, _IDS).astype(np.int64))
            for number, ids in rows
        }

    def strings(self, ids: Iterable[int]) -> dict[int, str]:
        """Decode each token to its text."""
        return dict(
            self._ask(
                "SELECT id, text FROM tokens WHERE id IN (SELECT value FROM json_each(?))", ids
            )
        )

    def _ask(self, question: str, numbers: Iterable[int]) -> list[tuple[int, Any]]:
        self.verify()
        try:
            with closing(connect(self.file, read_only=True)) as database:
                return database.execute(question, (json.dumps(sorted(set(numbers))),)).fetchall()
        except sqlite3.Error as error:
            raise FormatError(
                f"The index's texts cannot be read: {error}.",
                code="INDEX_CORRUPT",
                hint="Rebuild the index with ss.index_features.",
            ) from error


def _storable(text: str) -> str:
    """SQLite takes no lone surrogates."""
    return text.encode("utf-8", "replace").decode()


@contextmanager
def _disk_errors(folder: Path) -> Generator[None]:
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        again = "Free space there or make it writable, then resume the run."
        raise cannot_write(
            "The contexts of the index", folder, error, field="checkpoint", hint=again
        ) from error
