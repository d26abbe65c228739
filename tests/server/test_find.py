"""find_saes, through a client and on the command line, in the whole catalogue."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from tests.server.helpers import call
from typer.testing import CliRunner

from saescope.catalogue import releases
from saescope_mcp.app import ALL_TOOLS, build_server
from saescope_mcp.cli.commands import app
from saescope_mcp.schemas.load import LoadSae
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

PROMISED = {
    "release",
    "sae_id",
    "model",
    "hook_name",
    "d_sae",
    "l0",
    "explained_variance",
    "neuronpedia_id",
    "cached",
}
N_SAES = sum(map(len, releases().values()))


async def test_without_arguments_it_lists_the_first_of_all_in_few_tokens() -> None:
    async with Client(build_server(Settings())) as client:
        result = await client.call_tool("find_saes", {})
    found = result.structured_content
    assert not result.is_error and found is not None
    assert (found["total"], len(found["saes"]), found["truncated"], found["next_offset"]) == (
        N_SAES,
        10,
        True,
        10,
    )
    unpublished = {"explained_variance", "l0", "d_sae", "neuronpedia_id", "hook_name"}
    assert all(row.keys() | unpublished >= PROMISED for row in found["saes"])
    assert result.content[0].type == "text" and len(result.content[0].text.encode()) / 3 <= 1500


async def test_no_page_is_larger_than_a_default_result_may_be(state: AppState) -> None:
    for offset in range(0, N_SAES, 1000):
        reply = await call(state, "find_saes", query="gemma-scope", offset=offset)
        assert len(json.dumps(reply, ensure_ascii=False).encode()) / 3 <= 1500


async def test_the_next_call_loads_the_first_row(state: AppState) -> None:
    reply = await call(state, "find_saes", model="gpt2", layer=8, site="resid_pre", query="jb")
    step = ast.parse(reply["next"][0], mode="eval").body
    assert (
        isinstance(step, ast.Call)
        and isinstance(step.func, ast.Name)
        and step.func.id == "load_sae"
    )
    said = {keyword.arg: ast.literal_eval(keyword.value) for keyword in step.keywords}
    assert said == {"release": "gpt2-small-res-jb", "sae_id": "blocks.8.hook_resid_pre"}
    assert LoadSae.model_validate(said)
    row = reply["saes"][0]
    assert (row["hook_name"], row["neuronpedia_id"], row["cached"]) == (
        "blocks.8.hook_resid_pre",
        "gpt2-small/8-res-jb",
        False,
    )


async def test_pages_join_up(state: AppState) -> None:
    whole = await call(state, "find_saes", query="gpt2-small-res-jb", limit=100)
    pages = [
        await call(state, "find_saes", query="gpt2-small-res-jb", limit=5, offset=offset)
        for offset in range(0, whole["total"], 5)
    ]
    assert [row for page in pages for row in page["saes"]] == whole["saes"] and whole["total"] == 21
    assert pages[0]["next"][1] == 'find_saes(query="gpt2-small-res-jb", limit=5, offset=5)'


async def test_what_is_not_known_is_null(state: AppState) -> None:
    row = (await call(state, "find_saes", query="gemma-scope-2b-pt-res-canonical", layer=20))[
        "saes"
    ][0]
    assert row["l0"] is None and row["explained_variance"] is None and row["d_sae"] is not None


@pytest.mark.parametrize(
    ("asked", "step"),
    [
        ({"query": "gpt2-small-res-jbb"}, 'find_saes(query="gpt2-small-res-jb")'),
        ({"model": "llama31-8b"}, 'find_saes(model="meta-llama/Llama-3.1-8B")'),
        ({"model": "gpt2", "layer": 99}, 'find_saes(model="gpt2")'),
        ({"query": "banana"}, "find_saes()"),
        ({"query": "gpt2", "offset": 10_000}, 'find_saes(query="gpt2")'),
    ],
)
async def test_nothing_found_is_an_empty_list_and_the_nearest_call(
    state: AppState, asked: dict[str, Any], step: str
) -> None:
    reply = await call(state, "find_saes", **asked)
    assert (reply["saes"], reply["truncated"], reply["next"]) == ([], False, [step])
    assert (await call(state, "find_saes"))["saes"]


async def test_pickles_are_said_to_be_pickles(state: AppState) -> None:
    assert (
        "SAESCOPE_ALLOW_PICKLE" in (await call(state, "find_saes", query="goodfire"))["warnings"][0]
    )
    allowed = AppState(state.settings.model_copy(update={"allow_pickle": True}))
    assert (await call(allowed, "find_saes", query="goodfire"))["warnings"] == []


async def test_what_is_in_the_hubs_cache_is_said(
    state: AppState, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    files = [
        "models--jbloom--GPT2-Small-SAEs-Reformatted/snapshots/abc/blocks.8.hook_resid_pre/"
        "sae_weights.safetensors",
        "models--google--gemma-scope-2b-pt-res/snapshots/abc/layer_20/width_16k/average_l0_71/"
        "params.npz",
    ]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    found = await call(state, "find_saes", query="gpt2-small-res-jb", layer=8)
    assert found["saes"][0]["cached"] is True and "1 of them on this machine" in found["summary"]
    status = await call(state, "server_status")
    rows = [row for row in status["cached"] if "embedded" not in row["name"]]
    assert [row["call"] for row in rows] == [
        'load_sae(release="gemma-scope-2b-pt-res", sae_id="layer_20/width_16k/average_l0_71")',
        'load_sae(release="gpt2-small-res-jb", sae_id="blocks.8.hook_resid_pre")',
    ]
    assert status["cached_total"] == len(status["cached"])


def test_the_description_has_the_catalogues_numbers() -> None:
    tool = next(tool for tool in ALL_TOOLS if tool.name == "find_saes")
    assert f"{N_SAES:,} SAEs in {len(releases())} releases" in tool.description


def test_the_command_prints_the_tools_document() -> None:
    done = CliRunner().invoke(
        app, ["find-saes", "--query", "gpt2-small-res-jb", "--layer", "8", "--limit", "1", "--json"]
    )
    assert done.exit_code == 0 and [row["sae_id"] for row in json.loads(done.stdout)["saes"]] == [
        "blocks.8.hook_resid_pre"
    ]
    done = CliRunner().invoke(
        app,
        [
            "find-saes",
            "--model",
            "gemma-2-2b",
            "--layer",
            "20",
            "--site",
            "resid_post",
            "--limit",
            "1",
        ],
    )
    rows = [line.split()[:2] for line in done.stdout.splitlines()]
    assert [
        "gemma-scope-2b-pt-res",
        "layer_20/width_16k/average_l0_139",
    ] in rows  # whole, in 80 columns
    done = CliRunner().invoke(app, ["find-saes", "--query", "gpt2-small-res-jbb"])
    assert done.exit_code == 0 and "gpt2-small-res-jb" in done.stdout


@pytest.mark.slow
def test_finding_needs_no_torch_and_no_network() -> None:
    code = (
        "import sys\nfrom saescope_mcp.cli import main\ntry:\n    main(['find-saes', "
        "'--query', 'jb', '--json'])\n"
        "finally:\n    assert not {'torch', 'huggingface_hub', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["total"] > 0
