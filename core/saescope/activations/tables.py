"""CSV and TSV files as documents: Python's own reader, strict; delimiter, quoting and header are
judged by the first lines."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from saescope.activations.columns import (
    Record,
    existing,
    naming,
    not_once,
    samples_of,
    text_at,
    text_column,
)
from saescope.activations.files import MAX_LINE_CHARS, lines_of, open_text, readable
from saescope.errors import FormatError, NotFoundError

HEAD_LINES = 1000
HEAD_CHARS = 2**22
"""The first lines, by which the dialect is judged, are at most about so long."""
DATA_WORDS = 4
"""A name of a column with so many words may be data: then the header seems to be missing."""


class CsvDialect(NamedTuple):
    """What separates the columns, and whether quotes hold a field together or are text."""

    delimiter: str
    quoted: bool = True
    named: bool = False
    """The first line names the delimiter and belongs to no record, as Excel has it."""
    spaced: bool = False
    """A space follows each delimiter and belongs to no cell."""
    unsure: bool = False
    """The first lines read alike with and without quotes."""


class TableRow(NamedTuple):
    """A record and the line that it begins at."""

    line: int
    cells: list[str]


CSV = (CsvDialect(","), CsvDialect(";"), CsvDialect("\t"), CsvDialect("|"))
TSV = (CsvDialect("\t"), CsvDialect("\t", quoted=False))
"""Spreadsheets quote; most other programs write quotes as they are."""
_NAMED = re.compile(r'"?sep=([^\w"\r\n])"?\s*', re.IGNORECASE)
_IN_NAMES = " _-.'\"\r\n"
"""What a column may well be called with, beside letters and digits."""


def read_table(path: Path, column: str) -> Iterator[str]:
    """One document a record of a .csv or .tsv file that begins with the names of its columns."""
    for record in table_records(path, column):
        yield from text_at(record.cells, record.column, record.where)


def table_records(path: Path, column: str) -> Iterator[Record]:
    """All records of a .csv or .tsv file that begins with the names of its columns."""
    with readable(path):
        dialect = _dialect(path, column)
        rows = _rows(path, dialect)
        header = [name.strip() for name in next(rows, TableRow(1, [])).cells]
        if not header:
            return
        column = _column(path, header, column, dialect)
        for row in rows:
            where = f"Line {row.line} of {path.name!r}"
            if len(row.cells) != len(header):
                raise _ragged(where, row.cells, header)
            yield Record(where, column, dict(zip(header, row.cells, strict=True)))


def _column(path: Path, header: list[str], column: str, dialect: CsvDialect) -> str:
    if not column:
        _check_header(path, header)
    if not column or column not in header:
        body = _rows(path, dialect)
        next(body)
        samples = {name: [] for name in header} | samples_of(
            dict(zip(header, map(_value, row.cells), strict=False)) for row in body
        )
        if column:
            existing(column, samples, f"The header of {path.name!r}")
        column = text_column(samples, path.name)
    if header.count(column) > 1:
        raise not_once(path, column, header.count(column))
    return column


def _check_header(path: Path, header: list[str]) -> None:
    """Raises NotFoundError if the first record looks like data: it would be lost in silence."""
    if any(
        not isinstance(_value(name), str | None) or len(name.split()) >= DATA_WORDS
        for name in header
    ):
        raise NotFoundError(
            f"The first line of {path.name!r} looks like data, where the columns' names belong.",
            code="COLUMN_NOT_FOUND",
            field="text_column",
            got=[name[:40] for name in header[:20]],
            allowed="a first line that names the columns",
            hint=f"Put one there (for one column: text). If these are names: {naming(header[0])}",
            facts={"column": header[0]},
        )


def _value(cell: str) -> Any:
    """A cell as it would stand in JSON: null, a number or text."""
    try:
        return float(cell) if cell.strip() else None
    except ValueError:
        return cell


def _dialect(path: Path, column: str) -> CsvDialect:
    """The dialect that the first line names, or under which the first records are as wide as the
    header, of several columns; else the one of the widest header, so that a record of another width
    is an error and not a text.

    Raises:
        NotFoundError: COLUMN_NOT_FOUND: something else seems to part the columns, and `column` is
            not the whole first line.
    """
    head, whole = _head(path)
    if head and (named := _NAMED.fullmatch(head[0])):
        return CsvDialect(named[1], named=True)
    candidates = TSV if path.suffix.lower() == ".tsv" else CSV
    judged = [(_judge(head, dialect, path, whole=whole), dialect) for dialect in candidates]
    (n_records, width), dialect = max(judged, key=lambda size: size[0])
    first = next((line.strip() for line in head if line.strip()), "")
    if not n_records and width < 2 and column != first.strip('"'):
        _check_parted(path, head, first)
    equal = [other for size, other in judged if size == (n_records, 0) and n_records > 1]
    if len({other.delimiter for other in equal}) > 1:
        dialect = _of_two(path, first, equal, column)
    spaced = all(name.startswith(" ") for name in first.split(dialect.delimiter)[1:])
    return dialect._replace(
        spaced=spaced and dialect.delimiter in first, unsure=len(equal) > 1 and dialect in TSV
    )


def _of_two(path: Path, first: str, equal: Sequence[CsvDialect], column: str) -> CsvDialect:
    """The one of several dialects under which all is a table whose header has the column.

    Raises:
        NotFoundError: COLUMN_NOT_FOUND: there is not one such.
    """
    fits = [each for each in equal if column in _names(first, each)]
    if column and len(fits) == 1:
        return fits[0]
    signs = ", ".join(repr(each.delimiter) for each in equal)
    raise NotFoundError(
        f"The columns of {path.name!r} may be parted by any of {signs}.",
        code="COLUMN_NOT_FOUND",
        field="text_column",
        got=first[:80],
        allowed=[name for each in equal for name in _names(first, each)],
        hint=f"Put the line sep={equal[0].delimiter}, or with the other sign, above the first one.",
    )


def _names(first: str, dialect: CsvDialect) -> list[str]:
    return [name.strip() for name in next(csv.reader([first], delimiter=dialect.delimiter), [])]


def _judge(head: Sequence[str], dialect: CsvDialect, path: Path, *, whole: bool) -> tuple[int, int]:
    """The number of records and 0; where they differ in width or have but one column 0 and the
    width of the header."""
    records: list[TableRow] = []
    torn = False
    try:
        records.extend(_parse(head, dialect, path))
    except FormatError:
        # the head may end within a field; what came before it still counts
        torn = whole
    widths = [len(record.cells) for record in records] or [0]
    whole_table = not torn and len({*widths}) == 1 and widths[0] > 1
    return (len(records), 0) if whole_table else (0, widths[0])


def _check_parted(path: Path, head: Sequence[str], first: str) -> None:
    """Raises NotFoundError if a sign that nobody looked for parts the header, and every other
    record at least as often."""
    for sign in sorted({sign for sign in first if not sign.isalnum() and sign not in _IN_NAMES}):
        rows, parsed = _parse(head, CsvDialect(sign), path), list[list[str]]()
        with suppress(FormatError):
            parsed.extend(row.cells for row in rows)
        names = [name for name in parsed[0] if name.strip()] if parsed else []
        if len(names) > 1 < len(parsed) and min(map(len, parsed)) >= len(parsed[0]):
            name = first.strip('"')
            line = f"the line sep={sign}" if sign.isprintable() else "a line of sep= and that sign"
            raise NotFoundError(
                f"The columns of {path.name!r} seem to be parted by {sign!r}.",
                code="COLUMN_NOT_FOUND",
                field="text_column",
                got=first[:80],
                allowed="tabs" if path.suffix.lower() == ".tsv" else "a comma, semicolon, tab or |",
                hint=f"Put {line} above the first one; if all is one column, give "
                f'text_column="{name}".',
                facts={"column": name},
            )


def _head(path: Path) -> tuple[list[str], bool]:
    """The first lines, and whether they are all."""
    head: list[str] = []
    n_chars = 0
    with open_text(path, newline="") as file:
        for line in lines_of(file, path):
            if len(head) >= HEAD_LINES or n_chars > HEAD_CHARS:
                return head, False
            head.append(line)
            n_chars += len(line)
    return head, True


def _rows(path: Path, dialect: CsvDialect) -> Iterator[TableRow]:
    with open_text(path, newline="") as file:
        lines = lines_of(file, path)
        if dialect.named:
            next(lines)
        yield from _parse(lines, dialect, path)


def _parse(lines: Iterable[str], dialect: CsvDialect, path: Path) -> Iterator[TableRow]:
    """Records; blank lines are none."""
    csv.field_size_limit(MAX_LINE_CHARS)
    reader = csv.reader(
        lines,
        delimiter=dialect.delimiter,
        quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
        skipinitialspace=dialect.spaced,
        strict=True,
    )
    while True:
        line = reader.line_num + 1 + dialect.named
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _unreadable(path, line, error) from None
        if cells is None:
            return
        if dialect.unsure and reader.line_num + dialect.named > line:
            raise _quoted_over_lines(path, line)
        if cells:
            yield TableRow(line, cells)


def _unreadable(path: Path, line: int, error: csv.Error) -> FormatError:
    if "limit" in str(error):
        return FormatError(
            f"A field of the record at line {line} of {path.name!r} is too long.",
            code="TOO_LONG",
            field="dataset",
            allowed=f"{MAX_LINE_CHARS} characters",
            hint="Close the quotes of every field.",
        )
    return FormatError(
        f"The record at line {line} of {path.name!r} cannot be read: {error}.",
        field="dataset",
        got=path.name,
        hint='Close every quote, and double those inside a quoted field: "she said ""no""".',
    )


def _quoted_over_lines(path: Path, line: int) -> FormatError:
    return FormatError(
        f"Line {line} of {path.name!r} begins a cell with a quote that a later line closes: one "
        "text, or several that begin or end with a quote.",
        field="dataset",
        got=path.name,
        allowed="line breaks in quotes among the first 1,000 lines, or none",
        hint="Save it as CSV, or as .jsonl, where quotes have one meaning.",
    )


def _ragged(where: str, cells: list[str], header: list[str]) -> FormatError:
    return FormatError(
        f"{where} has {len(cells)} columns, the header {len(header)}.",
        field="dataset",
        got=f"{len(cells)} columns",
        allowed=f"{len(header)}: {', '.join(header[:20])}",
        hint="Quote the fields that hold a delimiter or a line break.",
    )
