"""What is wrong with raw arguments, and the change to the call that puts it right."""

import math
import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from saescope.names import nearest
from saescope_mcp.binding.error_document import error_document, show

_CODES = {
    "extra_forbidden": "UNKNOWN_ARGUMENT",
    "missing": "MISSING_ARGUMENT",
    "missing_argument": "MISSING_ARGUMENT",
    "conflicting_arguments": "CONFLICTING_ARGUMENTS",
    "literal_error": "INVALID_CHOICE",
    "finite_number": "NON_FINITE_ARGUMENT",
    "string_too_long": "TOO_LONG",
    "too_long": "TOO_MANY_ITEMS",
    "too_short": "TOO_FEW_ITEMS",
    "string_unicode": "INVALID_STRING",
    "invalid_string": "INVALID_STRING",
    "invalid_id": "INVALID_ID",
    "invalid_name": "INVALID_NAME",
    "invalid_pattern": "INVALID_PATTERN",
    "invalid_repo_id": "INVALID_REPO_ID",
    "less_than_equal": "OUT_OF_RANGE",
    "greater_than_equal": "OUT_OF_RANGE",
}
_TYPES = {
    "int": "an integer",
    "float": "a number",
    "string": "a string",
    "bool": "true or false",
    "list": "a list",
    "model": "an object",
}
ALIKE = 0.6
"""Two names that share so much may be one, misspelled."""
_ALLOWED = {
    "INVALID_STRING": "Unicode text without NUL",
    "INVALID_ID": "visible characters",
    "INVALID_NAME": "a plain name such as stories-l14",
    "INVALID_PATTERN": "a regular expression as Python's re has them, e.g. \\b(she|her)\\b",
    "INVALID_REPO_ID": "a name, or owner/name, without '..' or a URL",
}


def of_arguments(tool: str, error: ValidationError, request: type[BaseModel]) -> dict[str, str]:
    # An unknown name comes first: it is often why another is missing.
    problems = sorted(
        error.errors(include_url=False)[:50], key=lambda e: e["type"] != "extra_forbidden"
    )
    first, others = (
        _problem(tool, problems[0], request),
        [_problem(tool, e, request) for e in problems[1:4]],
    )
    if others:
        first["message"] += " Also: " + " ".join(
            f"{other['code']} {other['message']}" for other in others
        )
    return first


def _problem(tool: str, error: ErrorDetails, request: type[BaseModel]) -> dict[str, str]:
    path = [*error["loc"]] or [""]
    if len(path) == 1:  # what is wrong between two arguments names the one to change
        path = [error.get("ctx", {}).get("field", path[0])]
    field, value, model = _path(path), error["input"], _model_at(request, path)
    code = (
        "NON_FINITE_ARGUMENT"
        if isinstance(value, float) and not math.isfinite(value)
        else _CODES.get(error["type"], "INVALID_TYPE")
    )
    allowed = _allowed(code, error, model, str(path[-1]))
    got = {
        "MISSING_ARGUMENT": "",
        "CONFLICTING_ARGUMENTS": "",
        "UNKNOWN_ARGUMENT": str(path[-1]),
    }.get(code, show(value))
    return error_document(
        code,
        _message(code, field, error, allowed),
        field=field,
        got=got,
        allowed=allowed,
        hint=_advice(tool, code, field, error, model),
    )


def _message(code: str, field: str, error: ErrorDetails, allowed: str) -> str:
    match code:
        case "UNKNOWN_ARGUMENT":
            return f"There is no argument {field!r}."
        case "MISSING_ARGUMENT":
            return f"{field!r} is missing." if error["type"] == "missing" else f"{error['msg']}."
        case "CONFLICTING_ARGUMENTS":
            return f"{error['msg']}."
        case "TOO_LONG" | "TOO_MANY_ITEMS" | "TOO_FEW_ITEMS" if "actual" in error.get(
            "ctx", {}
        ) or "actual_length" in error.get("ctx", {}):
            ctx = error.get("ctx", {})
            return (
                f"{field!r} has length {ctx.get('actual', ctx.get('actual_length'))}, "
                f"allowed is {allowed}."
            )
        case code if code in _ALLOWED:
            torn = error["type"] == "string_unicode"
            return f"{field!r} {'is no valid Unicode text' if torn else error['msg']}."
        case "INVALID_TYPE":
            return f"{field!r} must be {allowed}."
        case _:
            return f"{field!r} must be {'one of ' if code == 'INVALID_CHOICE' else ''}{allowed}."


def _allowed(code: str, error: ErrorDetails, model: type[BaseModel], name: str) -> str:
    ctx = error.get("ctx", {})
    if code == "UNKNOWN_ARGUMENT":
        return ", ".join(_names(model))
    if code == "INVALID_CHOICE":
        return str(ctx["expected"]).replace(" or ", ", ")
    if code == "INVALID_TYPE":
        return _TYPES.get(error["type"].split("_")[0], "of another type")
    if code == "NON_FINITE_ARGUMENT":
        return "a finite number"
    if error["type"] == "missing":
        return (_fields(model)[name].description or "").removesuffix(".")
    if code in _ALLOWED:
        return _ALLOWED[code]
    low, high = (
        ctx.get("ge", ctx.get("min_length")),
        ctx.get("le", ctx.get("limit", ctx.get("max_length"))),
    )
    if low is not None and high is not None:
        return f"between {low} and {high}"
    if low is not None or high is not None:
        return f"at least {low}" if high is None else f"at most {high}"
    return str(ctx.get("allowed", ""))


def _advice(tool: str, code: str, field: str, error: ErrorDetails, model: type[BaseModel]) -> str:
    """The exact change to the call."""
    ctx, name, again = (
        error.get("ctx", {}),
        str(error["loc"][-1]) if error["loc"] else "",
        f"Call {tool} again with",
    )
    match code:
        case "UNKNOWN_ARGUMENT":
            return f"Call {tool} again {_instead(name, model, outer=len(error['loc']) == 1)}."
        case "MISSING_ARGUMENT" | "CONFLICTING_ARGUMENTS":
            return f"{again} {ctx.get('allowed', field)}."
        case "INVALID_CHOICE":
            choices = re.findall(r"'([^']*)'", str(ctx["expected"]))
            return f"{again} {field}={(nearest(str(error['input']), choices, 1) or choices)[0]!r}."
        case "OUT_OF_RANGE":
            value = error["input"]
            low, high = ctx.get("ge"), ctx.get("le")
            return (
                f"{again} "
                f"{field}={low if high is None or (low is not None and value < low) else high}."
            )
        case "TOO_LONG" | "TOO_MANY_ITEMS":
            file = f"{field}_file" if code == "TOO_MANY_ITEMS" else ""
            instead = f", or give them as a file: {file}" if file in model.model_fields else ""
            return f"{again} a shorter {field}{instead}."
        case "TOO_FEW_ITEMS":
            return f"{again} at least one item in {field}."
        case "INVALID_STRING" | "INVALID_ID":
            return f"{again} those characters removed from {field}."
        case "INVALID_NAME":
            return f"{again} {field} as {_ALLOWED[code]}, without folders."
        case "INVALID_REPO_ID":
            return (
                f"{again} {field} as "
                f"{'a local path, or ' if 'local' in error['msg'] else ''}a plain name."
            )
        case _:
            return f"{again} {field} as {_allowed(code, error, model, name)}."


def _instead(name: str, model: type[BaseModel], *, outer: bool) -> str:
    """What to do with an argument that there is not: many belong into each item of a list, others
    are spelled otherwise."""
    for there, items in _items(model).items() if outer else ():
        if inner := next((one for one in (name, name.removesuffix("s")) if one in items), ""):
            return f"without {name!r}: each of {there} names its own {inner!r}"
    close = [one for one in nearest(name, _names(model), 1) if _is_like(one, name)]
    return f"with {close[0]!r} instead of {name!r}" if close else f"without {name!r}"


def _is_like(one: str, other: str) -> bool:
    """Whether one may be the other misspelled; the nearest of all names may be far away."""
    return SequenceMatcher(None, one.lower(), other.lower()).ratio() >= ALIKE


def _items(model: type[BaseModel]) -> dict[str, list[str]]:
    """The lists of objects among the arguments, with the fields of these."""
    kinds = {
        name: args[0]
        for name, field in _fields(model).items()
        if (args := getattr(field.annotation, "__args__", ()))
    }
    return {
        name: _names(kind)
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    }


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _names(model: type[BaseModel]) -> list[str]:
    return list(_fields(model))


def _model_at(request: type[BaseModel], path: Sequence[int | str]) -> type[BaseModel]:
    """The model whose argument the path ends in: the request's own, or that of a list's items."""
    if len(path) < 3:
        return request
    items = _fields(request)[str(path[0])].annotation.__args__[0]
    return items if isinstance(items, type) and issubclass(items, BaseModel) else request


def _path(path: Sequence[int | str]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(
        "."
    )
