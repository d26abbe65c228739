"""Prompts, resources, completions, the skill and the icon, as a client sees them."""

import ast
import base64
import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import pytest
import yaml
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import (
    PaginatedRequestParams,
    PromptReference,
    ResourceTemplateReference,
    TextContent,
    TextResourceContents,
)
from tests.server.helpers import call

from saescope.catalogue import releases
from saescope_mcp.app import ALL_TOOLS, build_server
from saescope_mcp.jobs import Run
from saescope_mcp.prompts import PROMPTS
from saescope_mcp.resources import SkillExtension, skill_folder
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState, Placement, Source

NEEDED = {
    "explain_prediction": {"prompt": "The capital of France is"},
    "trace_a_circuit": {"prompt": "The capital of France is"},
    "test_concept": {"concept": "irony"},
}
SKILL = Path(__file__).parents[2] / "skills" / "saescope"


async def read(client: Client, uri: str) -> Any:
    content = (await client.read_resource(uri)).contents[0]
    assert isinstance(content, TextResourceContents) and content.mime_type == "application/json"
    return json.loads(content.text)


async def render(client: Client, name: str, arguments: dict[str, str]) -> str:
    messages = (await client.get_prompt(name, arguments)).messages
    assert (
        len(messages) == 1
        and messages[0].role == "user"
        and isinstance(messages[0].content, TextContent)
    )
    return messages[0].content.text


async def test_a_prompt_for_each_investigation_with_described_arguments() -> None:
    async with Client(build_server(Settings())) as client:
        prompts = (await client.list_prompts()).prompts
    assert {prompt.name for prompt in prompts} == {
        "explain_prediction",
        "trace_a_circuit",
        "test_concept",
        "judge_sae",
        "train_an_sae",
    }
    assert all(prompt.title and prompt.description for prompt in prompts)
    assert all(argument.description for prompt in prompts for argument in prompt.arguments or [])
    required = {
        prompt.name: {argument.name for argument in prompt.arguments or [] if argument.required}
        for prompt in prompts
    }
    assert {name: names for name, names in required.items() if names} == {
        name: set(said) for name, said in NEEDED.items()
    }


async def test_a_prompt_names_only_tools_and_arguments_that_there_are() -> None:
    requests = {tool.name: tool.request for tool in ALL_TOOLS}
    async with Client(build_server(Settings(tools="all"))) as client:
        for name, handle in itertools.product(
            [prompt.function.__name__ for prompt in PROMPTS], ["", "smollm2-135m/14.resid_post"]
        ):
            given = {"sae": handle} if handle and name != "train_an_sae" else {}
            text = await render(client, name, {**NEEDED.get(name, {}), **given})
            assert len(text.encode()) < 3 * 700
            calls = re.findall(r"\b([a-z]+_[a-z_]+)\(([^()]*)\)", text)
            assert calls and {tool for tool, _ in calls} <= requests.keys()
            for tool, arguments in calls:
                fields = {
                    info.alias or field for field, info in requests[tool].model_fields.items()
                }
                assert set(re.findall(r"(\w+)=", arguments)) <= fields, f"{tool}({arguments})"


async def test_what_the_user_gave_is_in_the_prompt_and_quotes_in_it_do_no_harm() -> None:
    async with Client(build_server(Settings())) as client:
        text = await render(
            client, "explain_prediction", {"prompt": 'He said "no" and', "target": " left"}
        )
    line = re.search(r"Call (attribute_logit\(.*?\))\. Is", text)
    assert line
    step = ast.parse(line[1], mode="eval").body
    assert isinstance(step, ast.Call)
    said = {keyword.arg: ast.literal_eval(keyword.value) for keyword in step.keywords}
    assert said == {
        "sae": "HANDLE",
        "prompt": 'He said "no" and',
        "sign": "positive",
        "target": " left",
    }


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_prompt_asked_for_wrongly_says_what_there_is(mode: Any) -> None:
    wrong: list[tuple[str, dict[str, str], str]] = [
        ("explain_predictions", {}, "Nearest: explain_prediction."),
        ("judge_sae", {"handle": "a/b"}, "no argument of judge_sae 'handle' (there are: sae)"),
        ("explain_prediction", {"target": " a"}, "needs the argument prompt"),
    ]
    async with Client(build_server(Settings()), mode=mode) as client:
        for name, arguments, said in wrong:
            with pytest.raises(MCPError) as caught:
                await client.get_prompt(name, arguments)
            assert said in caught.value.message and caught.value.code == -32602


async def test_the_catalogue_is_a_resource_and_so_is_each_release(state: AppState) -> None:
    async with Client(build_server(state=state)) as client:
        whole, one = (
            await read(client, "sae://catalogue"),
            await read(client, "sae://catalogue/gpt2-small-res-jb"),
        )
    assert whole["total"] == sum(map(len, releases().values())) and len(whole["releases"]) == len(
        releases()
    )
    found = await call(state, "find_saes", query="gpt2-small-res-jb", limit=100)
    of_release = [row for row in found["saes"] if row["release"] == "gpt2-small-res-jb"]
    assert [row["sae_id"] for row in one["saes"]] == [row["sae_id"] for row in of_release]
    assert [row["hook_name"] for row in one["saes"]] == [row["hook_name"] for row in of_release]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_resource_that_is_not_there_is_said_to_be_missing(
    state: AppState, mode: Any
) -> None:
    missing = {
        "sae://catalogue/gpt2-small-res-jbb": "gpt2-small-res-jb",
        "sae://jobs/train-000000": "job_status()",
        "sae://nothing": "",
    }
    async with Client(build_server(state=state), mode=mode) as client:
        for uri, said in missing.items():
            with pytest.raises(MCPError) as caught:
                await client.read_resource(uri)
            assert (
                caught.value.code == -32602
                and said in caught.value.message
                and caught.value.data == {"uri": uri}
            )


async def test_jobs_are_the_document_of_job_status(state: AppState) -> None:
    async with Client(build_server(state=state)) as client:
        assert await read(client, "sae://jobs") == await call(state, "job_status")


async def completions(client: Client, ref: Any, name: str, typed: str) -> list[str]:
    found = (await client.complete(ref, {"name": name, "value": typed})).completion
    assert (
        len(found.values) <= 100
        and found.total is not None
        and found.has_more is (found.total > len(found.values))
    )
    return found.values


async def test_handles_releases_jobs_and_models_are_completed(state: AppState) -> None:
    handle = "smollm2-135m/14.resid_post"
    state.known.remember(handle, Source(), Placement())
    state.runs.table.add(
        Run(
            id="train-1a2b3c",
            tool="train_sae",
            state="done",
            created=0.0,
            queued=0.0,
            heartbeat=0.0,
        ),
        most_live=1,
    )
    judge, train, test = (
        PromptReference(name=name) for name in ("judge_sae", "train_an_sae", "test_concept")
    )
    release, job = (
        ResourceTemplateReference(uri=f"sae://{uri}")
        for uri in ("catalogue/{release}", "jobs/{job_id}")
    )
    async with Client(build_server(state=state)) as client:
        assert await completions(client, judge, "sae", handle[:5]) == [handle]
        assert await completions(client, judge, "sae", "no such thing") == []
        assert await completions(client, job, "job_id", "1A2") == ["train-1a2b3c"]
        of_jb = await completions(client, release, "release", "GPT2-small-res")
        assert of_jb[0].startswith("gpt2-small-res") and "gpt2-small-res-jb" in of_jb
        assert "gpt2-small" in await completions(client, train, "model", "gpt2")
        assert len(await completions(client, release, "release", "")) == 100
        assert await completions(client, test, "concept", "a") == []


def test_the_skill_that_is_served_is_the_one_in_this_checkout() -> None:
    assert skill_folder() == SKILL


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_every_file_of_the_skill_is_a_resource(mode: Literal["auto", "legacy"]) -> None:
    async with Client(build_server(Settings()), mode=mode) as client:
        listed = {
            str(resource.uri): resource for resource in (await client.list_resources()).resources
        }
        files = {uri: path for uri, path in skill_uris().items() if uri in listed}
        assert files == skill_uris()
        for uri, path in files.items():
            content = (await client.read_resource(uri)).contents[0]
            assert (
                isinstance(content, TextResourceContents)
                and content.text.encode() == path.read_bytes()
            )
    page = listed["skill://saescope/SKILL.md"]
    assert {
        "name": page.name,
        "description": page.description,
    }.items() <= frontmatter().items() and page.mime_type == "text/markdown"


def skill_uris() -> dict[str, Path]:
    return {
        f"skill://saescope/{path.relative_to(SKILL).as_posix()}": path
        for path in SKILL.rglob("*")
        if path.is_file()
    }


def frontmatter() -> dict[str, Any]:
    return yaml.safe_load((SKILL / "SKILL.md").read_text(encoding="utf-8").split("---\n")[1])


async def test_the_skills_extension_lists_verbatim_frontmatter_and_digests_of_every_file() -> None:
    extension = SkillExtension(SKILL)
    listing = {method.method: method for method in extension.methods()}["skills/list"]
    handler: Any = listing.handler
    result = await handler(None, PaginatedRequestParams())
    assert isinstance(result, dict)
    [skill] = result["skills"]
    assert skill["frontmatter"] == frontmatter()
    digests = {
        uri: f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        for uri, path in skill_uris().items()
    }
    assert {file["uri"]: file["digest"] for file in skill["resources"]} == digests
    assert skill["resources"][0]["uri"] == skill["uri"] == "skill://saescope/SKILL.md"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_server_introduces_itself(mode: Literal["auto", "legacy"]) -> None:
    async with Client(build_server(Settings()), mode=mode) as client:
        info, capabilities = client.server_info, client.server_capabilities
    assert (
        info is not None
        and info.title == "saescope"
        and info.website_url == "https://github.com/saescope/saescope"
    )
    assert info.icons and info.icons[0].src.startswith("data:image/svg+xml;base64,")
    drawing = ElementTree.fromstring(base64.b64decode(info.icons[0].src.partition(",")[2]))
    assert drawing.tag.endswith("svg")
    assert (
        capabilities is not None
        and capabilities.completions is not None
        and capabilities.prompts is not None
    )
