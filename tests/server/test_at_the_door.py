"""What is wrong with a run and can be known at once is said at once: within two seconds, and no
process is started."""

import re
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from mcp import Client
from tests.server.helpers import HOOK, call, refuse
from tests.server.test_stdio import parameters

from saescope.names import home
from saescope_mcp.jobs import runs as runs_module
from saescope_mcp.state import AppState

MOST_S = 2.0
"""In this process of computing: tests run beside others."""
SVG = "{http://www.w3.org/2000/svg}svg"
TRAIN: dict[str, Any] = {"hook_name": HOOK, "training_tokens": 4096, "d_sae": 64, "k": 4.0}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.jsonl").write_text('{"text": " "}\n{"text": ""}\n')
    (tmp_path / "table.csv").write_text("a,b\n1,one text\n2,another text\n")
    (tmp_path / "folder").mkdir()
    return tmp_path


def wrong(texts: Path) -> list[tuple[str, dict[str, Any], str, str]]:
    """Tool, arguments, the code and the word that names the cause."""
    train: list[tuple[dict[str, Any], str, str]] = [
        ({"hook_name": "blocks.99.hook_resid_post"}, "HOOK_NOT_FOUND", "blocks.99"),
        ({"hook_name": "blocks.2.hook_resid_pots"}, "HOOK_NOT_FOUND", "hook_resid_pots"),
        ({"hook_name_out": "blocks.7.hook_mlp_out"}, "HOOK_NOT_FOUND", "blocks.7"),
        ({"options": ["lp_norm=nan"]}, "CONFIG_INVALID", "lp_norm"),
        ({"options": ["aux_loss_coefficient=-1"]}, "CONFIG_INVALID", "aux_loss_coefficient"),
        ({"options": ["skip=true"]}, "CONFIG_INVALID", "skip"),
        ({"k": 100.0}, "CONFIG_INVALID", "k"),
        ({"batch_size": 8192}, "CONFIG_INVALID", "training_tokens"),
        (
            {"architecture": "matryoshka_batchtopk", "options": ["matryoshka_widths=9,4"]},
            "CONFIG_INVALID",
            "width",
        ),
        ({"device": "cuda:99"}, "", "cuda"),
        ({"dataset": "empty.txt"}, "DATASET_EMPTY", "empty.txt"),
        ({"dataset": "blank.jsonl"}, "DATASET_EMPTY", "blank.jsonl"),
        ({"dataset": "folder"}, "DATASET_EMPTY", "folder"),
        ({"dataset": "none.txt"}, "FILE_MISSING", "none.txt"),
        ({"dataset": "table.csv", "options": ["text_column=c"]}, "COLUMN_NOT_FOUND", "c"),
    ]
    text: list[tuple[dict[str, Any], str, str]] = [
        ({"dataset": "empty.txt"}, "DATASET_EMPTY", "empty.txt"),
        ({"dataset": "table.csv", "text_column": "c"}, "COLUMN_NOT_FOUND", "c"),
        ({"dataset": "none.txt"}, "FILE_MISSING", "none.txt"),
    ]
    cases = [("train_sae", TRAIN | said, code, named) for said, code, named in train]
    for tool in ("index_features", "evaluate_sae"):
        cases += [(tool, dict(said), code, named) for said, code, named in text]
    for _, arguments, _, _ in cases:
        if "dataset" in arguments:
            arguments["dataset"] = str(texts / arguments["dataset"])
    return cases


async def test_what_is_wrong_is_said_before_a_process_is_started(
    tiny: AppState, sae: str, glass_dir: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "start_worker", None)  # what is not callable is not called
    monkeypatch.setattr(
        tiny, "settings", tiny.settings.model_copy(update={"read_roots": (texts, glass_dir.parent)})
    )
    await refuse(tiny, "train_sae", **TRAIN | {"model": str(glass_dir), "k": 100.0})  # imports
    for tool, arguments, code, named in wrong(texts):
        source = {"model": str(glass_dir)} if tool == "train_sae" else {"sae": sae}
        started = time.process_time()
        error = await refuse(tiny, tool, **source, **arguments)
        assert code in error["code"] and named in str(error), (tool, arguments, error)
        assert time.process_time() - started < MOST_S, (tool, arguments)
    assert tiny.runs.all() == []


async def test_a_model_that_is_not_loaded_is_known_by_its_config(
    state: AppState, glass_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "start_worker", None)
    for hook_name in ("blocks.99.hook_resid_post", "layer 2", "blocks.1.resid_post"):
        error = await refuse(
            state, "train_sae", **TRAIN | {"model": str(glass_dir), "hook_name": hook_name}
        )
        assert (
            error["code"] == "HOOK_NOT_FOUND"
            and error["field"] == "hook_name"
            and hook_name in error["message"]
        )
    error = await refuse(
        state, "train_sae", **TRAIN | {"model": str(glass_dir), "options": ["lp_norm=nan"]}
    )
    assert "lp_norm" in error["message"]
    assert not state.models


@pytest.mark.parametrize(("tool", "folder"), [("train_sae", "saes"), ("index_features", "indexes")])
async def test_a_place_that_cannot_be_written_is_said_first(
    tiny: AppState,
    sae: str,
    glass_dir: Path,
    tool: str,
    folder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "start_worker", None)
    (home() / folder).write_text("a file where the folder should be")
    source: dict[str, Any] = (
        TRAIN | {"model": str(glass_dir)} if tool == "train_sae" else {"sae": sae}
    )
    error = await refuse(tiny, tool, **source)
    assert error["code"] == "CANNOT_WRITE" and folder in error["message"]


@pytest.mark.slow
async def test_a_real_server_answers_within_two_seconds(
    sae_dir: Path, glass_dir: Path, texts: Path
) -> None:
    async with Client(parameters(sae_dir.parent, glass_dir.parent, texts)) as client:
        loaded = await client.call_tool("load_sae", {"path": str(sae_dir), "model": str(glass_dir)})
        assert loaded.structured_content is not None
        sae = loaded.structured_content["sae"]
        await client.call_tool(
            "train_sae", TRAIN | {"model": str(glass_dir), "k": 100.0}
        )  # imports
        for tool, arguments, code, _ in wrong(texts):
            source = {"model": str(glass_dir)} if tool == "train_sae" else {"sae": sae}
            started = time.monotonic()
            refused = await client.call_tool(tool, source | arguments)
            seconds = time.monotonic() - started
            assert refused.is_error and refused.structured_content is not None
            assert code in refused.structured_content["code"] and seconds < MOST_S, (
                tool,
                arguments,
                seconds,
            )
        jobs = await client.call_tool("job_status", {})
        assert jobs.structured_content is not None
        assert {job["tool"] for job in jobs.structured_content["jobs"]} <= {"load_sae"}
    assert not list((home() / "jobs").glob("*-*/log.txt"))


@pytest.mark.parametrize(
    ("package", "extra", "tool", "arguments"),
    [
        ("datasets", "datasets", "index_features", {"dataset": "hf:owner/name"}),
        ("datasets", "datasets", "evaluate_sae", {"dataset": "hf:owner/name"}),
        ("datasets", "datasets", "train_sae", TRAIN | {"dataset": "hf:owner/name"}),
        ("tensorboard", "tensorboard", "train_sae", TRAIN | {"options": ["logger=tensorboard"]}),
    ],
)
async def test_what_needs_an_extra_that_is_not_installed_names_it_first(
    tiny: AppState,
    sae: str,
    glass_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    extra: str,
    tool: str,
    arguments: dict[str, Any],
) -> None:
    monkeypatch.setattr(runs_module, "start_worker", None)
    monkeypatch.setitem(sys.modules, package, None)
    online = tiny.settings.model_copy(update={"offline": False})  # it is refused before it asks
    monkeypatch.setattr(tiny, "settings", online)
    source = {"train_sae": {"model": str(glass_dir)}, "job_status": {}}.get(tool, {"sae": sae})
    error = await refuse(tiny, tool, **source, **arguments)
    assert error["code"] == "EXTRA_MISSING" and f"saescope[{extra}]" in error["message"]
    assert f'-m pip install "saescope[{extra}]"' in error["hint"]


async def test_without_any_extra_a_feature_is_described_and_a_sae_evaluated(
    tiny: AppState, sae: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # the model's library brings the others
    card = await call(tiny, "describe_feature", sae=sae, feature=1)
    assert card["feature"] == 1
    done = await call(tiny, "evaluate_sae", sae=sae, n_tokens=2000, wait_s=50, picture=True)
    assert done["state"] == "done" and done["verdict"]
    for path in done["pictures"]:
        assert Path(path).suffix == ".svg" and ElementTree.parse(path).getroot().tag == SVG
    assert len(done["pictures"]) == 2


async def test_a_feature_s_page_and_picture_need_no_extra(
    tiny: AppState, sae: str, own_home: Path
) -> None:
    card = await call(tiny, "describe_feature", sae=sae, feature=1, picture=True)
    page, (picture,) = Path(card["page_path"]), map(Path, card["pictures"])
    assert page.parent == own_home / "pictures" and "<html" in page.read_text(encoding="utf-8")
    assert {page, picture} == {*page.parent.iterdir()}
    assert ElementTree.parse(picture).getroot().tag == SVG


async def test_pages_written_one_after_the_other_link_to_each_other(
    tiny: AppState, sae: str, own_home: Path
) -> None:
    first = await call(tiny, "describe_feature", sae=sae, feature=1, picture=True)
    near = first["neighbours"][0]["feature"]
    assert f"-{near}.html" not in Path(first["page_path"]).read_text(encoding="utf-8")
    await call(tiny, "describe_feature", sae=sae, feature=near, picture=True)
    again = await call(tiny, "describe_feature", sae=sae, feature=1, picture=True)
    page = Path(again["page_path"])
    (link,) = re.findall(rf'href="([0-9a-f]+-{near}\.html)"', page.read_text(encoding="utf-8"))[:1]
    assert (page.parent / link).is_file()
