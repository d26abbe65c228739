"""A result as code of the library: the lines that compute it again, and what they are compared
with."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from saescope.ledger import KeptEntry
from saescope.reports.code import call, literal
from saescope.reports.desk import Desk, handles_of
from saescope.reports.picking import picked
from saescope.reports.sources import GONE, UNREADABLE, texts_now


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


def given(
    entry: KeptEntry, *names: str, renamed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Arguments of the tool that the library takes under the same name, but for empty ones."""
    asked = {(renamed or {}).get(name, name): entry.arguments.get(name) for name in names}
    return {name: literal(value) for name, value in asked.items() if value not in ("", [], None)}


def stored(entry: KeptEntry, kind: Any, *, without: Collection[str] = ()) -> dict[str, Any]:
    """What of the document a record of the library has."""
    return picked(entry.document, kind, places=places_of(entry), without=without)


def places_of(entry: KeptEntry) -> dict[str, int]:
    """The place of each SAE in the call."""
    return {handle: n for n, handle in enumerate(handles_of(entry))}


def texts_in(entry: KeptEntry, desk: Desk, name: str = "texts") -> str:
    """The texts of a call as source text: those that stand in it, or those of its file.

    Raises:
        CannotReplayError: the file is gone or is another one.
    """
    asked = entry.arguments
    if asked.get("label_column") and asked.get("texts_file") and name in ("texts", "against"):
        named = given(entry, "texts_column", renamed={"texts_column": "column"})
        path, label = file_of(entry, desk), literal(asked["label_column"])
        side = 1 if name == "against" else 0
        return f"{call('ss.read_sides', [path, label], named)}[{side}]"
    if asked.get(f"{name}_file"):
        path, column = file_of(entry, desk, last=name == "against"), _column(entry, name)
        named = {"column": literal(column)} if column else {}
        return call("ss.read_texts", [path], named)
    return desk.list_of(asked.get(name) or [asked.get("text", "")])


def _column(entry: KeptEntry, name: str) -> str:
    asked = entry.arguments
    usual = asked.get("texts_column", "")
    if name == "texts":
        return usual
    # plain text has no columns
    return asked.get("against_column") or (
        "" if asked["against_file"].lower().endswith(".txt") else usual
    )


def file_of(entry: KeptEntry, desk: Desk, *, last: bool = False) -> str:
    """The file or folder that a call read, the first or the last of them, as source text.

    Raises:
        CannotReplayError: it is gone or another one, or its hash was not kept.
    """
    files = entry.document["provenance"].get("files")
    if not files:
        raise CannotReplayError("its texts are those of a file whose hash was not kept")
    path, stored = [*files.items()][-1 if last else 0]
    name = desk.file(path, stored)
    if (there := texts_now(path)) == stored:
        return name
    said = {GONE: "is gone", UNREADABLE: "cannot be read"}.get(there, "has changed since")
    raise CannotReplayError(f"its texts are those of {path}, which {said}")


def dataset_of(entry: KeptEntry, desk: Desk) -> str:
    """The data set of a call as source text.

    Raises:
        CannotReplayError: a file or folder of this machine is gone or another one.
    """
    asked = entry.arguments
    name, label = asked["dataset"], asked.get("label_column")
    is_local = not (name == "embedded" or name.startswith("hf:"))
    path = file_of(entry, desk) if is_local else literal(name)
    if label:
        return call("ss.open_labelled", [path, literal(label)], given(entry, "text_column"))
    return call("ss.open_dataset", [path], given(entry, "text_column"))
