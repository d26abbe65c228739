"""Which column of a table holds the text, and the text of a row."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from saescope.errors import FormatError, NotFoundError

TEXT_COLUMNS = ("text", "content")
SAMPLE_ROWS = 100
"""So many rows are looked at to find the column; the first may well be null."""
SAMPLE_CHARS = 1000
PROSE_WORDS = 3
"""Words of a mean value from which a column reads as prose."""
MUCH_LONGER = 4
"""Prose so many times as long as any other column's values is taken for the text."""


class ListedText(NamedTuple):
    """A text and what stands beside it in its row."""

    text: str
    beside: tuple[Any, ...] = ()


Samples = Mapping[str, list[Any]]
"""The first values of each column."""


class Record(NamedTuple):
    """A row of a table, with the column that holds its text."""

    where: str
    """Its place, for errors."""
    column: str
    cells: Mapping[str, Any]


def samples_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The first values of each column, long ones cut: a hundred long rows are never held at
    once."""
    samples: dict[str, list[Any]] = {}
    for row in islice(rows, SAMPLE_ROWS):
        for name, value in row.items():
            samples.setdefault(name, []).append(
                value[:SAMPLE_CHARS] if isinstance(value, str) else value
            )
    return samples


def text_column(samples: Samples, source: str) -> str:
    """The column that holds the text: `text` or `content`, the only one of text, or by far the
    longest prose.

    Raises:
        NotFoundError: COLUMN_NOT_FOUND: none or several could be meant.
    """
    texts = [name for name, values in samples.items() if any(_strings(values))]
    # What is empty as far as was looked may hold the text further on.
    empty = [
        name for name, values in samples.items() if all(value in (None, "") for value in values)
    ]
    usual = [
        name
        for wanted in TEXT_COLUMNS
        for name in sorted((*texts, *empty), key=lambda name: name not in TEXT_COLUMNS)
        if name.lower() == wanted
    ]
    if usual:
        return usual[0]
    longest = texts[0] if len(texts) == 1 else _much_the_longest(samples, texts)
    if longest and not empty:
        return longest
    texts, best = [*texts, *empty], likely(samples)
    raise NotFoundError(
        f"Which column of {source!r} holds the text is not clear.",
        code="COLUMN_NOT_FOUND",
        field="text_column",
        got=list(samples)[:20],
        allowed=texts[:20] or "a column of text",
        hint=naming(best) if best else "Use a file with a column of text.",
        facts={"column": best} if best else {},
    )


def likely(samples: Samples) -> str:
    """The column that looks most like the text: one of the usual name, else of the longest strings,
    else an empty one."""

    def looks(name: str) -> tuple[bool, bool, float]:
        length = _mean(samples[name], len)
        return length > 0, length > 0 and name.lower() in TEXT_COLUMNS, length

    return max((name for name in samples if _may_be_text(samples[name])), key=looks, default="")


def _may_be_text(values: list[Any]) -> bool:
    return bool(_strings(values)) or all(value is None for value in values)


def existing(column: str, samples: Samples, where: str) -> str:
    """Return the column, if it is there.

    Raises:
        NotFoundError: COLUMN_NOT_FOUND, with the columns that there are.
    """
    if column in samples:
        return column
    there, best = list(samples), likely(samples)
    raise NotFoundError(
        f"{where} has no column {column!r}.",
        code="COLUMN_NOT_FOUND",
        field="text_column",
        got=column,
        allowed=there[:20],
        hint=naming(best),
        facts={"column": best or "..."},
    )


def label_of(value: Any) -> str:
    """A label as text, the same for all kinds of files: 1.0, which tables make of 1 where another
    row has none, is 1; null and NaN are nothing."""
    if value is None or value != value:
        return ""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", str(value).strip())


def beside(record: Record, columns: Sequence[str]) -> tuple[Any, ...]:
    """The values of other columns in a row.

    Raises:
        NotFoundError: COLUMN_NOT_FOUND: the row lacks one.
    """
    for column in columns:
        if column not in record.cells:
            raise NotFoundError(
                f"{record.where} has no column {column!r}.",
                code="COLUMN_NOT_FOUND",
                field="text_column",
                got=column,
                allowed=[*record.cells][:20],
                hint="Name a column that each row has.",
            )
    return tuple(record.cells[column] for column in columns)


def not_once(path: Path, column: str, n: int) -> FormatError:
    """Which of several columns of one name is meant cannot be said."""
    return FormatError(
        f"{path.name!r} has {n} columns called {column!r}.",
        field="text_column",
        got=column,
        hint="Give each column its own name.",
    )


def text_at(row: Mapping[str, Any], column: str, where: str, *, better: str = "") -> Iterator[str]:
    """The row's text; nothing if it is null or empty. Half a surrogate pair becomes U+FFFD, as a
    decoder would have it. An error names the column that is `better`, or that looks so in this row.

    Raises:
        NotFoundError: the row lacks the column.
        FormatError: COLUMN_NOT_TEXT: the value is of another type.
    """
    if column not in row:
        existing(column, samples_of([row]), where)
    value = row[column]
    if value is not None and not isinstance(value, str):
        better = better or likely(samples_of([row]))
        raise FormatError(
            f"{where} holds {type(value).__name__}, no text, in column {column!r}.",
            code="COLUMN_NOT_TEXT",
            field="text_column",
            got=column,
            hint=naming(better),
            facts={"column": better or "..."},
        )
    if value:
        yield value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def naming(column: str) -> str:
    """How a reader is told which column it is; "" where none looks like text."""
    return f'Name it: text_column="{column or "..."}".'


def _strings(values: list[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str)]


def _much_the_longest(samples: Samples, texts: list[str]) -> str:
    """The column of prose much longer than any other; empty if there is none."""
    ranked = sorted(((_mean(samples[name], len), name) for name in texts), reverse=True)
    if len(ranked) < 2 or ranked[0][0] < MUCH_LONGER * ranked[1][0]:
        return ""
    longest = ranked[0][1]
    n_words = _mean(samples[longest], lambda text: len(text.split()))
    return longest if n_words >= PROSE_WORDS else ""


def _mean(values: list[Any], size: Callable[[str], int]) -> float:
    """The mean size of the strings among the values; 0 without any."""
    strings = _strings(values)
    return sum(map(size, strings)) / len(strings) if strings else 0.0
