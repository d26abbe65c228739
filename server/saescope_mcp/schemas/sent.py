"""What clients send for a list and for an integer, and their users cannot correct: a list as JSON
text, 2.0 for 2."""

import json
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel


def as_meant(kind: Any, value: Any) -> Any:
    """The value of an argument of this type with such values replaced; all else as it was sent."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if get_origin(kind) is list:
        value = _parsed(value, list)
        inner = get_args(kind)[0]
        return [as_meant(inner, item) for item in value] if isinstance(value, list) else value
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _parsed(value, dict)
    return value


def _parsed(value: Any, kind: type) -> Any:
    """The list or object that the text is in JSON; the value as it is where it is none."""
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return parsed if isinstance(parsed, kind) else value
