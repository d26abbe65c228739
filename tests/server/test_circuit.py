"""trace_circuit through a real client: on a model whose circuit is written into its weights, and on
a real one with random transcoders."""

import json
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from tests.attack.families import build
from tests.core.graphs import planted
from tests.core.graphs.made import transcoders
from tests.server.helpers import call, empties, refuse

from saescope_mcp.app import build_server
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

if TYPE_CHECKING:
    from saescope.models import LanguageModel

PROMPT = " ore oit"
"""The tokens of `planted.PROMPT` without its BOS: filler, city, filler, "capital"."""
OTHER_PROMPT = " ond oit"
ANSWER, OTHER_ANSWER = f"#{planted.ANSWER}", f"#{planted.OTHER_ANSWER}"
EDGES = {
    ("t@1", f"f0.{planted.LOOKUP}@1"),
    (f"f0.{planted.LOOKUP}@1", f"f1.{planted.RECALL}@3"),
    ("t@3", f"f1.{planted.RECALL}@3"),
    (f"f1.{planted.RECALL}@3", f"o{planted.ANSWER}"),
}
"""`planted.TRUE_EDGES` one position earlier."""
MOST_TOKENS = {"concise": 1500, "detailed": 6000}


@dataclass(frozen=True)
class Desk:
    """A model with a transcoder of each layer, loaded."""

    state: AppState
    handles: list[str]
    """In reading order."""
    folder: Path

    @property
    def asked(self) -> dict[str, Any]:
        return {"saes": self.handles, "prompt": PROMPT, "targets": [ANSWER], "wait_s": 55}

    @property
    def model(self) -> Any:
        return self.state.saes[self.handles[0]].model

    @property
    def saes(self) -> list[Any]:
        return [self.state.saes[handle].sae for handle in self.handles]


def desk_of(folder: Path, model: "LanguageModel", path: Path, saes: list[Any]) -> Desk:
    state = AppState(Settings(read_roots=(folder, path), write_roots=(folder,), offline=True))
    paths = [sae.save(folder / f"layer{n}") for n, sae in enumerate(saes)]
    return Desk(state, [anyio.run(load, state, each, path) for each in paths], folder)


async def load(state: AppState, path: Path, model: Path) -> str:
    arguments = {"path": str(path), "model": str(model)}
    while (reply := await call(state, "load_sae", **arguments))["state"] != "done":
        pass
    return reply["sae"]


@pytest.fixture(scope="module")
def desk(glass: "LanguageModel", glass_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The planted circuit with perfect transcoders."""
    from saescope.models import load_model

    folder = tmp_path_factory.mktemp("planted")
    path = planted.save(folder / "planted", glass_dir)
    model = load_model(str(path), device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAESCOPE_HOME", str(tmp_path_factory.mktemp("home")))
        members = planted.neurons(model).members
        made = desk_of(folder, model, path, [member.sae for member in members])
    yield made
    made.state.close()


@pytest.fixture(scope="module")
def busy(glass: "LanguageModel", glass_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real model with random transcoders: most of its graph is errors, and it has many nodes."""
    folder = tmp_path_factory.mktemp("busy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAESCOPE_HOME", str(tmp_path_factory.mktemp("home")))
        made = desk_of(folder, glass, glass_dir, transcoders(glass))
    yield made
    made.state.close()


@asynccontextmanager
async def client_of(desk: Desk) -> AsyncGenerator[Callable[..., Any]]:
    async with Client(build_server(state=desk.state)) as client:
        left_out = await empties(client)  # one that knows the schemas checks every result

        async def ask(tool: str = "trace_circuit", **arguments: Any) -> dict[str, Any]:
            given = desk.asked | arguments if tool == "trace_circuit" else arguments
            result = await client.call_tool(tool, given)
            assert not result.is_error and result.structured_content, result.content
            return left_out[tool] | result.structured_content

        yield ask


async def trace(desk: Desk, **arguments: Any) -> dict[str, Any]:
    async with client_of(desk) as ask:
        return await ask(**{"response_format": "detailed"} | arguments)


def close(ours: Any, expected: Any) -> bool:
    """The same, numbers to the four digits of a reply."""
    if isinstance(expected, dict):
        return all(close(ours[name], value) for name, value in expected.items())
    if isinstance(expected, list):
        return len(ours) == len(expected) and all(map(close, ours, expected))
    if isinstance(expected, float):
        return ours == pytest.approx(expected, rel=1e-3, abs=1e-5)
    return ours == expected


async def test_a_reply_says_what_the_library_says(desk: Desk) -> None:
    import saescope as ss

    reply = await trace(desk, seed=3, max_features=50, n_measured=20, node_share=0.95)
    settings = ss.GraphSettings(max_features=50, most_measured=20, node_share=0.95, seed=3)
    graph = ss.trace_circuit(
        desk.model, desk.saes, PROMPT, targets=[planted.ANSWER], settings=settings
    )
    said = asdict(graph)
    said["nodes"].sort(key=lambda node: -node["influence"])
    for field in ("targets", "nodes", "scores", "kept_scores", "untraced", "proof"):
        assert close(reply[field], said[field]), field
    assert reply["evidence"] == "controlled" and reply["provenance"]["seed"] == 3


async def test_the_tool_and_the_library_do_the_same_without_settings(desk: Desk) -> None:
    import saescope as ss

    reply = await trace(desk)
    graph = ss.trace_circuit(desk.model, desk.saes, PROMPT, targets=[planted.ANSWER])
    said = asdict(graph)
    said["nodes"].sort(key=lambda node: -node["influence"])
    for field in ("targets", "nodes", "scores", "kept_scores", "untraced", "proof"):
        assert close(reply[field], said[field]), field


async def test_the_planted_circuit_is_found_and_confirmed(desk: Desk) -> None:
    reply = await trace(desk, export=str(desk.folder / "found.json"))
    assert edges_of(reply["exported"]) == EDGES
    assert reply["proof"]["n_confirmed"] == reply["proof"]["n_edges"] == 2
    assert reply["scores"]["replacement"] == pytest.approx(1)
    path = [f"f0.{planted.LOOKUP}@1", f"f1.{planted.RECALL}@3", f"o{planted.ANSWER}"]
    assert re.search(".*".join(map(re.escape, ["t@1", *path])), reply["reading"])


def edges_of(file: str) -> set[tuple[str, str]]:
    from saescope.graphs.importing import import_graph

    return {(edge.source, edge.target) for edge in import_graph(file).graph.edges}


async def test_saes_may_be_named_in_any_order_and_each_node_has_its_own(desk: Desk) -> None:
    first = await trace(desk)
    turned = await trace(desk, saes=desk.handles[::-1])
    for field in ("nodes", "scores", "proof", "reading"):
        assert close(turned[field], first[field]), field
    for reply in (first, turned):
        assert reply["saes"] == desk.handles
        features = [node for node in reply["nodes"] if node["kind"] == "feature"]
        assert {node["layer"] for node in features} == {0, 1}
        for node in features:
            handle = reply["saes"][node["sae"]]
            assert f"/{node['layer']}." in handle and node["id"].startswith(f"f{node['layer']}.")
        top = max(features, key=lambda node: node["influence"])
        step = f'describe_feature(sae="{reply["saes"][top["sae"]]}", feature={top["feature"]})'
        assert reply["next"][0] == step


async def test_against_asks_for_the_difference_of_two_logits(desk: Desk) -> None:
    import saescope as ss

    reply = await trace(desk, against=OTHER_ANSWER)
    (target,) = reply["targets"]
    (expected,) = ss.trace_circuit(
        desk.model,
        desk.saes,
        PROMPT,
        targets=[planted.ANSWER],
        against=planted.OTHER_ANSWER,
    ).targets
    assert (target["token"], target["against"]) == (planted.ANSWER, planted.OTHER_ANSWER)
    assert close(target["value"], expected.value) and "logit difference" in reply["reading"]


@pytest.mark.parametrize("against", ["", OTHER_ANSWER])
async def test_the_suggested_ablation_says_what_the_summary_says(desk: Desk, against: str) -> None:
    reply = await trace(desk, against=against)
    sentence = r"ablated alone the .* changes by (\S+?)( nats)?: the `effect`"
    said = re.search(sentence, reply["summary"])
    assert said and bool(said[2]) != bool(against)
    top = max(reply["nodes"], key=lambda node: node["influence"] * (node["kind"] == "feature"))
    edit = {"feature": top["feature"], "mode": "ablate", "positions": [top["pos"]]}
    done = await call(
        desk.state,
        "intervene",
        sae=reply["saes"][top["sae"]],
        prompt=PROMPT,
        edits=[edit],
        target=desk.asked["targets"][0],
        against=against,
        n_controls=0,
    )
    assert done["effect"] == pytest.approx(float(said[1]), rel=0.01)
    assert top["lost"] == pytest.approx(-done["effect"], rel=0.01)


async def test_an_edge_shared_with_a_prompt_after_which_the_target_is_unlikely_is_no_reason(
    desk: Desk,
) -> None:
    reply = await trace(desk, other_prompts=[OTHER_PROMPT, PROMPT])
    (warning,) = [each for each in reply["warnings"] if "is unlikely after" in each]
    assert "other prompt 1" in warning and "other prompt 2" not in warning


async def test_a_target_that_is_no_single_token_is_refused(desk: Desk) -> None:
    error = await refuse(desk.state, "trace_circuit", **desk.asked | {"targets": ["many words"]})
    assert error["field"] == "targets" and "token" in error["message"]


async def test_what_prompts_share_is_said(desk: Desk) -> None:
    same = await trace(desk, other_prompts=[PROMPT])
    assert same["shared"].startswith("4 of 4 edges") and "all 2 prompts" in same["shared"]
    other = await trace(desk, targets=[], other_prompts=[OTHER_PROMPT])
    assert other["shared"].startswith("0 of"), other["shared"]


async def test_prompts_with_targets_of_their_own_are_said_to_have_these(desk: Desk) -> None:
    reply = await trace(desk, targets=[], other_prompts=[OTHER_PROMPT], n_measured=0)
    assert (
        "The first targets differ: " in reply["shared"]
        and "The first target has" not in (reply["shared"])
    )
    named = await trace(desk, other_prompts=[OTHER_PROMPT], n_measured=0)
    assert "The first target has a probability of " in named["shared"]


async def test_groups_by_hand_are_kept_and_unknown_nodes_are_refused(desk: Desk) -> None:
    lookup, recall = f"f0.{planted.LOOKUP}@1", f"f1.{planted.RECALL}@3"
    reply = await trace(desk, groups=[f"facts: {lookup} {recall}"])
    assert reply["groups"] == [f"facts: {lookup} {recall}"]
    assert f"facts: {lookup} {recall}" in reply["reading"]
    asked = desk.asked | {"groups": ["facts: f1.77@3"]}
    error = await refuse(desk.state, "trace_circuit", **asked)
    assert error["code"] == "GRAPH_NODE_UNKNOWN" and recall in error["allowed"]
    assert recall in error["hint"] and "leave groups out" in error["hint"]


async def test_an_export_loads_again_and_goes_nowhere_else(desk: Desk, tmp_path: Path) -> None:
    from saescope.graphs.importing import import_graph

    file = desk.folder / "deep" / "graph.json"
    reply = await trace(desk, export=str(file))
    assert reply["exported"] == str(file)
    graph = import_graph(file).graph
    assert {node.id for node in graph.nodes} == {node["id"] for node in reply["nodes"]}
    assert close(reply["scores"], asdict(graph.scores))
    others = json.loads((file.parent / "graph-metadata.json").read_text("utf-8"))["graphs"]
    assert [each["slug"] for each in others] == ["graph"] and others[0]["prompt"] == PROMPT
    said = json.loads(file.read_text("utf-8"))
    assert f"0_{planted.LOOKUP}_1" in said["qParams"]["pinnedIds"]
    folder = await refuse(desk.state, "trace_circuit", **desk.asked | {"export": str(desk.folder)})
    assert folder["code"] == "EXPORT_IS_FOLDER" and "graph.json" in folder["hint"]
    asked = desk.asked | {"export": str(tmp_path / "graph.json")}
    error = await refuse(desk.state, "trace_circuit", **asked)
    assert error["field"] == "export" and not [*tmp_path.iterdir()]


async def test_a_file_that_is_no_list_of_graphs_is_left_alone(desk: Desk, tmp_path: Path) -> None:
    folder, elsewhere = desk.folder / "mine", tmp_path / "elsewhere.json"
    folder.mkdir()
    listing = folder / "graph-metadata.json"
    for content in ("mine", "[1]", '{"graphs": {}}', "[" * 9999):
        listing.write_text(content)
        reply = await trace(desk, export=str(folder / "a.json"), seed=len(content))
        assert listing.read_text() == content
        assert any("graph-metadata.json there is no list" in each for each in reply["warnings"])
    listing.unlink()
    elsewhere.write_text('{"graphs": []}')
    listing.symlink_to(elsewhere)
    await trace(desk, export=str(folder / "a.json"), seed=3)
    assert elsewhere.read_text() == '{"graphs": []}'


async def test_the_page_is_a_file_and_a_resource(desk: Desk) -> None:
    async with Client(build_server(state=desk.state)) as client:
        reply = (await client.call_tool("trace_circuit", desk.asked)).structured_content or {}
        (content,) = (await client.read_resource(reply["page"])).contents
        assert getattr(content, "text", "") == Path(reply["page_path"]).read_text("utf-8")
        assert f"f1.{planted.RECALL}@3" in getattr(content, "text", "")
        for name in ("0" * 12, "../secret", "..%2Fsecret", "x", quote("a\0b"), "0" * 13, "%2e%2e"):
            with pytest.raises(MCPError):
                await client.read_resource(f"sae://graph/{name}")


async def test_a_page_that_cannot_be_written_costs_no_result(desk: Desk, own_home: Path) -> None:
    (own_home / "pictures").write_text("a file where the folder would be")
    reply = await trace(desk, seed=8)
    assert reply["page"] is reply["page_path"] is None and reply["reading"]
    assert any(warning.startswith("There is no page.") for warning in reply["warnings"])


async def test_without_measurements_a_graph_is_correlational(desk: Desk) -> None:
    reply = await trace(desk, n_measured=0)
    assert reply["evidence"] == "correlational" and reply["proof"] is None
    assert "Measured: nothing" in reply["reading"] and "Nothing was measured" in reply["summary"]


async def test_a_job_ends_with_the_reply_that_a_call_gives(desk: Desk) -> None:
    async with client_of(desk) as ask:
        whole = await ask(response_format="detailed", seed=5)
        begun = await ask(seed=6, wait_s=0)
        assert begun["state"] == "running" and begun["job_id"] in begun["next"][0]
        job = await ask("job_status", job_id=begun["job_id"], wait_s=55, response_format="detailed")
    assert job["state"] == "done"
    assert close(job["result"]["nodes"], whole["nodes"])


async def test_a_cancelled_job_leaves_the_model_as_it_was(busy: Desk) -> None:
    import torch

    ids = busy.model.tokenize(PROMPT).ids
    before = busy.model.forward(busy.model.batch(ids))[0]
    hooks = n_hooks(busy.model)
    async with client_of(busy) as ask:
        begun = await ask(targets=[], prompt="The old man went to the sea. " * 4, wait_s=0)
        done = await ask("cancel_job", job_id=begun["job_id"])
    assert done["state"] == "cancelled"
    assert n_hooks(busy.model) == hooks
    assert torch.equal(busy.model.forward(busy.model.batch(ids))[0], before)


def n_hooks(model: "LanguageModel") -> int:
    modules = [*model.bridge.modules()]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


@pytest.mark.parametrize("form", ["concise", pytest.param("detailed", marks=pytest.mark.slow)])
async def test_a_reply_keeps_to_its_tokens(busy: Desk, form: str) -> None:
    long = "The old man went to the sea and the king was in his garden with the queen. " * 3
    async with Client(build_server(state=busy.state)) as client:
        asked = {"saes": busy.handles, "prompt": long, "other_prompts": [long], "n_measured": 10}
        result = await client.call_tool(
            "trace_circuit", asked | {"response_format": form, "wait_s": 55}
        )
    document = result.structured_content or {}
    assert document.get("state", "done") == "done", document
    sent = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    assert len(sent.encode()) / 3 <= MOST_TOKENS[form]
    assert "ends in errors" in document["reading"] and document["warnings"]
    assert "strongest from errors carry" in document["reading"]
    told = re.search(r"(\d+) were confirmed by ablation, (\d+) of them", document["summary"])
    assert told and int(told[2]) <= int(told[1]) <= 50
    if form == "detailed":
        shares = [node["influence"] for node in document["nodes"]]
        assert shares == sorted(shares, reverse=True) and len(shares) == 40
        assert any("the 40 strongest of" in warning for warning in document["warnings"])


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"prompt": " re"}, "PROMPT_TOO_SHORT", "prompt"),
        ({"groups": [f"g{n}: t@1" for n in range(65)]}, "TOO_MANY_ITEMS", "groups"),
        ({"groups": ["no ids"]}, "GRAPH_GROUP_INVALID", "groups"),
        ({"other_prompts": [PROMPT] * 9}, "TOO_MANY_ITEMS", "other_prompts"),
        ({"max_features": 0}, "OUT_OF_RANGE", "max_features"),
        ({"other_prompts": [" re"]}, "PROMPT_TOO_SHORT", "other_prompts"),
        ({"export": "http://x/y.json"}, "INVALID_REPO_ID", "export"),
    ],
)
async def test_what_cannot_be_traced_is_refused(
    desk: Desk, changes: dict[str, Any], code: str, field: str
) -> None:
    error = await refuse(desk.state, "trace_circuit", **desk.asked | changes)
    assert (error["code"], error["field"]) == (code, field), error


async def test_a_model_whose_attention_cannot_be_held_is_refused(
    glass_dir: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from saescope.models import load_model

    tokenizer = AutoTokenizer.from_pretrained(glass_dir)
    path = build("qwen3_next", tmp_path / "qwen3_next", tokenizer)
    model = load_model(str(path), device="cpu")
    made = await anyio.to_thread.run_sync(
        lambda: desk_of(tmp_path, model, path, transcoders(model))
    )
    error = await refuse(
        made.state, "trace_circuit", **made.asked | {"targets": [], "prompt": "The old man"}
    )
    made.state.close()
    assert error["code"] == "GRAPH_NOT_LINEAR", error
