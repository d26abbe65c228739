"""A result as code of the library: the lines that compute it again, and what they are compared
with."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from saescope.ledger import KeptEntry
from saescope.reports.code import call, literal
from saescope.reports.desk import Desk, handles_of
from saescope.reports.picking import picked


@dataclass(frozen=True, slots=True)
class Replay:
    """Code of one result."""

    code: str
    """Lines; the last makes `found`."""
    stored: Mapping[str, Any]
    """What it is compared with."""
    compared: str = "found"
    """What is compared, as source text, where it is not all of `found`."""


Writer: TypeAlias = Callable[[KeptEntry, Desk], Replay]
"""How the results of a tool are written."""


class CannotReplayError(Exception):
    """A result that cannot be computed again; the message says why."""


def found(name: str, given: list[str], named: Mapping[str, str]) -> str:
    """The line that calls a function of the library."""
    return call(name, given, named, start="found = ")


def options(
    entry: KeptEntry, defaults: Mapping[str, Any], renamed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Arguments of the tool that the library takes under the same name, but for those that have
    its default; an empty text is none."""
    asked, named = entry.arguments, dict[str, str]()
    for name, usual in defaults.items():
        value = asked.get(name, usual)
        if value != usual and not (value == "" and usual is None):
            named[(renamed or {}).get(name, name)] = literal(value)
    return named


def given(entry: KeptEntry, *names: str) -> dict[str, str]:
    """Arguments of the tool that the library takes under the same name, but for empty ones."""
    asked = {name: entry.arguments.get(name) for name in names}
    return {name: literal(value) for name, value in asked.items() if value not in ("", [], None)}


def stored(entry: KeptEntry, kind: Any, *, without: Collection[str] = ()) -> dict[str, Any]:
    """What of the document a record of the library has."""
    return picked(entry.document, kind, places=places_of(entry), without=without)


def places_of(entry: KeptEntry) -> dict[str, int]:
    """The place of each SAE in the call."""
    return {handle: n for n, handle in enumerate(handles_of(entry))}


def refuse_files(entry: KeptEntry, *names: str) -> None:
    """Raises CannotReplayError: texts stand in a file of which nothing is kept."""
    for name in names:
        if path := entry.arguments.get(name):
            raise CannotReplayError(f"its texts are those of {path}, of which no copy is kept")
