"""index_features as a job: the same call goes on with it after a kill, a stop or a full disk, and
the index is the same to the bit."""

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.core.features.planted import WORDS, planted_sae
from tests.server.helpers import call, refuse, save_random_sae
from tests.server.knowing import Bench
from tests.server.workers import Forked, installed

from saescope.features.index import FeatureIndex
from saescope.models import LanguageModel
from saescope.names import home, split_hook
from saescope_mcp.jobs import Run
from saescope_mcp.state import AppState

WAIT_S = 50.0
LONG = 60_000
"""Tokens that take some seconds."""


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Forked:
    return installed(monkeypatch)


@pytest.fixture
async def server(bench: Bench, glass_dir: Path, workers: Forked) -> tuple[AppState, str]:
    return await bench.loaded(glass_dir, indexed=False)


Reached = Callable[[Run], Any]
Until = Callable[[AppState, str, Reached], Awaitable[Run]]


async def until(state: AppState, job_id: str, reached: Reached) -> Run:
    run = state.runs.get(job_id)
    for _ in range(int(WAIT_S / 0.02)):
        if reached(run):
            return run
        await asyncio.sleep(0.02)
        run = state.runs.get(job_id)
    raise AssertionError(
        f"{run.state} {run.phase}: {run.message}; "
        f"{(state.runs.folder(job_id) / 'log.txt').read_text()[-2000:]}"
    )


def arrays(reply: dict[str, Any]) -> bytes:
    return Path(reply["indexes"][0]["path"], "arrays.safetensors").read_bytes()


async def index(server: tuple[AppState, str], text: Path, **more: Any) -> dict[str, Any]:
    state, sae = server
    return await call(
        state,
        "index_features",
        **{"sae": sae, "dataset": str(text), "n_tokens": LONG, "wait_s": WAIT_S} | more,
    )


@pytest.fixture(scope="session")
def long_text(bench: Bench) -> Path:
    text = bench.folder / "long.txt"
    text.write_text("\n\n".join([bench.text.read_text(encoding="utf-8")] * 30), encoding="utf-8")
    return text


async def test_a_call_indexes_and_a_loaded_sae_finds_it_at_once(
    server: tuple[AppState, str], bench: Bench
) -> None:
    state, sae = server
    assert (await call(state, "describe_feature", sae=sae, feature=0))["density"] is None
    text = bench.text.read_text(encoding="utf-8")[:600]
    top = (await call(state, "top_features", sae=sae, text=text))["features"][0]
    assert top["density"] is None and top["share"] > 0
    done = await index(server, bench.text, n_tokens=5000)
    assert (
        done["state"] == "done"
        and done["dataset"] == "tales.txt"
        and done["evidence"] == "observed"
    )
    row = done["indexes"][0]
    made = FeatureIndex.open(Path(row["path"])).manifest
    layer, _ = split_hook(made.hook_name)
    assert layer is not None and made.model_fingerprint.startswith(f"{layer + 1}:")  # no further
    assert (row["n_features"], row["n_fired"], row["n_tokens"] >= 5000) == (12, 12, True)
    card = await call(state, "describe_feature", sae=sae, feature=0)
    assert card["density"] > 0 and card["corpus"]["n_tokens"] == row["n_tokens"]
    top = (await call(state, "top_features", sae=sae, text=text))["features"]
    for found in top:
        own = await call(state, "describe_feature", sae=sae, feature=found["feature"])
        assert found["density"] == own["density"] and 0 < found["share"] <= 1
    assert any(found["density"] != found["share"] for found in top)
    status = await call(state, "job_status", job_id=done["job_id"], response_format="detailed")
    assert status["result"] == done and status["sae"] == sae
    assert (await index(server, bench.text, n_tokens=5000))["job_id"] == done[
        "job_id"
    ]  # nothing left to do
    assert len(state.runs.all()) == 1


async def test_text_that_has_changed_is_indexed_anew(
    server: tuple[AppState, str], bench: Bench
) -> None:
    text = bench.folder / "changing.txt"
    text.write_text(bench.text.read_text(encoding="utf-8"), encoding="utf-8")
    before = await index(server, text, n_tokens=500)
    text.write_text("the King and the Queen of the room. " * 300, encoding="utf-8")
    after = await index(server, text, n_tokens=500)
    assert before["job_id"] != after["job_id"] and after["state"] == "done"


@pytest.mark.slow
async def test_killed_stopped_and_resumed_it_is_the_same_index(
    server: tuple[AppState, str], long_text: Path
) -> None:
    state, _ = server
    begun = await index(server, long_text, wait_s=0.0)
    run = await until(state, begun["job_id"], lambda run: run.checkpoint)
    os.kill(run.pid or 0, signal.SIGKILL)
    run = await until(state, run.id, lambda run: not run.live)
    assert (
        run.state == "interrupted"
        and "a checkpoint is kept" in (await call(state, "job_status", job_id=run.id))["summary"]
    )
    again = await index(server, long_text, wait_s=0.0)
    assert again["job_id"] == run.id
    await until(
        state, run.id, lambda now: now.progress.get("n_tokens", 0) > run.progress["n_tokens"]
    )
    stopped = await call(state, "cancel_job", job_id=run.id)
    assert (
        stopped["state"] == "cancelled"
        and stopped["checkpoint"]
        and stopped["next"][0].startswith("index_features(")
    )
    resumed = await index(server, long_text)
    assert resumed["job_id"] == run.id and resumed["state"] == "done", resumed
    first = arrays(resumed)
    shutil.rmtree(home() / "indexes")
    straight = await index(server, long_text)
    assert straight["job_id"] != run.id and arrays(straight) == first


async def test_a_full_disk_is_said_with_the_call_that_goes_on(
    server: tuple[AppState, str], long_text: Path, workers: Forked
) -> None:
    state, _ = server
    workers.fsize = 60_000
    begun = await index(server, long_text, wait_s=0.0)
    run = await until(state, begun["job_id"], lambda run: not run.live)
    assert (run.state, run.error["code"]) == (
        "failed",
        "DISK_FULL",
    ) and "index_features(sae=" in run.error["hint"]
    workers.fsize = 0
    assert (await index(server, long_text, n_tokens=500))["state"] == "done"


async def test_several_saes_of_a_model_take_one_pass_and_those_of_another_are_refused(
    server: tuple[AppState, str],
    bench: Bench,
    glass: LanguageModel,
    glass_dir: Path,
) -> None:
    state, sae = server
    few = planted_sae(glass, WORDS[:6]).save(bench.folder / "few")
    other = (await call(state, "load_sae", path=str(few), model=str(glass_dir)))["sae"]
    done = await index(server, bench.text, n_tokens=500, also=[other])
    assert [row["sae"] for row in done["indexes"]] == [sae, other] and len(
        {row["n_tokens"] for row in done["indexes"]}
    ) == 1
    assert (await refuse(state, "index_features", sae="a/1.b"))["code"] == "SAE_NOT_LOADED"
    assert (await refuse(state, "index_features", sae=sae, dataset="/etc/passwd"))[
        "code"
    ] == "PATH_NOT_ALLOWED"


async def test_weights_that_were_replaced_since_the_load_are_not_indexed_under_their_name(
    server: tuple[AppState, str],
    bench: Bench,
    glass_dir: Path,
) -> None:
    state, _ = server
    folder = save_random_sae(bench.folder / "replaced")
    sae = (await call(state, "load_sae", path=str(folder), model=str(glass_dir)))["sae"]
    save_random_sae(folder, seed=5)
    error = await refuse(
        state, "index_features", sae=sae, dataset=str(bench.text), n_tokens=500, wait_s=WAIT_S
    )
    assert error["code"] == "SAE_CHANGED" and state.runs.all() == []


@pytest.mark.slow
async def test_a_model_that_was_replaced_since_the_load_is_not_indexed_under_its_name(
    server: tuple[AppState, str], bench: Bench, glass_dir: Path
) -> None:
    state, _ = server
    folder = Path(shutil.copytree(glass_dir, bench.folder / "exchanged"))
    asked: dict[str, Any] = {"path": str(bench.sae), "model": str(folder)}
    sae = (await call(state, "load_sae", **asked))["sae"]
    first = await index((state, sae), bench.text, n_tokens=500)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][7] += 0.25
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    words = {"sae": sae, "dataset": str(bench.text), "wait_s": WAIT_S}
    error = await refuse(state, "index_features", **words, n_tokens=600)
    assert error["code"] == "MODEL_CHANGED" and 'unload(handle="exchanged")' in error["hint"]
    await call(state, "unload", handle="exchanged")
    again = await call(state, "load_sae", **asked)
    assert again["index"] is None and "another model called" in " ".join(again["warnings"])
    anew = await index((state, again["sae"]), bench.text, n_tokens=500)
    assert anew["job_id"] != first["job_id"] and anew["state"] == "done"
