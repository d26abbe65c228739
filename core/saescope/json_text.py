"""JSON that other programs wrote: with or without a byte order mark, and in plain words what is
wrong with it."""

import json
import sys
from collections.abc import Callable
from typing import Any

Pairs = Callable[[list[tuple[str, Any]]], Any]


class TwiceError(ValueError):
    """An object has two values under one name."""


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its keys and values, for `parse`; a key that comes twice is an error.

    Raises:
        TwiceError: a key stands there twice; the message completes "it ...".
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise TwiceError(f"has two values for {twice!r}")
    return fields


BOM = "\ufeff"


def parse(text: str | bytes, *, pairs: Pairs | None = None) -> Any:
    """The value that the text holds; `pairs` makes each object of its keys and values.

    Raises:
        ValueError: it is no JSON, nested too deeply, or holds a number too long to be read; the
            message completes "it ...".
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text))
        return json.loads(text.removeprefix(BOM), object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        raise ValueError(f"is no UTF-8 text: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"is no valid JSON: {error.msg} at {where}") from error
    except TwiceError:
        raise
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except ValueError as error:
        # the one other that json raises: of digits, which take the square of their number to read
        most = sys.get_int_max_str_digits()
        raise ValueError(f"holds a whole number of more than {most} digits") from error
