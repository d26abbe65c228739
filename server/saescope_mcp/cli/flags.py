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
_AFTER = {
    "texts_file": "texts",
    "texts_column": "texts",
    "against": "texts",
    "against_file": "texts",
    "against_column": "texts",
}
"""Arguments that many tools share, and the one that they follow where the tool has it."""
_LISTED = re.compile(r"\[([^\[\]{}]+)\]")
"""The items of a list in an example, as JSON."""
_ITEM = re.compile(
    r"((?P<sae>.+)#)?(?P<feature>[^=:@#]+)(=(?P<strength>[^:@]+))?"
    r"(:(?P<mode>[^@]+))?(@(?P<positions>.+))?"
)


def options_of(request: type[BaseModel]) -> list[inspect.Parameter]:
    """One option for each argument, in the order in which a person wants them; None means that it
    was not given. Several SAEs are named by `--sae` again and again."""
    fields = _fields(request)
    return [
        _parameter(name, fields[name])
        for name in _ordered(list(fields))
        if not (name == "sae" and "saes" in fields)
    ]


def _ordered(names: list[str]) -> list[str]:
    """What many tools share comes after what it belongs to, the detail of the reply at the end."""

    def place(name: str) -> tuple[bool, int, bool]:
        after = _AFTER.get(name, name)
        follows = after in names and after != name
        return name == "response_format", names.index(after if follows else name), follows

    return sorted(names, key=place)


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
    flag = flag_of(name, kind)
    text = info.description or ""
    item = item_of(kind)
    if item:
        text = _item_help(item)
    elif name == "saes":
        text = "Handle from load_sae; repeat for several SAEs of one model."
    elif name == "wait_s" and info.default:
        text = f"{text} Default: until it has ended."
    elif info.default not in ("", [], None, -1) and not info.is_required():
        text = f"{text} Default: {str(info.default).lower() if kind is bool else info.default}."
    if kind is bool:
        return _option(name, bool | None, typer.Option(None, f"{flag}/--no-{flag[2:]}", help=text))
    if get_origin(kind) is list:
        if not item and name != "saes":
            text = f"{_unlisted(text)} {_several(kind)}"
        return _option(
            name,
            GenericAlias(list, (str,)),
            typer.Option([], flag, help=text, show_default=False, metavar="TEXT"),
        )
    return _option(name, str | None, typer.Option(None, flag, help=text, metavar=_metavar(kind)))


def flag_of(name: str, kind: Any) -> str:
    """The option of an argument; a list of objects takes one at a time."""
    flag = "--" + name.replace("_", "-")
    return flag.removesuffix("s") if item_of(kind) or name == "saes" else flag


def _option(name: str, annotation: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation
    )


def _item_help(item: type[Item]) -> str:
    modes = ", ".join(get_args(item.model_fields["mode"].annotation))
    where, example = ("[@POSITIONS]", ', "1234:ablate@3,4"') if _has_positions(item) else ("", "")
    return (
        f'FEATURE[=STRENGTH][:MODE]{where}, e.g. "1234", "1234=4:clamp"{example}; modes: {modes}; '
        'of another SAE than --sae: "HANDLE#1234=4". Repeat for each.'
    )


def _has_positions(item: type[Item]) -> bool:
    return "positions" in item.model_fields


def _unlisted(text: str) -> str:
    """The example as it is typed: `0.5,1,2` for `[0.5, 1, 2]`."""
    return _LISTED.sub(lambda found: found[1].replace(", ", ","), text)


def _several(kind: Any) -> str:
    return "Repeat for each." if _item_type(kind) is str else "Repeat for each, or use commas."


def _item_type(kind: Any) -> Any:
    """The type of a list's items, without what else is said of it."""
    inner = get_args(kind)[0]
    return getattr(inner, "__origin__", inner)


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
        inner = _item_type(kind)
        return (
            [_part(part, inner) for text in given for part in text.split(",")]
            if inner in (int, float, bool)
            else list(given)
        )
    return _number(given, kind) if kind in (int, float) else given


def _part(text: str, kind: type[int] | type[float] | type[bool]) -> int | float | bool | str:
    return _YES_NO.get(text.strip().lower(), text) if kind is bool else _number(text, kind)


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
