"""What clients send for a list and for an integer, and their users cannot correct: a list as JSON
text, 2.0 for 2."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel


def as_meant(model: type[BaseModel], sent: Any) -> Any:
    """The arguments with such values replaced. All else stays as it was sent, and is refused if it
    does not fit."""
    if not isinstance(sent, Mapping):
        return sent
    kinds = {info.alias or name: info.annotation for name, info in model.model_fields.items()}
    return {name: _meant(kinds.get(name), value) for name, value in sent.items()}


def _meant(kind: Any, value: Any) -> Any:
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if get_origin(kind) is list:
        value = _parsed(value, list)
        inner = get_args(kind)[0]
        return [_meant(inner, item) for item in value] if isinstance(value, list) else value
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
