"""What tools/list says: results in short, but of every field that a reply has."""

import json
from typing import Any, ClassVar, Literal

import jsonschema
from mcp import Client
from pydantic import BaseModel
from tests.server.test_document import CALLS

from saescope_mcp.app import ALL_TOOLS, build_server
from saescope_mcp.binding.published import input_schema, listed_schema
from saescope_mcp.schemas.common import Reply
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

MOST_BYTES, MOST_TOOLS, MOST_TOKENS = 60_000, 20, 9000
BYTES_A_TOKEN = 3.5
"""Of schemas written without spaces; o200k, cl100k and the published Claude tokenizer take 3.9 to
4.1 bytes a token of ours."""


def size(value: object) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


async def test_the_default_list_is_small_as_it_is_sent() -> None:
    async with Client(build_server(Settings())) as client:
        sent = (await client.list_tools()).model_dump(mode="json", by_alias=True, exclude_none=True)
    tools = sent["tools"]
    assert size(sent) <= MOST_BYTES and len(tools) <= MOST_TOOLS
    read = [{key: tool[key] for key in ("name", "description", "inputSchema")} for tool in tools]
    assert size(read) / BYTES_A_TOKEN <= MOST_TOKENS
    assert all(tool["title"] == tool["annotations"]["title"] for tool in tools)


class Score(BaseModel):
    value: float
    spread: dict[str, float]


class Row(BaseModel):
    feature: int
    score: Score | None
    spare: int


class OtherRow(BaseModel):
    feature: str


class Rows(Reply, frozen=True):
    spare: ClassVar[frozenset[str]] = frozenset({"n_spare", "rows.spare"})

    n: int | float | None
    n_spare: int
    state: Literal["done"] | Literal["failed", "running"]
    rows: list[Row | OtherRow]


def test_a_result_is_listed_with_its_fields_and_those_of_its_rows_and_their_types() -> None:
    listed = listed_schema(Rows, Settings())
    assert listed["required"] == ["summary", "state"] and listed["type"] == "object"
    fields = listed["properties"]
    assert [*fields][:3] == ["summary", "warnings", "next"] and "n_spare" not in fields
    assert fields["n"] == {"type": ["number", "null"]}
    assert fields["state"] == {"enum": ["done", "failed", "running"]}
    row = {"feature": {"type": ["integer", "string"]}, "score": {"type": ["object", "null"]}}
    assert fields["rows"] == {"type": "array", "items": {"type": "object", "properties": row}}


def test_listed_schemas_are_json_schemas_without_references() -> None:
    for tool in ALL_TOOLS:
        for schema in (
            input_schema(tool.request, Settings()),
            listed_schema(tool.reply, Settings()),
        ):
            jsonschema.Draft202012Validator.check_schema(schema)
            assert schema["type"] == "object"
            assert not {"$ref", "$defs", "title"} & keys(schema), tool.name


def keys(node: Any) -> set[str]:
    """The keywords of a schema; names of fields are none."""
    if isinstance(node, list):
        return {key for item in node for key in keys(item)}
    if not isinstance(node, dict):
        return set()
    inner = [
        each
        for key, item in node.items()
        for each in (item.values() if key == "properties" else [item])
    ]
    return {*node}.union(*map(keys, inner))


async def test_a_concise_reply_has_no_field_that_the_list_does_not_name(
    tiny: AppState, sae: str
) -> None:
    for tool in [tool for tool in ALL_TOOLS if tool.name in CALLS]:
        listed = listed_schema(tool.reply, tiny.settings)
        for form in ("concise", "detailed"):
            outcome = await tool.call(
                tiny, {"sae": sae, **CALLS[tool.name], "response_format": form}
            )
            assert not outcome.is_error, outcome.text
            jsonschema.validate(outcome.sent, listed)
            assert form == "detailed" or not unnamed(outcome.sent, listed), tool.name


def unnamed(sent: Any, listed: Any, where: str = "") -> set[str]:
    """The fields of a result that the schema does not name, as deep as it names any."""
    if isinstance(sent, list):
        return {name for each in sent for name in unnamed(each, listed.get("items", {}), where)}
    if not isinstance(sent, dict) or "properties" not in listed:
        return set()
    known = listed["properties"]
    inner = (unnamed(sent[name], known[name], f"{where}{name}.") for name in sent if name in known)
    return {f"{where}{name}" for name in sent if name not in known}.union(*inner)
