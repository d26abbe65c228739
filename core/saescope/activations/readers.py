"""Local text files as documents: .txt cut at blank lines, .jsonl and .parquet by row. Bounded memory, nothing lost, coded errors."""

import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saescope.errors import FormatError, NotFoundError

DOCUMENT_CHARS = 1000
"""A .txt file becomes documents of about this length, so that a part of a single file can be held out."""
MAX_LINE_CHARS = 2**24
BLOCK_CHARS = 2**20
TEXT_COLUMNS = ("text", "content")

Reader = Callable[[Path, str], Iterator[str]]


def read_txt(path: Path, column: str) -> Iterator[str]:
    """Documents of a plain text file, joined they are the file; `column` has no meaning here."""
    with readable(path), path.open(encoding="utf-8-sig") as file:
        yield from cut(iter(lambda: file.read(BLOCK_CHARS), ""), DOCUMENT_CHARS)


def read_jsonl(path: Path, column: str) -> Iterator[str]:
    """One document a line, each a JSON object that has the column."""
    with readable(path), path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_CHARS), ""), 1):
            if len(line) == MAX_LINE_CHARS:
                raise FormatError(
                    f"Line {number} of {path.name!r} is too long.",
                    code="TOO_LONG",
                    field="dataset",
                    allowed=MAX_LINE_CHARS,
                )
            if line.strip():
                row = _object(line, path, number)
                column = column or text_column(_kinds(row), path.name)
                yield from _text(row, column, path.name)


def read_parquet(path: Path, column: str) -> Iterator[str]:
    """One document a row."""
    import pyarrow as pa
    from pyarrow import parquet

    with readable(path, pa.ArrowException), parquet.ParquetFile(path) as file:
        schema: Any = file.schema_arrow
        kinds = {
            field.name: pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
            for field in schema
        }
        column = _existing(column, kinds, path.name) if column else text_column(kinds, path.name)
        for batch in file.iter_batches(batch_size=64, columns=[column]):
            for value in batch.column(0).to_pylist():
                yield from _text({column: value}, column, path.name)


READERS: dict[str, Reader] = {".txt": read_txt, ".jsonl": read_jsonl, ".parquet": read_parquet}


def cut(blocks: Iterable[str], size: int) -> Iterator[str]:
    """The text of all blocks in pieces of `size` to `4 * size` characters: at a blank line, else before a space."""
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


def text_column(kinds: dict[str, bool], source: str) -> str:
    """The column that holds the text; `kinds` tells of each column whether it is text.

    Raises:
        NotFoundError: COLUMN_NOT_FOUND: none or several could be meant.
    """
    texts = [name for name, is_text in kinds.items() if is_text]
    usual = [name for name in TEXT_COLUMNS if name in texts]
    if usual or len(texts) == 1:
        return (usual or texts)[0]
    raise NotFoundError(
        f"Which column of {source!r} holds the text is not clear.",
        code="COLUMN_NOT_FOUND",
        field="text_column",
        got=list(kinds)[:20],
        allowed=texts[:20] or "a column of text",
        hint=_naming(texts) if texts else "Use a dataset with a column of text.",
    )


def _existing(column: str, kinds: dict[str, bool], source: str) -> str:
    if column in kinds:
        return column
    raise NotFoundError(
        f"{source!r} has no column {column!r}.",
        code="COLUMN_NOT_FOUND",
        field="text_column",
        got=column,
        allowed=list(kinds)[:20],
        hint=_naming([name for name, is_text in kinds.items() if is_text]),
    )


def _naming(texts: list[str]) -> str:
    """How the tools are told which column it is."""
    name = texts[0] if texts else "..."
    return f'Name it: text_column="{name}"; for train_sae options=["text_column={name}"].'


def _cut_point(text: str, start: int, size: int) -> int:
    """Where the piece that begins at `start` ends; depends on its next `4 * size` characters only."""
    last = min(len(text), start + 4 * size)
    blank = text.find("\n\n", start + size, last)
    if blank >= 0:
        return blank + 2
    if last == len(text) and last - start < 4 * size:
        return last
    space = text.rfind(" ", start + size, last)
    return space if space > 0 else last


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise FormatError(
            f"Line {number} of {path.name!r} is no JSON object.",
            field="dataset",
            got=line[:80],
            hint="One object a line.",
        )
    return row


def _kinds(row: dict[str, Any]) -> dict[str, bool]:
    return {name: isinstance(value, str) for name, value in row.items()}


def _text(row: dict[str, Any], column: str, source: str) -> Iterator[str]:
    value = row[_existing(column, _kinds(row), source)]
    if value is not None and not isinstance(value, str):
        raise FormatError(
            f"Column {column!r} of {source!r} holds {type(value).__name__}, no text.",
            code="COLUMN_NOT_TEXT",
            field="text_column",
            got=column,
            hint=_naming([]),
        )
    if value:
        yield value


@contextmanager
def readable(path: Path, *errors: type[Exception]) -> Generator[None]:
    """Whatever goes wrong in reading becomes a coded error that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path.name!r} is not UTF-8 text (byte {error.start}).",
            code="NOT_UTF8",
            field="dataset",
            got=path.name,
            hint="Convert it.",
        ) from None
    except errors as error:
        raise FormatError(
            f"{path.name!r} cannot be read: {_first_line(error)}", field="dataset", got=path.name
        ) from error
    except OSError as error:
        raise FormatError(
            f"{path.name!r} cannot be read: {error.strerror or _first_line(error)}.",
            code="FILE_READ_ERROR",
            field="dataset",
            got=path.name,
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
