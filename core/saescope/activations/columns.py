"""Which column of a table holds the text, and the text of a row."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from saescope.errors import FormatError, NotFoundError

TEXT_COLUMNS = ("text", "content")
SAMPLE_ROWS = 100
"""So many rows are looked at to find the column; the first may well be null."""
SAMPLE_CHARS = 1000
PROSE_WORDS = 3
"""Words of a mean value from which a column reads as prose."""
MUCH_LONGER = 4
"""Prose so many times as long as any other column's values is taken for the text."""

Samples = Mapping[str, list[Any]]
"""The first values of each column."""


def samples_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The first values of each column, long ones cut: a hundred long rows are never held at once."""
    samples: dict[str, list[Any]] = {}
    for row in islice(rows, SAMPLE_ROWS):
        for name, value in row.items():
            samples.setdefault(name, []).append(
                value[:SAMPLE_CHARS] if isinstance(value, str) else value
            )
    return samples


def text_column(samples: Samples, source: str) -> str:
    """The column that holds the text: `text` or `content`, the only one of text, or by far the longest prose.

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
    texts = [*texts, *empty]
    raise NotFoundError(
        f"Which column of {source!r} holds the text is not clear.",
        code="COLUMN_NOT_FOUND",
        field="text_column",
        got=list(samples)[:20],
        allowed=texts[:20] or "a column of text",
        hint=naming(texts) if texts else "Use a file with a column of text.",
        facts={"column": texts[0]} if texts else {},
    )


def existing(column: str, columns: Iterable[str], where: str) -> str:
    """The column, if it is there.

    Raises:
        NotFoundError: COLUMN_NOT_FOUND, with the columns that there are.
    """
    there = list(columns)
    if column in there:
        return column
    raise NotFoundError(
        f"{where} has no column {column!r}.",
        code="COLUMN_NOT_FOUND",
        field="text_column",
        got=column,
        allowed=there[:20],
        hint=naming(there),
        facts={"column": there[0]} if there else {},
    )


def not_once(path: Path, column: str, n: int) -> FormatError:
    """Which of several columns of one name is meant cannot be said."""
    return FormatError(
        f"{path.name!r} has {n} columns called {column!r}.",
        field="text_column",
        got=column,
        hint="Give each column a name of its own.",
    )


def text_at(row: Mapping[str, Any], column: str, where: str) -> Iterator[str]:
    """The row's text; nothing if it is null or empty. Half a surrogate pair becomes U+FFFD, as a decoder would have it.

    Raises:
        NotFoundError: the row lacks the column.
        FormatError: COLUMN_NOT_TEXT: the value is of another type.
    """
    value = row[existing(column, row, where)]
    if value is not None and not isinstance(value, str):
        raise FormatError(
            f"{where} holds {type(value).__name__}, no text, in column {column!r}.",
            code="COLUMN_NOT_TEXT",
            field="text_column",
            got=column,
            hint=naming([]),
            facts={"column": "..."},
        )
    if value:
        yield value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def naming(columns: list[str]) -> str:
    """How a reader is told which column it is."""
    return f'Name it: text_column="{columns[0] if columns else "..."}".'


def _strings(values: list[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str)]


def _much_the_longest(samples: Samples, texts: list[str]) -> str:
    """The column of prose much longer than any other; empty if there is none."""

    def mean(name: str, size: Any) -> float:
        strings = _strings(samples[name])
        return sum(map(size, strings)) / len(strings)

    ranked = sorted(((mean(name, len), name) for name in texts), reverse=True)
    if len(ranked) < 2 or ranked[0][0] < MUCH_LONGER * ranked[1][0]:
        return ""
    longest = ranked[0][1]
    return longest if mean(longest, lambda text: len(text.split())) >= PROSE_WORDS else ""
