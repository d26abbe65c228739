"""Command-line options from a tool's schema, and the arguments that they mean."""

import inspect
import re
from collections.abc import Mapping
from types import GenericAlias
from typing import Any

import typer

from saescope_mcp.cli.completing import values_of
from saescope_mcp.cli.verbs import Schema, Verb

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
_LISTED = re.compile(r"\[([^\[\]{}]+)\]")
"""The items of a list in an example, as JSON."""
_ITEM = re.compile(
    r"((?P<sae>[^#?]+)#)?(?P<feature>[^=:@#?]+)(=(?P<strength>[^:@?]+))?"
    r"(:(?P<mode>[^@?]+))?(@(?P<positions>[^?]+))?"
    r"(\?((?P<when_sae>[^#]+)#)?(?P<when_feature>[^>#]+)(>(?P<when_above>.+))?)?"
)
_NUMBERS = {"integer": int, "number": float}


def options_of(verb: Verb, *names: str) -> list[inspect.Parameter]:
    """One option for each argument, or for these; None means that it was not given. Several SAEs
    are named by `--sae` again and again."""
    return [_parameter(name, verb) for name in names or verb.options]


def arguments_from(verb: Verb, given: Mapping[str, Any]) -> dict[str, Any]:
    """The tool's arguments; what cannot be read stays text, so that the tool itself refuses it."""
    return {
        name: _value(verb.properties[name], value)
        for name, value in given.items()
        if name in verb.properties and value not in (None, [], ())  # (): typer 0.20
    }


def flag_of(name: str, schema: Schema) -> str:
    """The option of an argument; a list of objects takes one at a time."""
    flag = "--" + name.replace("_", "-")
    return flag.removesuffix("s") if is_of_items(schema) or name == "saes" else flag


def is_of_items(schema: Schema) -> bool:
    """Whether the argument is a list of objects, such as edits."""
    return schema.get("items", {}).get("type") == "object"


def _parameter(name: str, verb: Verb) -> inspect.Parameter:
    schema = verb.properties[name]
    flag, text, kind = flag_of(name, schema), _help(name, verb), schema["type"]
    if kind == "boolean":
        return _option(name, bool | None, typer.Option(None, f"{flag}/--no-{flag[2:]}", help=text))
    values = values_of(name, schema)
    if kind == "array":
        option = typer.Option(
            [], flag, help=text, show_default=False, metavar="TEXT", autocompletion=values
        )
        return _option(name, GenericAlias(list, (str,)), option)
    option = typer.Option(None, flag, help=text, metavar=_metavar(schema), autocompletion=values)
    return _option(name, str | None, option)


def _option(name: str, annotation: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation
    )


def _help(name: str, verb: Verb) -> str:
    schema = verb.properties[name]
    text, default = schema.get("description", ""), schema.get("default")
    if is_of_items(schema):
        text = _item_help(schema["items"]["properties"])
    elif name == "saes":
        text = "Handle from load_sae; repeat for several SAEs of one model."
    elif schema["type"] == "array":
        text = f"{_unlisted(text)} {_several(schema)}"
    elif name == "wait_s" and default:
        text = f"{text} Default: until it has ended."
    elif default not in ("", None, -1) and default is not False:
        text = f"{text} Default: {str(default).lower() if default is True else default}."
    return text


def _item_help(fields: Schema) -> str:
    modes = ", ".join(fields["mode"]["enum"])
    where, example = ("[@POSITIONS]", ', "1234:ablate@3,4"') if "positions" in fields else ("", "")
    only = (
        ' Only where feature 99 fires above 3: "1234=4?99>3".' if "when_feature" in fields else ""
    )
    return (
        f'FEATURE[=STRENGTH][:MODE]{where}, e.g. "1234", "1234=4:clamp"{example}; modes: {modes}; '
        f'of another SAE than --sae: "HANDLE#1234=4".{only} Repeat for each.'
    )


def _unlisted(text: str) -> str:
    """The example as it is typed: `0.5,1,2` for `[0.5, 1, 2]`."""
    return _LISTED.sub(lambda found: found[1].replace(", ", ","), text)


def _several(schema: Schema) -> str:
    is_text = schema["items"]["type"] == "string"
    return "Repeat for each." if is_text else "Repeat for each, or use commas."


def _metavar(schema: Schema) -> str:
    if "enum" in schema:
        return "|".join(filter(None, schema["enum"]))
    return schema["type"].upper() if schema["type"] in _NUMBERS else "TEXT"


def _value(schema: Schema, given: Any) -> Any:
    if is_of_items(schema):
        return [_item(text) for text in given]
    if schema["type"] == "array":
        kind = schema["items"]["type"]
        if kind == "string":
            return list(given)
        return [_part(part, kind) for text in given for part in text.split(",")]
    return _number(given, _NUMBERS[schema["type"]]) if schema["type"] in _NUMBERS else given


def _part(text: str, kind: str) -> int | float | bool | str:
    if kind == "boolean":
        return _YES_NO.get(text.strip().lower(), text)
    return _number(text, _NUMBERS[kind])


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
        "when_sae": str,
        "when_feature": lambda value: _number(value, int),
        "when_above": lambda value: _number(value, float),
    }
    return {name: readers[name](value) for name, value in given.items()}


def _number(text: str, kind: type[int] | type[float]) -> int | float | str:
    try:
        return kind(text)
    except ValueError:
        return text
