"""A list of texts from a file: a line of a .txt file each, or a row of a table."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from saescope.activations.columns import ListedText, beside, text_at
from saescope.activations.files import lines_of, open_text, readable
from saescope.activations.readers import READERS, RECORDS
from saescope.errors import ArgumentError, FormatError, NotFoundError, SaescopeError
from saescope.fence import check_regular


def read_texts(
    path: str | Path,
    *,
    column: str = "",
    most: int | None = None,
    most_chars: int | None = None,
    field: str = "texts_file",
) -> list[str]:
    """The texts in their order, without blank ones; errors name the argument `field`.

    `most` texts, and `most_chars` in each, are read: what is beyond that ends the reading at once.

    Raises:
        NotFoundError: there is no file, no text in it, or no such column.
        ArgumentError: it is of another kind, holds more than `most` texts, or a longer one.
        FormatError: it cannot be read.
    """
    rows = read_rows(Path(path), column=column, most=most, most_chars=most_chars, field=field)
    return [row.text for row in rows]


def read_rows(
    path: Path,
    *,
    column: str = "",
    more: Sequence[str] = (),
    most: int | None = None,
    most_chars: int | None = None,
    field: str = "texts_file",
) -> list[ListedText]:
    """What `read_texts` gives, with the values of more columns beside each text."""
    check_regular(path, field=field)
    if not path.is_file():
        raise NotFoundError(
            f"There is no file {str(path)!r}.",
            code="FILE_MISSING",
            field=field,
            got=path,
            allowed=f"a file of texts: {', '.join(READERS)}",
            hint="Give the path of a file that is there.",
        )
    if path.suffix.lower() not in READERS:
        raise ArgumentError(
            f"{path.name!r} is no file of texts.",
            code="UNKNOWN_FORMAT",
            field=field,
            got=path.name,
            allowed=", ".join(READERS),
            hint="Save it as CSV, or as plain text with a text on each line.",
        )
    try:
        read = (row for row in _reader(path)(path, column, more) if _says(row.text))
        texts = list[ListedText]()
        for row in islice(read, None if most is None else most + 1):
            if most_chars is not None and len(row.text) > most_chars:
                raise _too_long(len(texts), len(row.text), path, allowed=most_chars)
            texts.append(row)
    except (ArgumentError, FormatError, NotFoundError) as error:
        raise _of_texts(error, field) from error
    _check_number(len(texts), path, most, field)
    return texts


def _says(text: str) -> bool:
    return bool(text.replace("\0", "").strip())


def _reader(path: Path) -> Callable[[Path, str, Sequence[str]], Iterator[ListedText]]:
    return _lines if path.suffix.lower() == ".txt" else _records


def _records(path: Path, column: str, more: Sequence[str]) -> Iterator[ListedText]:
    if not more:
        yield from (ListedText(text) for text in READERS[path.suffix.lower()](path, column))
        return
    for record in RECORDS[path.suffix.lower()](path, column):
        for text in text_at(record.cells, record.column, record.where):
            yield ListedText(text, beside(record, more))


def _lines(path: Path, column: str, more: Sequence[str]) -> Iterator[ListedText]:
    column = column or (more[0] if more else "")
    if column:
        raise NotFoundError(
            f"{path.name!r} is plain text and has no column {column!r}.",
            code="COLUMN_NOT_FOUND",
            field="text_column",
            got=column,
            hint="Call again without text_column; each line is a text.",
        )
    with readable(path), open_text(path) as file:
        yield from (ListedText(line.removesuffix("\n")) for line in lines_of(file, path))


def _check_number(n: int, path: Path, most: int | None, field: str) -> None:
    if not n:
        raise NotFoundError(
            f"{path.name!r} holds no text.",
            code="DATASET_EMPTY",
            field=field,
            got=path.name,
            hint=f"Check the column: {_column_of(field)} names another.",
        )
    if most is not None and n > most:
        raise ArgumentError(
            f"{path.name!r} holds more than {most:,} texts.",
            code="TOO_MANY_ITEMS",
            field=field,
            got=f"more than {most}",
            allowed=most,
            hint="Split the file, or allow more texts.",
            facts={"most": most},
        )


def _too_long(i: int, n_chars: int, path: Path, *, allowed: int) -> ArgumentError:
    return ArgumentError(
        f"Text {i} of {path.name!r} (the first is 0) has {n_chars:,} characters.",
        code="TOO_LONG",
        got=n_chars,
        allowed=allowed,
        hint="Cut it into several rows.",
    )


def _of_texts(error: SaescopeError, field: str) -> SaescopeError:
    """The error in the words of a file of texts and its column, which a dataset calls otherwise."""
    name = _column_of(field)
    of_column = error.field == "text_column"
    return type(error)(
        error.message,
        code=error.code,
        field=name if of_column else field,
        got=error.got,
        allowed=error.allowed,
        hint=error.hint.replace("text_column", name) if of_column else error.hint,
    )


def _column_of(field: str) -> str:
    return "against_column" if field == "against_file" else "texts_column"
