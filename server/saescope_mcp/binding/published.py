"""The schemas that clients get: of arguments in full, of results in short. A client takes those of
all tools at once."""

from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel

from saescope_mcp.schemas.bounds import MARK, publish_bounds
from saescope_mcp.schemas.common import Reply, in_order
from saescope_mcp.settings import Settings

LISTED = 2
"""How deep a list of tools describes results: a reply's own fields are 1, those of its rows 2."""
Schema = dict[str, Any]


def input_schema(request: type[BaseModel], settings: Settings) -> dict[str, Any]:
    """The request's own schema with the limits in force; what every tool has comes last."""
    schema = dict(_published(request, _limits(settings), "validation"))
    schema.pop("description", None)
    properties = dict(schema["properties"])
    properties["response_format"] = properties.pop("response_format")
    return schema | {"properties": properties}


def output_schema(reply: type[Reply], settings: Settings) -> dict[str, Any]:
    """The reply's own schema; what may be empty is left out of a concise reply."""
    schema = _left_out(_published(reply, _limits(settings), "serialization"), reply.may_lack())
    properties = in_order(reply, schema["properties"])
    if properties["provenance"].get("type") != "null":
        # the same in every reply, and known from any detailed one
        kinds = ("object", "string", "null")  # a string in a concise reply
        properties["provenance"] = {"anyOf": [{"type": kind} for kind in kinds]}
    return schema | {"properties": properties}


def _left_out(node: Any, lacking: frozenset[str], where: str = "") -> Any:
    """The schema with nothing required that a concise reply goes without."""
    if isinstance(node, list):
        return [_left_out(item, lacking, where) for item in node]
    if not isinstance(node, dict):
        return node
    properties = node.get("properties", {})
    done = {key: _left_out(value, lacking, where) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and isinstance(node.get("required"), list):
        done["properties"] = {
            name: _left_out(value, lacking, f"{where}{name}.") for name, value in properties.items()
        }
        done["required"] = [
            name
            for name in node["required"]
            if not _may_be_empty(properties[name]) and f"{where}{name}" not in lacking
        ]
    return done


def listed_schema(reply: type[Reply], settings: Settings) -> Schema:
    """What a list of tools says of a concise reply: its fields and those of its rows, with their
    types, and what it always has. docs/tools.md has the rest."""
    return _listed_reply(reply, _limits(settings))


@lru_cache(maxsize=128)
def _listed_reply(reply: type[Reply], limits: Settings) -> Schema:
    whole = output_schema(reply, limits)
    fields = _listed_fields(whole["properties"], reply.spare, where="", depth=1)
    return {"type": "object", "properties": fields, "required": whole["required"]}


def _listed_fields(fields: Schema, spare: frozenset[str], *, where: str, depth: int) -> Schema:
    return {
        name: _listed(field, spare, where=f"{where}{name}", depth=depth)
        for name, field in fields.items()
        if f"{where}{name}" not in spare and field.get("type") != "null"
    }


def _listed(schema: Schema, spare: frozenset[str], *, where: str, depth: int) -> Schema:
    """The schema of one value of a reply, where a value may be of several kinds."""
    kinds = schema.get("anyOf", [schema])
    done: Schema = {}
    if depth < LISTED:
        if values := _values(kinds):
            return {"enum": values}
        if fields := fields_of(kinds):
            done["properties"] = _listed_fields(fields, spare, where=f"{where}.", depth=depth + 1)
        for kind in kinds:
            if isinstance(kind.get("items"), dict):
                done |= _items(_listed(kind["items"], spare, where=where, depth=depth))
    types = dict.fromkeys(kind["type"] for kind in kinds if "type" in kind)
    if {"integer", "number"} <= types.keys():
        del types["integer"]
    return done | {"type": [*types] if len(types) > 1 else next(iter(types))}


def _items(listed: Schema) -> Schema:
    """What is said of a list's items: of records and choices all, of bare strings and numbers
    nothing, as of lists further in."""
    return {"items": listed} if {"properties", "enum"} & listed.keys() else {}


def fields_of(kinds: list[Schema]) -> Schema:
    """The fields of all kinds of a record; of one that is not alike in all, each form."""
    fields: Schema = {}
    for kind in kinds:
        for name, field in kind.get("properties", {}).items():
            known = fields.setdefault(name, field)
            if field != known:
                fields[name] = {"anyOf": [known, field]}
    return fields


def _values(kinds: list[Schema]) -> list[Any]:
    """All values that there are, where each kind names its own."""
    named = [
        [None] if kind.get("type") == "null" else kind.get("enum") or [kind.get("const")]
        for kind in kinds
    ]
    is_choice = all({"enum", "const"} & kind.keys() or kind.get("type") == "null" for kind in kinds)
    return [*dict.fromkeys(value for values in named for value in values)] if is_choice else []


def _may_be_empty(schema: dict[str, Any]) -> bool:
    kinds = [schema, *schema.get("anyOf", [])]
    return any(kind.get("type") in ("null", "array", "object") for kind in kinds)


def _limits(settings: Settings) -> Any:
    """What a schema depends on, the folders left out, as a key: pyright does not see that frozen
    settings have a hash."""
    return settings.model_copy(update={"read_roots": (), "write_roots": ()})


@lru_cache(maxsize=256)
def _published(
    model: type[BaseModel], limits: Settings, mode: Literal["validation", "serialization"]
) -> dict[str, Any]:
    return _plain(model.model_json_schema(mode=mode), limits)


def _plain(schema: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """A schema without `$ref`s, titles and bounds that nobody meets: clients differ in the first,
    and every word is in every context."""
    definitions = schema.pop("$defs", {})

    def walk(node: Any, is_names: bool = False) -> Any:
        if isinstance(node, str):
            return " ".join(node.split())  # the lines of a docstring
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            target = definitions[node["$ref"].rsplit("/", 1)[-1]]
            return walk({**target, **{key: value for key, value in node.items() if key != "$ref"}})
        node = node if is_names or MARK not in node else publish_bounds(dict(node), settings)
        return {
            key: walk(value, key == "properties" and not is_names)
            for key, value in node.items()
            if is_names or not _idle(key, value)
        }

    return walk(schema)


def _idle(key: str, value: Any) -> bool:
    """What a schema can go without; a text that is too long is refused all the same, and what may
    be left out is empty then."""
    return (
        key in ("title", "maxLength")
        or (key == "maximum" and value >= 2**31 - 1)
        or (key == "minimum" and value <= -(2**31))
        or (key == "default" and value in ("", []))
    )
