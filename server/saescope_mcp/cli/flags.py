"""Command-line options from a tool's request model, and the arguments that they mean."""

import inspect
import re
from collections.abc import Mapping
from types import GenericAlias
from typing import Any, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from saescope_mcp.schemas.common import Item

_YES_NO = {
    "yes": True,
    "true": True,
    "y": True,
    "1": True,
    "no": False,
    "false": False,
    "n": False,
    "0": False,
}
_ITEM = re.compile(
    r"((?P<sae>.+)#)?(?P<feature>[^=:@#]+)(=(?P<strength>[^:@]+))?"
    r"(:(?P<mode>[^@]+))?(@(?P<positions>.+))?"
)
_ITEM_HELP = (
    'Repeat for several: "1234", "1234=4", "1234=4:clamp"; for edits also positions: '
    '"1234=0:ablate@3,4"; of another SAE than --sae: '
    '"HANDLE#1234=4".'
)


def options_of(request: type[BaseModel]) -> list[inspect.Parameter]:
    """One option for each argument; None means that it was not given. Several SAEs are named by
    `--sae` again and again."""
    fields = _fields(request)
    return [
        _parameter(name, info)
        for name, info in fields.items()
        if not (name == "sae" and "saes" in fields)
    ]


def arguments_from(request: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """The tool's arguments; what cannot be read stays text, so that the tool itself refuses it."""
    fields = _fields(request)
    return {
        name: _value(fields[name].annotation, value)
        for name, value in given.items()
        if name in fields and value not in (None, [])
    }


def _fields(request: type[BaseModel]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in request.model_fields.items()}


def _parameter(name: str, info: FieldInfo) -> inspect.Parameter:
    kind = info.annotation
    flag = "--" + name.replace("_", "-")
    text = info.description or ""
    if item_of(kind):
        flag, text = flag.removesuffix("s"), _ITEM_HELP
    elif name == "saes":
        flag, text = "--sae", "Handle from load_sae; repeat for several SAEs of one model."
    elif info.default not in ("", [], None) and not info.is_required():
        text = f"{text} Default: {str(info.default).lower() if kind is bool else info.default}."
    if kind is bool:
        return _option(name, bool | None, typer.Option(None, f"{flag}/--no-{flag[2:]}", help=text))
    if get_origin(kind) is list:
        return _option(
            name,
            GenericAlias(list, (str,)),
            typer.Option([], flag, help=text, show_default=False, metavar="TEXT"),
        )
    return _option(name, str | None, typer.Option(None, flag, help=text, metavar=_metavar(kind)))


def _option(name: str, annotation: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation
    )


def item_of(kind: Any) -> type[Item] | None:
    """The model of a list's items, if they are objects."""
    inner = get_args(kind)[0] if get_origin(kind) is list else None
    return inner if isinstance(inner, type) and issubclass(inner, Item) else None


def _metavar(kind: Any) -> str:
    return (
        "|".join(map(str, get_args(kind)))
        if get_args(kind)
        else {int: "INTEGER", float: "NUMBER"}.get(kind, "TEXT")
    )


def _value(kind: Any, given: Any) -> Any:
    if item_of(kind):
        return [_item(text) for text in given]
    if get_origin(kind) is list:
        inner = get_args(kind)[0]
        return (
            [_part(part, inner) for text in given for part in text.split(",")]
            if inner in (int, bool)
            else list(given)
        )
    return _number(given, kind) if kind in (int, float) else given


def _part(text: str, kind: type[int] | type[bool]) -> int | float | bool | str:
    return _number(text, kind) if kind is int else _YES_NO.get(text.strip().lower(), text)


def _item(text: str) -> dict[str, Any]:
    """ "1234=4:clamp@3,4" as the object that the tool takes."""
    match = _ITEM.fullmatch(text.strip())
    given = (
        {name: value for name, value in match.groupdict().items() if value is not None}
        if match
        else {"feature": text}
    )
    readers: dict[str, Any] = {
        "sae": str,
        "feature": lambda value: _number(value, int),
        "strength": lambda value: _number(value, float),
        "mode": str,
        "positions": lambda value: [_number(part, int) for part in value.split(",")],
    }
    return {name: readers[name](value) for name, value in given.items()}


def _number(text: str, kind: type[int] | type[float]) -> int | float | str:
    try:
        return kind(text)
    except ValueError:
        return text
