"""What each parameter of the library means (scripts/parameters.toml), as tables for the library
page."""

import inspect
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, is_typeddict

import saescope as ss

FILE = Path(__file__).with_suffix(".toml")
METHODS = {
    "SAE": ("encode", "encode_sparse", "decode", "save"),
    "SAESet": ("encode", "decode", "of_layer", "drop", "settled"),
    "LabelStore": ("add", "of", "best", "search", "remove"),
    "QuizStore": ("answer",),
    "Rerun": ("versions", "model", "weights", "result", "compare", "not_run", "end"),
    "Ledger": ("keep", "bring", "find", "forget"),
}
"""Methods that the library page shows."""


@cache
def meanings() -> dict[str, dict[str, str]]:
    """By function, and in "common" for all, what each parameter means."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def documented() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Everything that the library page shows, by its name below `ss.`."""
    for name in ss.__all__:
        if name != "__version__":
            thing = getattr(ss, name)
            yield name, thing
            yield from ((f"{name}.{each}", getattr(thing, each)) for each in METHODS.get(name, ()))


def parameters(function: Callable[..., Any]) -> dict[str, str]:
    """Each parameter with its default as written; those of a typed `**settings` one by one."""
    found: dict[str, str] = {}
    for name, given in inspect.signature(function).parameters.items():
        fields = _fields(given.annotation)
        if given.kind is given.VAR_KEYWORD and fields:
            found |= dict.fromkeys(fields, "optional")
        elif name != "self":
            found[name] = _default(given)
    return found


def _fields(annotation: object) -> list[str]:
    """The fields of `Unpack[TypedDict]`."""
    inner = get_args(annotation)[0] if get_origin(annotation) and get_args(annotation) else None
    return list(inner.__annotations__) if inner and is_typeddict(inner) else []


def _default(given: inspect.Parameter) -> str:
    if given.kind is given.VAR_KEYWORD:
        return "optional"
    if given.default is given.empty:
        return "required"
    shown = repr(given.default)
    return "see below" if shown.startswith("<") else f"`{shown}`"


def meaning(name: str, parameter: str) -> str | None:
    """What a parameter of `ss.<name>` means; of a training's rarer knobs their own help."""
    known = meanings()
    own = known.get(name, {}).get(parameter) or known["common"].get(parameter)
    return _knobs().get(parameter) if name == "TrainConfig" and not own else own


@cache
def _knobs() -> dict[str, str]:
    from saescope.training.config import OPTIONS

    return {
        name: option.help[:1].upper() + option.help[1:] + "." for name, option in OPTIONS.items()
    }


def table(name: str, function: Callable[..., Any]) -> str:
    """The parameters of `ss.<name>` as a table; nothing if it takes none."""
    rows = [
        f"| `{each}` | {default} | {meaning(name, each)} |\n"
        for each, default in parameters(function).items()
    ]
    return "\n| parameter | default | |\n|---|---|---|\n" + "".join(rows) if rows else ""
