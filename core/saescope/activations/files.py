"""Opening a text file of the user: UTF-8, lines of bounded length, and a coded error for whatever
goes wrong."""

import io
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from saescope.errors import FormatError, cause_of
from saescope.fence import LOOK, open_file

MAX_LINE_CHARS = 2**24
HEAD_BYTES = 4096
AS_UTF8 = 'Save it as UTF-8 (in Excel: "CSV UTF-8"; iconv -t utf-8 elsewhere).'
_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def open_text(path: Path, *, newline: str | None = None) -> io.TextIOWrapper:
    """The file as UTF-8 text, with or without a byte order mark.

    Raises:
        FormatError: NOT_UTF8: it is UTF-16 or UTF-32, which may well decode as UTF-8, to nonsense.
    """
    file = open_file(path, field="dataset")
    head = file.read(HEAD_BYTES)
    # Zeros and nothing else are no encoding: they are no text either, which is said of the dataset.
    if head.startswith(_BOMS) or len(head) / 8 < head.count(0) < len(head):
        file.close()
        raise FormatError(
            f"{path.name!r} is UTF-16 or UTF-32 text, or none at all.",
            code="NOT_UTF8",
            field="dataset",
            got=path.name,
            hint=AS_UTF8,
        )
    file.seek(0)
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)


def lines_of(file: io.TextIOWrapper, path: Path) -> Iterator[str]:
    """Lines as they are; one that is too long is an error, so that memory stays bounded."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_CHARS), ""), 1):
        if len(line) == MAX_LINE_CHARS:
            raise too_long(f"Line {number} of {path.name!r}")
        yield line


def too_long(what: str) -> FormatError:
    return FormatError(
        f"{what} is too long.",
        code="TOO_LONG",
        field="dataset",
        allowed=f"{MAX_LINE_CHARS} characters",
        hint="Cut it into several rows.",
    )


@contextmanager
def readable(path: Path, *errors: type[Exception]) -> Generator[None]:
    """Whatever goes wrong in reading becomes a coded error that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path.name!r} is not UTF-8 text ({error.reason}).",
            code="NOT_UTF8",
            field="dataset",
            got=path.name,
            hint=AS_UTF8,
        ) from None
    except errors as error:
        raise FormatError(
            f"{path.name!r} cannot be read: {cause_of(error)}",
            field="dataset",
            got=path.name,
            hint="Write that file again.",
        ) from error
    except OSError as error:
        raise FormatError(
            f"{path.name!r} cannot be read: {error.strerror or cause_of(error)}.",
            code="FILE_READ_ERROR",
            field="dataset",
            got=path.name,
            hint=LOOK,
        ) from error
