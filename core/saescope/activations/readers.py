"""Local text files as documents: .txt cut at blank lines, tables by row. Bounded memory, nothing
lost, coded errors."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from saescope.activations.columns import (
    Record,
    existing,
    likely,
    not_once,
    samples_of,
    text_at,
    text_column,
)
from saescope.activations.files import MAX_LINE_CHARS, lines_of, open_text, readable, too_long
from saescope.activations.tables import read_table, table_records
from saescope.errors import FormatError
from saescope.fence import open_file
from saescope.json_text import each_once, parse

DOCUMENT_CHARS = 1000
"""A .txt file becomes documents of about this length, so that a part of a single file can be held
out."""
BLOCK_CHARS = 2**20
PLAIN_ROWS, MAX_ROWS_A_BYTE = 10**6, 100
"""Bounds of a parquet file: up to so many rows nothing is asked, beyond them each must have
taken some of the file."""
PLAIN_BYTES, MAX_RATIO = 2**28, 50
"""Text is packed to a tenth, logs to a fiftieth."""

Reader = Callable[[Path, str], Iterator[str]]


class JsonRow(NamedTuple):
    """An object and the line that it stands in."""

    line: int
    columns: dict[str, Any]


def read_txt(path: Path, column: str) -> Iterator[str]:
    """Documents of a plain text file, joined they are the file; `column` has no meaning here."""
    with readable(path), open_text(path) as file:
        yield from cut(iter(lambda: file.read(BLOCK_CHARS), ""), DOCUMENT_CHARS)


def read_jsonl(path: Path, column: str) -> Iterator[str]:
    """One document a line, each a JSON object that has the column."""
    for record in jsonl_records(path, column):
        yield from text_at(record.cells, record.column, record.where)


def jsonl_records(path: Path, column: str) -> Iterator[Record]:
    """All objects, one a line."""
    with readable(path):
        samples = {} if column else samples_of(row.columns for row in _rows(path))
        column = column or (text_column(samples, path.name) if samples else "")
        for row in _rows(path):
            yield Record(f"Line {row.line} of {path.name!r}", column, row.columns)


def parquet_records(path: Path, column: str) -> Iterator[Record]:
    """All rows with all of their columns, a few of them at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    with readable(path, pa.ArrowException), open_file(path, field="dataset") as opened:
        file = parquet.ParquetFile(opened)
        kinds = _parquet_kinds(file, path)
        texts = [name for name, kind in kinds.items() if _is_text(kind, pa.types)]
        samples = _parquet_samples(file, [*kinds], texts)
        named = existing(column, samples, repr(path.name)) if column else ""
        column = named or text_column(samples, path.name)
        rows = (row for batch in file.iter_batches(batch_size=64) for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield Record(f"Row {number} of {path.name!r}", column, row)


def read_parquet(path: Path, column: str) -> Iterator[str]:
    """Yield the rows of a parquet file, one document a row."""
    import pyarrow as pa
    from pyarrow import parquet

    with readable(path, pa.ArrowException), open_file(path, field="dataset") as opened:
        kinds = _parquet_kinds(parquet.ParquetFile(opened), path)
        texts = [name for name, kind in kinds.items() if _is_text(kind, pa.types)]
        # A string that a thousand rows share stays one: as plain rows it may take a thousand times
        # the memory.
        with parquet.ParquetFile(opened, read_dictionary=texts) as file:
            # named and of text: no other column is read, nor need it be whole
            known = column in texts
            samples = {column: [""]} if known else _parquet_samples(file, [*kinds], texts)
            column = (
                existing(column, samples, repr(path.name))
                if column
                else text_column(samples, path.name)
            )
            better = likely(samples)
            batches = file.iter_batches(batch_size=64, columns=[column])
            values = (value.as_py() for batch in batches for value in batch.column(0))
            for number, value in enumerate(values, 1):
                where = f"Row {number} of {path.name!r}"
                if isinstance(value, str) and len(value) > MAX_LINE_CHARS:
                    raise too_long(where)
                yield from text_at({column: value}, column, where, better=better)


READERS: dict[str, Reader] = {
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
    ".csv": read_table,
    ".tsv": read_table,
}


RECORDS: dict[str, Callable[[Path, str], Iterator[Record]]] = {
    ".jsonl": jsonl_records,
    ".parquet": parquet_records,
    ".csv": table_records,
    ".tsv": table_records,
}
"""Readers of all columns, for the kinds of files that have any."""


def cut(blocks: Iterable[str], size: int) -> Iterator[str]:
    """The text of all blocks in pieces of `size` to `4 * size` characters: at a blank line, else
    before a space."""
    rest = ""
    for block in blocks:
        rest += block
        start = 0
        while len(rest) - start > 4 * size:
            end = _cut_point(rest, start, size)
            yield rest[start:end]
            start = end
        rest = rest[start:]
    while len(rest) > size:
        end = _cut_point(rest, 0, size)
        yield rest[:end]
        rest = rest[end:]
    if rest:
        yield rest


def _cut_point(text: str, start: int, size: int) -> int:
    """Find where the piece that begins at `start` ends, from its next `4 * size` characters
    alone."""
    last = min(len(text), start + 4 * size)
    blank = text.find("\n\n", start + size, last)
    if blank >= 0:
        return blank + 2
    if last == len(text) and last - start < 4 * size:
        return last
    space = text.rfind(" ", start + size, last)
    return space if space > 0 else last


def _parquet_kinds(file: Any, path: Path) -> dict[str, Any]:
    """The columns and their types, once the footer can be believed: few bytes may claim to be any
    number of rows or gigabytes."""
    footer, n_bytes = file.metadata, path.stat().st_size
    n_unpacked = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
    if footer.num_rows > max(PLAIN_ROWS, MAX_ROWS_A_BYTE * n_bytes):
        claim = f"{footer.num_rows} rows"
    elif n_unpacked > max(PLAIN_BYTES, MAX_RATIO * n_bytes):
        claim = f"{n_unpacked} bytes, unpacked"
    else:
        return _by_name(file.schema_arrow, path)
    raise FormatError(
        f"{path.name!r} is refused: its {n_bytes} bytes claim to be {claim}.",
        code="FILE_SUSPICIOUS",
        field="dataset",
        got=path.name,
        hint="Use a file from a source you trust.",
    )


def _by_name(schema: Any, path: Path) -> dict[str, Any]:
    """Raises FormatError where two columns have one name."""
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise not_once(path, twice, schema.names.count(twice))
    return {field.name: field.type for field in schema}


def _parquet_samples(file: Any, names: list[str], texts: list[str]) -> dict[str, list[Any]]:
    """Sample the columns: their types, and the first rows of those that hold text."""
    batch = next(file.iter_batches(batch_size=64, columns=texts), None)
    rows = zip(*batch.columns, strict=True) if batch is not None else ()
    samples = samples_of(
        {name: cell.as_py() for name, cell in zip(texts, row, strict=True)} for row in rows
    )
    # by its type a column is one of text, whatever its first rows hold
    return {name: [*samples.get(name, []), ""] if name in texts else [1] for name in names}


def _is_text(kind: Any, types: Any) -> bool:
    """Whether values of this type of Arrow are strings, however they are kept."""
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _is_text(kind.value_type, types)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _rows(path: Path) -> Iterator[JsonRow]:
    with open_text(path) as file:
        for number, line in enumerate(lines_of(file, path), 1):
            if line.strip():
                yield JsonRow(number, _object(line, path, number))


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    row, problem = None, "holds no JSON object"
    try:
        row = parse(line.strip(), pairs=each_once)
    except ValueError as error:
        problem = str(error).replace(" at line 1, column ", " at column ")
    if not isinstance(row, dict):
        raise FormatError(
            f"Line {number} of {path.name!r} {problem}.",
            field="dataset",
            got=line[:80],
            hint=f"Correct that line: {path.name!r} must hold one JSON object a line.",
        )
    return row
