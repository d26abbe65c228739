"""What of a kept document a record of the library says too: these values can be compared."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_OF_THE_SERVER = frozenset({"warnings", "label", "labels", "url"})
"""What depends on this machine's labels, or is no measurement."""


def picked(
    value: Any, kind: Any, *, places: Mapping[str, int], without: Collection[str] = ()
) -> Any:
    """The part of a document's value that a record of this kind has: fields by their names; the
    handle of an SAE as its place among those of the call."""
    if isinstance(value, dict):
        record = _record(kind, value)
        if record is not None:
            return _fields(value, record, places, without)
        items = get_args(kind)[-1] if get_args(kind) else Any
        return {name: picked(item, items, places=places) for name, item in value.items()}
    if isinstance(value, list):
        item_kind = _item(kind)
        return [picked(item, item_kind, places=places, without=without) for item in value]
    return value


def _fields(
    value: Mapping[str, Any], record: type, places: Mapping[str, int], without: Collection[str]
) -> dict[str, Any]:
    found = dict[str, Any]()
    for name, hint in _hints(record).items():
        if name not in value or name in _OF_THE_SERVER or name in without:
            continue
        if name == "sae":
            place: Any = places.get(value[name], value[name])
            found |= {name: place} if isinstance(place, int) else {}
            continue
        found[name] = picked(value[name], hint, places=places, without=without)
    return found


@cache
def _hints(record: type) -> dict[str, Any]:
    hints = get_type_hints(record)
    return {each.name: hints[each.name] for each in fields(record)}


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _record(kind: Any, value: Mapping[str, Any]) -> type | None:
    """The dataclass that the value is of: of several the one with most of its fields."""
    kinds = [each for each in _members(kind) if isinstance(each, type) and is_dataclass(each)]
    return max(kinds, key=lambda each: len({*_hints(each)} & {*value}), default=None)


def _item(kind: Any) -> Any:
    for each in _members(kind):
        origin = get_origin(each)
        if isinstance(origin, type) and issubclass(origin, Sequence):
            return get_args(each)[0]
    return Any
