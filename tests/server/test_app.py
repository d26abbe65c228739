import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

import saescope_mcp
from saescope import __version__
from saescope_mcp.app import ALL_TOOLS, INSTRUCTIONS, build_server
from saescope_mcp.settings import Settings

SNAPSHOT = Path(saescope_mcp.__file__).parent / "tools.json"
NAMES = {
    *(
        "find_saes",
        "load_sae",
        "unload",
        "server_status",
        "job_status",
        "encode_text",
        "top_features",
    ),
    *("attribute_logit", "trace_circuit", "compare_prompts", "intervene", "steer_generate"),
    "claim",
    "export_report",
    "results",
    "steer_search",
    *("index_features", "describe_feature", "find_features", "quiz_feature", "label_feature"),
    *("train_sae", "cancel_job", "evaluate_sae", "publish_sae"),
}
CHANGING = (
    "load_sae",
    "trace_circuit",
    "unload",
    "index_features",
    "quiz_feature",
    "label_feature",
    "results",
    "export_report",
    "train_sae",
    "cancel_job",
    "publish_sae",
)


KEPT = ("title", "description", "inputSchema", "outputSchema", "annotations")


async def listed(tools: str = "all") -> list[dict[str, Any]]:
    async with Client(build_server(Settings(tools=tools))) as client:
        found = (await client.list_tools()).tools
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in found]


def test_listing_the_tools_imports_no_torch() -> None:
    code = (
        "import sys, anyio\nfrom mcp import Client\nfrom saescope_mcp.app import build_server\n"
        "async def main():\n    async with Client(build_server()) as client:\n        "
        "print(len((await client.list_tools()).tools))\n"
        "anyio.run(main)\nprint([name for name in ('torch', 'transformers', 'typer', "
        "'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["20", "[]"]


async def test_the_tools_are_the_known_ones_and_described_in_few_words() -> None:
    tools = await listed()
    assert {tool["name"] for tool in tools} == NAMES
    assert all(len(tool["description"]) < 1000 for tool in tools)
    assert len(INSTRUCTIONS.encode()) < 2048


async def test_schemas_are_flat_and_every_argument_is_described() -> None:
    for tool in await listed():
        schema = tool["inputSchema"]
        assert not {'"$ref"', '"$defs"', '"x-at-most"'} & set(json.dumps(schema).split()), tool[
            "name"
        ]
        assert "title" not in schema and schema["additionalProperties"] is False
        assert all(argument["description"] for argument in schema["properties"].values()), tool[
            "name"
        ]
        assert not any("anyOf" in argument for argument in schema["properties"].values()), tool[
            "name"
        ]
        assert "response_format" in schema["properties"]


async def test_every_tool_says_what_it_may_do() -> None:
    for tool in await listed():
        assert tool["annotations"]["destructiveHint"] is False
        assert tool["annotations"]["readOnlyHint"] is (tool["name"] not in CHANGING)


async def test_published_schemas_change_only_on_purpose() -> None:
    groups = {tool.name: tool.group.word for tool in ALL_TOOLS if tool.group}
    switch = [tool for tool in await listed("base") if tool["name"] not in groups]
    now = {
        tool["name"]: {"group": groups.get(tool["name"], "")} | {key: tool[key] for key in KEPT}
        for tool in [*await listed(), *switch]
    }
    text = json.dumps(now, indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(text, encoding="utf-8")
    assert text == SNAPSHOT.read_text(encoding="utf-8"), (
        "If this is meant: UPDATE_SNAPSHOTS=1 pytest tests/server/test_app.py"
    )


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_both_protocol_eras_are_served(mode: Any) -> None:
    async with Client(build_server(Settings(tools="all")), mode=mode) as client:
        assert client.server_info is not None and client.server_info.version == __version__
        assert {tool.name for tool in (await client.list_tools()).tools} == NAMES
