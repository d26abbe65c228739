"""Results that were computed again beside those that were stored, line by line."""

import json
import math
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from saescope.errors import SaescopeError
from saescope.progress import Say
from saescope.records.report import Circumstance, ComparedLine, NotRun, ReportCheck
from saescope.reports.sources import texts_now
from saescope.reports.versions import installed
from saescope.verdicts import Judgement

DIGITS = 4
"""Significant digits that are stored."""
TOLERANCE = 0.001
"""The relative difference up to which two float32 numbers are the same: a digit of those stored."""
TOLERANCE_SHORT = 0.05
"""The same of numbers in bfloat16 or float16."""
NEAR_ZERO = 0.02
"""Numbers this share of the tolerance apart are the same, however small they are."""
_MISSING = "(missing)"
NUMBERS = (int, float)
Leaf = str | int | float | bool | None


class HasRevision(Protocol):
    """A model, as far as it is asked which one it is."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str: ...


class HasHash(Protocol):
    """An SAE, or a set, as far as it is asked for its weights."""

    @property
    def weights_hash(self) -> str: ...


def _to_stdout(line: str) -> None:
    sys.stdout.write(f"{line}\n")


class Rerun:
    """Prints what was stored and what came now, and counts what differs.

    `with check.result(id):` holds the code of a result, and `check.compare(found, {...})` its
    lines; an error of the library there is told, and what follows runs on.
    """

    def __init__(self, *, tolerance: float = TOLERANCE, say: Say = _to_stdout) -> None:
        self.tolerance = tolerance
        self._say = say
        self._now = ""
        self._results = list[str]()
        self._lines = list[ComparedLine]()
        self._rests_on = list[Circumstance]()
        self._failed = list[NotRun]()
        self._not_run = list[NotRun]()

    def versions(self, stored: Mapping[str, str]) -> None:
        """Tell the versions that are others here than where the results are from."""
        for name, then in stored.items():
            self._rest(f"version of {name}", then, installed(name), decides=False)

    def model(self, model: HasRevision, name: str, revision: str) -> None:
        """Tell whether the model is that of the results."""
        here = f"{model.name}, {model.revision}"
        self._rest(f"model {name}", f"{name}, {revision}", here, decides=True)

    def weights(self, sae: HasHash, handle: str, weights_hash: str) -> None:
        """Tell whether the SAE has the weights that the results are from."""
        self._rest(f"weights of {handle}", weights_hash, sae.weights_hash, decides=True)

    def file(self, path: str, stored: str) -> None:
        """Tell whether a file, or a folder, of texts is as it was when it was read."""
        self._rest(f"texts of {path}", stored, texts_now(path), decides=True)

    @contextmanager
    def result(self, result_id: str, tool: str) -> Generator[None]:
        """The code of one result."""
        self._say(f"\n{result_id} {tool}")
        self._now = result_id
        try:
            yield
            self._results.append(result_id)
        except (SaescopeError, OSError) as error:
            why = f"{type(error).__name__}: {error}"
            self._failed.append(NotRun(result_id=result_id, tool=tool, why=why))
            self._say(f"  FAILED   {why}")

    def not_run(self, result_id: str, tool: str, why: str) -> None:
        """Tell that a result of the report cannot be computed again."""
        self._not_run.append(NotRun(result_id=result_id, tool=tool, why=why))
        self._say(f"\n{result_id} {tool}\n  NOT RUN  {why}")

    def compare(self, found: object, stored: Mapping[str, Any]) -> None:
        """Print each stored value of the current result beside that of `found`, a record of the
        library or a mapping."""
        for name, then, now in _leaves(stored, found, ""):
            line = self._line(name, then, now)
            self._lines.append(line)
            self._say(written(line))

    def end(self, file: str = "") -> int:
        """Print the sum, write it as JSON if there is a file for it, and return the exit status: 0
        where all is as it was."""
        done = self.done()
        self._say(f"\n{said(done)}")
        if file:
            Path(file).write_text(json.dumps(as_plain(done)), encoding="utf-8")
        return 0 if done.reproduced else 1

    def done(self) -> ReportCheck:
        """What has come of it so far."""
        moved = [line for line in self._lines if not line.same]
        return ReportCheck(
            n_results=len(self._results),
            n_same=len(self._lines) - len(moved),
            n_moved=len(moved),
            tolerance=self.tolerance,
            moved=moved,
            changed=[each for each in self._rests_on if not each.same],
            failed=self._failed,
            not_run=self._not_run,
        )

    def _rest(self, what: str, stored: str, now: str, *, decides: bool) -> None:
        each = Circumstance(what=what, stored=stored, now=now, decides=decides)
        self._rests_on.append(each)
        self._say(
            f"same     {what}: {now}"
            if each.same
            else f"CHANGED  {what}: stored {stored}, now {now}"
        )

    def _line(self, name: str, then: Leaf, now: Leaf) -> ComparedLine:
        moved = None
        if isinstance(then, NUMBERS) and isinstance(now, NUMBERS) and not _is_yes_or_no(then, now):
            same = self._near(then, now)
            moved = None if same else float(f"{now - then:.3g}")
        else:
            same = type(then) is type(now) and then == now
        now = float(f"{now:.{DIGITS}g}") if isinstance(now, float) else now
        return ComparedLine(
            result_id=self._now, name=name, stored=then, now=now, same=same, moved=moved
        )

    def _near(self, then: float, now: float) -> bool:
        if isinstance(then, int) and isinstance(now, int):
            return then == now
        near_zero = NEAR_ZERO * self.tolerance
        return math.isclose(then, now, rel_tol=self.tolerance, abs_tol=near_zero)


def written(line: ComparedLine) -> str:
    """A line as it is printed."""
    moved = "" if line.moved is None else f"   ({line.moved:+.3g})"
    word = "same   " if line.same else "DIFFERS"
    return f"  {word}  {line.name}: stored {line.stored!r}   now {line.now!r}{moved}"


def said(done: ReportCheck) -> str:
    """What came of it, in a few sentences."""
    n, total = len(done.failed), done.n_same + done.n_moved
    parts = [
        f"{done.n_results} results ran again: {done.n_same} of {total} values are the same "
        f"(numbers within {done.tolerance:.1%}), {done.n_moved} differ."
    ]
    parts += [f"{n} results stopped with an error."] if n else []
    parts += [f"Changed since: {', '.join(each.what for each in done.changed)}."] * bool(
        done.changed
    )
    parts += [
        f"NOT RUN AGAIN: {', '.join(f'{each.result_id} ({each.tool})' for each in done.not_run)}."
    ] * bool(done.not_run)
    end = "Reproduced." if done.reproduced else "NOT reproduced."
    return " ".join([*parts, end])


def as_plain(done: ReportCheck) -> dict[str, Any]:
    """The comparison as plain data; `check_of` reads it."""
    return asdict(done)


def check_of(plain: Mapping[str, Any]) -> ReportCheck:
    """The comparison of plain data."""
    rows: dict[str, type] = {
        "moved": ComparedLine,
        "changed": Circumstance,
        "failed": NotRun,
        "not_run": NotRun,
    }
    made: dict[str, Any] = {
        name: [kind(**row) for row in plain[name]] for name, kind in rows.items()
    }
    return ReportCheck(**(dict(plain) | made))


def n_values(stored: Any) -> int:
    """How many lines a comparison with these values has."""
    if isinstance(stored, Mapping):
        return sum(map(n_values, stored.values()))
    return sum(map(n_values, stored)) if isinstance(stored, list | tuple) else 1


def _leaves(stored: Any, now: Any, name: str) -> Iterator[tuple[str, Leaf, Leaf]]:
    """The place of each stored value, and what is there now."""
    if isinstance(stored, Mapping):
        for key, item in stored.items():
            yield from _leaves(item, _at(now, key), f"{name}.{key}" if name else key)
    elif isinstance(stored, list | tuple):
        rows = [*now] if isinstance(now, Sequence) and not isinstance(now, str) else []
        if len(rows) != len(stored):
            yield f"{name}: rows", len(stored), len(rows)
        for n, (then, row) in enumerate(zip(stored, rows, strict=False)):
            yield from _leaves(then, row, f"{name}[{n}]")
    else:
        leaf = _leaf(now)
        if stored is not None or not _is_whole(now):
            yield name, stored, leaf


def _is_whole(now: Any) -> bool:
    """A part of a record that a document goes without."""
    return is_dataclass(now) or isinstance(now, Mapping | list | tuple)


def _at(now: Any, key: str) -> Any:
    if isinstance(now, Mapping):
        return now.get(key, _MISSING)
    return getattr(now, key, _MISSING)


def _leaf(now: Any) -> Leaf:
    """A value as a document has it."""
    if isinstance(now, Judgement):
        now = now.level
    if isinstance(now, Enum):
        now = now.value
    if isinstance(now, str):
        return now.encode("utf-8", "replace").decode("utf-8")
    return now if isinstance(now, int | float | bool) or now is None else str(now)


def _is_yes_or_no(*values: Leaf) -> bool:
    return any(isinstance(value, bool) for value in values)
