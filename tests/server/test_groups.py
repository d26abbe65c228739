"""Groups of tools: what a setting switches on, what a server offers then, and how the rest is
reached."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.subscriptions import ToolsListChanged
from mcp.types import ToolListChangedNotification
from tests.server.helpers import call
from typer.testing import CliRunner

from saescope.errors import ConfigError
from saescope_mcp.app import ALL_TOOLS, INSTRUCTIONS, build_server
from saescope_mcp.cli import serve
from saescope_mcp.cli.commands import app
from saescope_mcp.groups import Group, Offer
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

GROUPS = {tool.name: tool.group.word for tool in ALL_TOOLS if tool.group}
BASE = {"find_saes", "load_sae", "unload", "server_status", "job_status", "cancel_job"}
READ = {"encode_text", "top_features"}
TRAIN = {"train_sae"}
RESTING = {
    *("claim", "compare_prompts", "export_report", "publish_sae", "results", "steer_search"),
}
"""Offered by name or by `use_tools` only; a call switches one on."""
DEFAULT = GROUPS.keys() - RESTING
SOON_S = 20


def test_every_tool_is_in_a_group_and_every_group_holds_one() -> None:
    assert GROUPS.keys() == {tool.name for tool in ALL_TOOLS}
    assert {*GROUPS.values()} == {group.word for group in Group}
    assert not {*GROUPS.values(), "all", "default"} & GROUPS.keys(), "a word means one thing"


@pytest.mark.parametrize(
    ("setting", "on"),
    [
        ("", DEFAULT),
        ("default", DEFAULT),
        ("all", {*GROUPS}),
        ("base", BASE),
        ("read", BASE | READ),
        (" Read , train,", BASE | READ | TRAIN),
        ("read train", BASE | READ | TRAIN),
        ("top_features", BASE | {"top_features"}),
        ("top-features", BASE | {"top_features"}),
        ("-train-sae", DEFAULT - {"train_sae"}),
        ("-train", DEFAULT - TRAIN),
        ("-train,-read,top_features", DEFAULT - TRAIN - READ | {"top_features"}),
        ("read,-base,load_sae", READ | {"load_sae"}),
    ],
)
def test_a_setting_names_groups_and_tools(setting: str, on: set[str]) -> None:
    assert Offer.chosen(setting, GROUPS).on == on


def test_a_group_may_be_left_out_of_what_a_server_offers_unasked() -> None:
    assert {GROUPS[tool] for tool in RESTING} == {
        group.word for group in Group if not group.by_default
    }
    assert "publish_sae" in Offer.chosen("default,publish", GROUPS).on
    assert "publish_sae" in Offer.chosen("all", GROUPS).on


@pytest.mark.parametrize(
    ("setting", "runs"),
    [("", True), ("default", True), ("-train", True), ("-publish", False), ("read", False)],
)
async def test_a_tool_that_nobody_asked_for_or_took_away_is_switched_on_by_its_call(
    setting: str, runs: bool, settings: Settings
) -> None:
    state = AppState(settings.model_copy(update={"tools": setting}))
    async with Client(build_server(state=state)) as client:
        assert "publish_sae" not in await names(client)
        done = await client.call_tool("publish_sae", {"sae": "zz", "repo_id": "a/b"})
        assert ("publish_sae" in await names(client)) is runs
    assert done.structured_content is not None
    assert (done.structured_content["code"] == "TOOL_OFF") is not runs


@pytest.mark.parametrize("setting", ["raed", "-raed", "read,raed", "read;train"])
def test_a_misspelt_group_is_refused_with_what_there_is(setting: str, own_home: Path) -> None:
    with pytest.raises(ConfigError, match=r"SAESCOPE_TOOLS: .* is neither a group") as no:
        build_server(Settings(tools=setting))
    words = "base, read, explain, circuits, steer, know, train, judge, bench, publish"
    assert words in no.value.message


@pytest.mark.slow
@pytest.mark.parametrize("way", ["variable", "flag", "flag that takes away"])
def test_a_server_does_not_start_with_a_misspelt_group(way: str, own_home: Path) -> None:
    flags = {"flag": ["--tools", "raed"], "flag that takes away": ["--tools", "-raed"]}
    words = flags.get(way, [])
    env = os.environ | ({"SAESCOPE_TOOLS": "raed"} if way == "variable" else {})
    done = subprocess.run(
        [sys.executable, "-m", "saescope_mcp", *words],
        env=env,
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and not done.stdout
    assert "'raed' is neither a group nor a tool (groups: base, read, explain" in done.stderr


async def names(client: Client) -> list[str]:
    return [tool.name for tool in (await client.list_tools()).tools]


async def test_with_every_tool_on_there_is_nothing_to_switch(settings: Settings) -> None:
    state = AppState(settings.model_copy(update={"tools": "all"}))
    async with Client(build_server(state=state)) as client:
        assert await names(client) == [tool.name for tool in ALL_TOOLS]
        assert client.instructions == INSTRUCTIONS
        there = await client.call_tool("server_status", {})
        again = await client.call_tool("use_tools", {"groups": ["read"]})
    assert there.structured_content is not None and "tools_off" not in there.structured_content
    assert there.structured_content["groups_on"] == [group.word for group in Group]
    assert not again.is_error and again.structured_content is not None
    assert again.structured_content["summary"] == "They were on. All tools are on."


async def test_a_tool_that_is_off_is_not_listed_and_its_call_says_what_switches_it_on(
    settings: Settings,
) -> None:
    state = AppState(settings.model_copy(update={"tools": "read,steer_generate"}))
    async with Client(build_server(state=state)) as client:
        assert {*await names(client)} == BASE | READ | {"steer_generate", "use_tools"}
        assert client.instructions is not None and len(client.instructions.encode()) < 2048
        assert "train (train_sae)" in client.instructions
        off = await client.call_tool("train_sae", {"model": "a"})
        unknown = await client.call_tool("top_feature", {})
        wrong = await client.call_tool("use_tools", {"groups": ["trian"]})
        many = await client.call_tool("use_tools", {"groups": ["read"] * 51})
        status = await client.call_tool("server_status", {})
    text = off.content[0].text  # type: ignore[union-attr]
    assert many.structured_content is not None
    assert many.structured_content["code"] == "TOO_MANY_ITEMS"
    assert off.is_error and text.startswith("TOOL_OFF: train_sae is switched off on this server")
    assert 'Next: use_tools(groups=["train"])' in text
    assert "SAESCOPE_TOOLS=read,steer_generate,train_sae" in text and "--tools" in text
    assert unknown.structured_content is not None
    assert "train_sae" not in unknown.structured_content["allowed"]
    assert wrong.structured_content is not None
    assert wrong.structured_content["code"] == "GROUP_UNKNOWN"
    assert "groups: base, read" in wrong.structured_content["message"]
    assert status.structured_content is not None
    assert status.structured_content["groups_on"] == ["base", "read", "steer"]
    assert {*status.structured_content["tools_off"]} == {*GROUPS} - BASE - READ - {"steer_generate"}


async def test_what_a_refused_tool_says_to_start_with_offers_it(settings: Settings) -> None:
    state = AppState(settings.model_copy(update={"tools": "-train"}))
    async with Client(build_server(state=state)) as client:
        off = await client.call_tool("train_sae", {})
    text = off.content[0].text  # type: ignore[union-attr]
    flag = re.search(r"saescope serve (--tools\S+)\.", text)
    assert flag is not None
    for words in ([flag[1]], flag[1].split("=")):
        tools = serve.options_in(words).tools
        assert Offer.chosen(tools, GROUPS).on == DEFAULT


async def test_a_group_is_switched_on_however_it_is_spelt(settings: Settings) -> None:
    state = AppState(settings.model_copy(update={"tools": "base"}))
    async with Client(build_server(state=state)) as client:
        done = await client.call_tool("use_tools", {"groups": [" Read ", "train-sae"]})
        assert {*await names(client)} == BASE | READ | {"train_sae", "use_tools"}
    assert not done.is_error


async def test_a_prompt_says_first_what_switches_on_its_tools(settings: Settings) -> None:
    said: list[str] = []
    for tools in ("base,read", "all"):
        state = AppState(settings.model_copy(update={"tools": tools}))
        async with Client(build_server(state=state)) as client:
            prompt = await client.get_prompt("explain_prediction", {"prompt": "Paris is in"})
            said.append(prompt.messages[0].content.text)  # type: ignore[union-attr]
    first, rest = said[0].split("\n", 1)
    assert first.startswith('First use_tools(groups=["explain"]): ') and rest == said[1]


def test_a_next_call_of_a_tool_that_is_off_comes_after_the_one_that_switches_it_on() -> None:
    offer = Offer.chosen("read", GROUPS)
    calls = ['describe_feature(feature=3, text="(")', "train_sae(dry_run=true)", "load_sae()"]
    assert offer.reached(calls) == ['use_tools(groups=["know", "train"])', *calls]
    assert offer.reached(["load_sae()"]) == ["load_sae()"]
    assert Offer().reached(calls) == calls


def test_the_next_step_of_an_error_comes_after_the_call_that_switches_it_on() -> None:
    offer = Offer.chosen("base,explain,-intervene", GROUPS)
    hint = 'Call index_features(sae="a"), or unload what stands in the way.'
    assert offer.reached_by(hint) == f'First use_tools(groups=["know"]). {hint}'
    assert offer.reached_by("Call intervene(n_controls=0).").startswith("First use_tools(")
    for other in ("Load less, or intervene less often.", 'use_tools(groups=["know"]) first.'):
        assert offer.reached_by(other) == other
    assert Offer().reached_by(hint) == hint


async def test_an_error_of_a_server_with_few_tools_says_how_to_reach_its_next_step(
    tiny: AppState, sae: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"sae": sae, "feature": 3, "text": "kings", "quiz_id": "none", "answers": [True]}
    label = next(tool for tool in ALL_TOOLS if tool.name == "label_feature")
    plain = (await label.call(tiny, asked)).document
    assert plain["code"] == "QUIZ_NOT_FOUND" and "quiz_feature(" in plain["hint"]
    monkeypatch.setattr(tiny, "offer", Offer.chosen("base,label_feature", GROUPS))
    told = (await label.call(tiny, asked)).document
    assert told == plain | {"hint": f'First use_tools(groups=["know"]). {plain["hint"]}'}


async def test_a_reply_says_first_how_to_reach_what_it_suggests(
    tiny: AppState, sae: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "offer", tiny.offer)  # others get the state back as it was
    read = next(tool for tool in ALL_TOOLS if tool.name == "top_features")
    asked = {"sae": sae, "text": "The old man", "response_format": "detailed"}
    plain = await call(tiny, read.name, **asked)
    async with Client(build_server(state=tiny)) as client:
        tiny.offer.on -= {tool for tool, group in GROUPS.items() if group != "base"} - {read.name}
        told = await client.call_tool(read.name, asked)
    assert told.structured_content is not None and plain["next"]
    switch, *others = told.structured_content["next"]
    assert switch.startswith("use_tools(groups=[") and others == plain["next"]


def base_only() -> StdioServerParameters:
    env = {**os.environ, "SAESCOPE_OFFLINE": "1", "SAESCOPE_TOOLS": "judge"}
    words = ["-m", "saescope_mcp", "--tools", "base"]  # the flag wins
    return StdioServerParameters(command=sys.executable, args=words, env=env)


@pytest.mark.slow
async def test_a_client_of_the_older_protocol_is_told_that_the_list_has_changed(
    own_home: Path,
) -> None:
    changed = anyio.Event()

    async def heard(message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            changed.set()

    async with Client(base_only(), mode="legacy", message_handler=heard) as client:
        assert client.server_capabilities is not None
        assert client.server_capabilities.tools and client.server_capabilities.tools.list_changed
        assert {*await names(client)} == BASE | {"use_tools"}
        assert not changed.is_set()
        done = await client.call_tool("use_tools", {"groups": ["read", "train_sae"]})
        with anyio.fail_after(SOON_S):
            await changed.wait()
        assert {*await names(client)} == BASE | READ | {"train_sae", "use_tools"}
    assert done.structured_content is not None
    assert done.structured_content["summary"].startswith(
        "Switched on: encode_text, top_features, train_sae. Switched off here: explain ("
    )


async def test_a_client_that_listens_is_told_once_and_sees_the_new_list(own_home: Path) -> None:
    async with Client(base_only()) as client, client.listen(tools_list_changed=True) as changes:
        assert {*await names(client)} == BASE | {"use_tools"}
        await client.call_tool("use_tools", {"groups": ["base"]})  # changes nothing
        await client.call_tool("use_tools", {"groups": ["all"]})
        with anyio.fail_after(SOON_S):
            assert isinstance(await anext(aiter(changes)), ToolsListChanged)
        assert await names(client) == [tool.name for tool in ALL_TOOLS]


def test_the_command_line_has_every_tool_whatever_is_offered(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAESCOPE_TOOLS", "base")
    ran = CliRunner().invoke(app, ["top-features", "--sae", "zz", "--text", "a", "--json"])
    assert ran.exit_code == 1 and '"SAE_NOT_LOADED"' in ran.output


async def test_where_nothing_is_offered_no_tool_is_called_switched_off(state: AppState) -> None:
    status = await call(state, "server_status")
    assert status["groups_on"] == status["tools_off"] == []
