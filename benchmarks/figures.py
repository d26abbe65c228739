"""A dated table of measured ratios, and what it is compared with: the table before it."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

COLUMNS = ("benchmark", "figure", "target", "median", "from", "to", "last", "verdict")


class Figure(NamedTuple):
    """One figure of a benchmark, in several rounds."""

    name: str
    target: str
    """ "<= 1.5" or ">= 0.9"; empty for what has no target."""
    rounds: Sequence[float]


class Line(NamedTuple):
    """A line of the table, as it is written."""

    benchmark: str
    figure: str
    target: str
    median: str
    low: str
    high: str
    last: str
    verdict: str


def line_of(benchmark: str, figure: Figure, last: str) -> Line:
    """The line of a figure beside the one of the last table."""
    middle = statistics.median(figure.rounds)
    low, high = min(figure.rounds), max(figure.rounds)
    shown = (f"{value:.3g}" for value in (middle, low, high))
    return Line(benchmark, figure.name, figure.target, *shown, last, verdict(figure.target, middle))


def skipped(benchmark: str, why: str) -> Line:
    """The line of a benchmark that could not run."""
    return Line(benchmark, "", "", "", "", "", "", f"skipped: {' '.join(why.split())}")


def merged(kept: Sequence[Line], new: Sequence[Line]) -> list[Line]:
    """The lines of a day with new ones of a benchmark; where that was skipped, those of before
    stay."""
    names = {line.benchmark for line in new}
    before = [line for line in kept if line.benchmark in names]
    if any(line.median for line in before) and not any(line.median for line in new):
        return [*kept]
    return [*(line for line in kept if line.benchmark not in names), *new]


def verdict(target: str, value: float) -> str:
    """Whether a figure meets its target."""
    if not target:
        return ""
    sign, bound = target.split()
    assert sign in ("<=", ">="), f"no target: {target}"
    met = value <= float(bound) if sign == "<=" else value >= float(bound)
    return "holds" if met else "misses"


def write_table(path: Path, lines: Iterable[Line], head: str) -> None:
    """Write the lines under what is said of the machine."""
    rows = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    rows += ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head}\n\n" + "\n".join(rows) + "\n", encoding="utf-8")


def read_table(path: Path) -> list[Line]:
    """The lines of a table that `write_table` wrote."""
    rows = [row for row in path.read_text(encoding="utf-8").splitlines() if row.startswith("| ")]
    return [Line(*(cell.strip() for cell in row[1:-1].split("|"))) for row in rows[1:]]


def before(folder: Path, day: str) -> dict[tuple[str, str], str]:
    """The median of each figure in the last table of another day."""
    tables = sorted(path for path in folder.glob("*.md") if path.stem < day)
    lines = read_table(tables[-1]) if tables else []
    return {(line.benchmark, line.figure): line.median for line in lines}
