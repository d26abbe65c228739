"""train_sae, cancel_job and job_status on the tiny model: from a call to an SAE that other tools
take, whatever comes between."""

import ast
import asyncio
import json
import os
import random
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from tests.server.helpers import HOOK, PROMPT, call, refuse
from tests.server.workers import Forked, installed

from saescope.load import load_sae
from saescope.models import LanguageModel, model_fingerprint
from saescope.names import home, split_hook
from saescope_mcp.app import build_server
from saescope_mcp.jobs import Run
from saescope_mcp.jobs import runs as runs_module
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

SMALL: dict[str, Any] = {
    "training_tokens": 2048,
    "batch_size": 128,
    "d_sae": 64,
    "k": 4.0,
    "context_size": 32,
}
LONG: dict[str, Any] = SMALL | {
    "training_tokens": 100_000,
    "d_sae": 512,
    "options": ["buffer_tokens=1024", "checkpoint_every_s=1"],
}
ENDLESS: dict[str, Any] = SMALL | {
    "training_tokens": 100_000_000,
    "options": ["buffer_tokens=1024", "checkpoint_every_s=1"],
}
WAIT_S = 40.0

Train = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forked]:
    forked = installed(monkeypatch)
    yield forked
    forked.end()


@pytest.fixture
def train(state: AppState, glass_dir: Path, workers: Forked) -> Train:
    async def call_it(**arguments: Any) -> dict[str, Any]:
        return await call(
            state,
            "train_sae",
            **{"model": str(glass_dir), "hook_name": HOOK, "wait_s": WAIT_S, **arguments},
        )

    return call_it


async def until(state: AppState, job_id: str, reached: Callable[[Run], Any]) -> Run:
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


def weights(reply: dict[str, Any]) -> str:
    return load_sae(reply["path"]).weights_hash


@pytest.fixture(scope="module")
def straight() -> list[str]:
    """The weights of the long run that nothing interrupted, once one has been made: every such run
    gives the same."""
    return []


async def long_weights(train: Train, state: AppState, straight: list[str]) -> str:
    if not straight:
        begun = await train(**LONG, wait_s=0.0)
        straight.append(await final_weights(state, begun["job_id"]))
    return straight[0]


async def final_weights(state: AppState, job_id: str) -> str:
    """Of a run, however long it takes: a machine may be busy."""
    waiting = {"job_id": job_id, "wait_s": WAIT_S, "response_format": "detailed"}
    status = await call(state, "job_status", **waiting)
    while status["state"] in ("queued", "running"):
        status = await call(state, "job_status", **waiting)
    assert status["state"] == "done", status
    return weights(status["result"])


async def stop_and_see(state: AppState, job_id: str) -> Run:
    await call(state, "cancel_job", job_id=job_id)
    return state.runs.get(job_id)


@pytest.mark.slow
async def test_a_dry_run_measures_and_leaves_nothing(train: Train, state: AppState) -> None:
    reply = await train(**SMALL, dry_run=True)
    plan = reply["plan"]
    assert (reply["state"], reply["job_id"], plan["fits"], plan["n_steps"], plan["d_in"]) == (
        "planned",
        None,
        True,
        16,
        128,
    )
    assert plan["eta_s"] == pytest.approx(2048 / plan["tokens_per_s"], rel=1e-2)
    assert plan["memory_bytes"] > 10**8 and plan["disk_bytes"] > 10**6
    assert reply["next"][0].startswith("train_sae(") and "dry_run" not in reply["next"][0]
    assert state.runs.all() == [] and not list((home() / "jobs").glob("train-*"))


@pytest.mark.parametrize("dry_run", [True, False])
async def test_wandb_without_a_login_is_refused_at_the_door(
    settings: Settings,
    glass_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dry_run: bool,
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("saescope.extras.is_installed", lambda package: True)
    state = AppState(settings.model_copy(update={"offline": False}))
    asked = {**SMALL, "options": ["logger=wandb"], "dry_run": dry_run}
    error = await refuse(state, "train_sae", model=str(glass_dir), hook_name=HOOK, **asked)
    assert (error["code"], error["field"]) == ("LOGIN_MISSING", "logger")
    assert "wandb login" in error["hint"] and state.runs.all() == []


async def test_from_a_call_to_a_feature_through_the_protocol(
    settings: Settings, glass_dir: Path, workers: Forked
) -> None:
    async with Client(build_server(settings)) as client:

        async def done(tool: str, **arguments: Any) -> dict[str, Any]:
            result = await client.call_tool(tool, arguments)
            assert not result.is_error and result.structured_content is not None, result.content
            return result.structured_content

        begun = await done(
            "train_sae", model=str(glass_dir), hook_name=HOOK, name="first", wait_s=0.0, **SMALL
        )
        assert begun["state"] == "queued" and "plan" not in begun  # it did not wait for the plan
        brief = await done("job_status", job_id=begun["job_id"], wait_s=WAIT_S)
        assert len(json.dumps(brief).encode()) / 4 < 300 and not {"plan", "result"} & brief.keys()
        assert brief["metrics"].keys() == {"latest"}
        waiting = {"job_id": begun["job_id"], "wait_s": WAIT_S, "response_format": "detailed"}
        status = await done("job_status", **waiting)
        assert (status["state"], status["sae"], status["step"], status["n_tokens"]) == (
            "done",
            "glassllm-en/2.resid_post/first",
            16,
            2048,
        )
        assert (
            1 < len(status["metrics"]["history"]) <= 20 and status["metrics"]["latest"]["l0"] == 4
        )
        loaded = await done("load_sae", path=status["result"]["path"], model=str(glass_dir))
        assert loaded["sae"] == status["sae"] and loaded["d_sae"] == 64
        assert (await done("top_features", sae=status["sae"], text=PROMPT))["features"]


async def test_job_status_carries_what_the_call_would_have_returned(
    train: Train, state: AppState
) -> None:
    reply = await train(**SMALL)
    assert (reply["state"], reply["evidence"]) == ("done", "observed")
    status = await call(state, "job_status", job_id=reply["job_id"], response_format="detailed")
    assert status["result"] == reply
    again = await call(state, "train_sae", resume=reply["job_id"])  # nothing left to do
    assert again == reply | {"result_id": again["result_id"]}
    assert len(reply["provenance"]["weights_hash"]) == 12 and weights(reply).startswith(
        reply["provenance"]["weights_hash"]
    )


@pytest.mark.slow
async def test_two_runs_of_one_seed_are_one_sae_and_another_seed_is_another(train: Train) -> None:
    a, b, c = [weights(await train(**SMALL, seed=seed)) for seed in (1, 1, 2)]
    assert a == b != c


@pytest.mark.parametrize(
    "architecture",
    [
        "jumprelu",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("batchtopk", "matryoshka_batchtopk", "standard", "gated")
        ),
    ],
)
async def test_every_architecture_trains(train: Train, architecture: str) -> None:
    reply = await train(
        **{name: value for name, value in SMALL.items() if name != "k"}, architecture=architecture
    )
    assert reply["state"] == "done" and load_sae(reply["path"]).cfg.metadata.hook_name == HOOK


@pytest.mark.slow
async def test_a_skip_transcoder_is_trained_between_two_sites(train: Train) -> None:
    sites = {"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    reply = await train(**SMALL, **sites, options=["skip=true"])
    cfg = load_sae(reply["path"]).cfg
    assert (cfg.transcoder, cfg.skip, cfg.metadata.hook_name_out) == (
        True,
        True,
        sites["hook_name_out"],
    )


async def test_a_training_loads_no_layer_beyond_its_site(
    train: Train, glass: LanguageModel
) -> None:
    """What it knew of its model is what the whole model's first layers are known by."""
    reply = await train(**SMALL)
    layer, _ = split_hook(HOOK)
    assert layer is not None and layer + 1 < glass.n_layers
    known = load_sae(reply["path"]).cfg.metadata.model_fingerprint
    assert known == model_fingerprint(glass, layer + 1) and known.startswith(f"{layer + 1}:")


async def test_what_is_saved_names_no_folder_of_this_machine(train: Train, sae_dir: Path) -> None:
    text = sae_dir.parent / "stories.txt"
    text.write_text("Once upon a time there was a fox. " * 400)
    reply = await train(**SMALL, dataset=str(text))
    saved = (Path(reply["path"]) / "cfg.json").read_text()
    assert str(sae_dir.parent) not in saved and '"dataset_path": "stories.txt"' in saved


@pytest.mark.parametrize(
    ("more", "code", "field"),
    [
        ({"hook_name": "blocks.7.hook_resid_post"}, "HOOK_NOT_FOUND", "hook_name"),
        ({"options": ["lp_nrm=2"]}, "UNKNOWN_OPTION", "options"),
        ({"options": ["keep_checkpoints=0"]}, "CONFIG_INVALID", "keep_checkpoints"),
        ({"dataset": "/etc"}, "PATH_NOT_ALLOWED", "dataset"),
        ({"dataset": "hf:owner/name"}, "NOT_CACHED_OFFLINE", "dataset"),
        ({"k": 65.0}, "CONFIG_INVALID", "k"),
        ({"context_size": 5000}, "OUT_OF_RANGE", "context_size"),
        ({"device": "cuda:99"}, "DEVICE_UNAVAILABLE", "device"),
    ],
)
async def test_what_cannot_be_trained_is_refused_at_once_and_leaves_nothing(
    state: AppState, glass_dir: Path, workers: Forked, more: dict[str, Any], code: str, field: str
) -> None:
    error = await refuse(
        state, "train_sae", **{"model": str(glass_dir), "hook_name": HOOK, **SMALL, **more}
    )
    assert (error["code"], error["field"]) == (code, field)
    assert state.runs.all() == []


async def test_a_dry_run_keeps_no_name_and_its_next_call_works(
    state: AppState, glass_dir: Path, workers: Forked
) -> None:
    asked = {"model": str(glass_dir), "hook_name": HOOK, "name": "mine", **SMALL}
    began = time.monotonic()
    begun = await call(state, "train_sae", **asked, dry_run=True, wait_s=0.0)
    assert time.monotonic() - began < 5 and begun["state"] == "queued"
    planned = await call(state, "job_status", job_id=begun["job_id"], wait_s=WAIT_S)
    assert planned["state"] == "done" and "Dry run" in planned["summary"]
    step = ast.parse(planned["next"][0], mode="eval").body
    assert isinstance(step, ast.Call)
    said = {word.arg or "": ast.literal_eval(word.value) for word in step.keywords}
    assert said["name"] == "mine" and "dry_run" not in said
    started = await call(state, "train_sae", **said, wait_s=0.0)
    assert started["name"] == "mine"
    assert [run.id for run in state.runs.all()] == [started["job_id"]]
    await call(state, "cancel_job", job_id=started["job_id"])


async def test_a_name_is_given_once(train: Train, state: AppState, glass_dir: Path) -> None:
    await train(**SMALL, name="mine")
    error = await refuse(state, "train_sae", model=str(glass_dir), hook_name=HOOK, name="mine")
    assert error["code"] == "EXISTS" and 'name="mine-2"' in error["hint"]


@pytest.mark.slow
async def test_an_sae_never_overwrites_what_took_its_name_meanwhile(
    train: Train, state: AppState
) -> None:
    job_id = (await train(**SMALL | {"training_tokens": 20_000}, name="mine", wait_s=0.0))["job_id"]
    other = home() / "saes" / "mine"
    other.mkdir(parents=True)
    (other / "cfg.json").write_text("another's")
    waiting = {"job_id": job_id, "wait_s": WAIT_S, "response_format": "detailed"}
    status = await call(state, "job_status", **waiting)
    assert (
        other / "cfg.json"
    ).read_text() == "another's" and "Something else is called 'mine'" in status["warnings"][-1]
    path = Path(status["result"]["path"])
    assert path.name == f"mine-{job_id[-6:]}" and load_sae(path).weights_hash.startswith(
        status["result"]["provenance"]["weights_hash"]
    )


@pytest.mark.slow
async def test_a_table_lost_during_a_run_is_made_anew_and_no_second_worker_starts(
    train: Train, state: AppState
) -> None:
    job_id = (await train(**ENDLESS, wait_s=0.0))["job_id"]
    pid = (await until(state, job_id, lambda run: run.progress.get("step", 0) > 2)).pid
    state.runs.table.path.unlink()
    run = await until(state, job_id, lambda run: run.progress.get("step", 0) > 4)
    assert (run.state, run.pid) == ("running", pid)
    assert (await call(state, "train_sae", resume=job_id, wait_s=0.0))["state"] == "running"
    (state.runs.folder(job_id) / "lock").unlink()  # its worker gives up: another could start now
    run = await until(state, job_id, lambda run: not run.live and not _is_running(pid))
    assert run.state == "interrupted"


def _is_running(pid: int | None) -> bool:
    return Path(f"/proc/{pid}/fd/0").exists()  # gone with a zombie's


async def test_a_run_that_does_not_fit_is_refused_with_what_to_change(
    state: AppState, glass_dir: Path, workers: Forked, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {"model": str(glass_dir), "hook_name": HOOK, **SMALL, "d_sae": 2**24}
    error = await refuse(state, "train_sae", **wide)
    assert error["code"] == "OUT_OF_MEMORY_BUDGET"
    plan = await call(state, "train_sae", **wide, dry_run=True)
    assert (
        not plan["plan"]["fits"] and plan["plan"]["tokens_per_s"] is None and plan["plan"]["change"]
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_cancelled_in_the_middle_it_goes_on_to_the_same_sae(
    train: Train, state: AppState, straight: list[str]
) -> None:
    expected = await long_weights(train, state, straight)
    job_id = (await train(**LONG, wait_s=0.0))["job_id"]
    await until(state, job_id, lambda run: run.progress.get("step", 0) > 5)
    stopped = await call(state, "cancel_job", job_id=job_id)
    assert (
        stopped["state"] == "cancelled"
        and stopped["checkpoint"]
        and f'train_sae(resume="{job_id}")' in stopped["next"]
    )
    at = state.runs.get(job_id).progress["step"]
    assert 5 < at < 781 and stopped["checkpoint"].endswith(f"ckpt-{at:08d}")
    assert (await call(state, "cancel_job", job_id=job_id))[
        "state"
    ] == "cancelled"  # once more changes nothing
    await call(state, "train_sae", resume=job_id, wait_s=0.0)
    assert await final_weights(state, job_id) == expected


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in (1, 2))]
)
async def test_killed_at_random_moments_it_goes_on_to_the_same_sae(
    train: Train, state: AppState, straight: list[str], seed: int
) -> None:
    expected = await long_weights(train, state, straight)
    assert await killed(train, state, n=5, seed=seed) == expected


async def killed(train: Train, state: AppState, *, n: int, seed: int) -> str:
    """The weights of the long run, killed so often and resumed each time."""
    moments = random.Random(seed)
    job_id = (await train(**LONG, wait_s=0.0))["job_id"]
    for _ in range(n):
        run = await until(state, job_id, lambda run: run.phase == "training" or not run.live)
        await asyncio.sleep(moments.uniform(0, 1.5))
        if not state.runs.get(job_id).live:
            break
        os.kill(run.pid or 0, signal.SIGKILL)
        seen = await until(AppState(state.settings), job_id, lambda run: not run.live)
        if seen.state == "done":
            break
        assert seen.state == "interrupted"
        await call(state, "train_sae", resume=job_id, wait_s=0.0)
    return await final_weights(state, job_id)


async def test_sigterm_leaves_a_complete_checkpoint_and_an_interrupted_run(
    train: Train, state: AppState
) -> None:
    job_id = (await train(**ENDLESS, wait_s=0.0))["job_id"]
    run = await until(state, job_id, lambda run: run.progress.get("step", 0) > 2)
    os.kill(run.pid or 0, signal.SIGTERM)
    run = await until(state, job_id, lambda run: not run.live)
    assert (
        run.state == "interrupted"
        and run.checkpoint
        and Path(run.checkpoint, "MANIFEST.json").is_file()
    )
    assert (await call(state, "cancel_job", job_id=job_id))["state"] == "cancelled"


@pytest.mark.slow
async def test_stopped_while_the_buffer_fills_it_loses_nothing(
    train: Train, state: AppState
) -> None:
    job_id = (
        await train(
            **SMALL | {"training_tokens": 10_000_000}, wait_s=0.0, options=["buffer_tokens=2000000"]
        )
    )["job_id"]
    await until(state, job_id, lambda run: run.message.startswith("filling the buffer"))
    run = await stop_and_see(state, job_id)
    assert (run.state, run.progress["step"]) == ("cancelled", 0) and run.checkpoint


async def test_a_running_job_tells_step_curve_and_time_to_go(train: Train, state: AppState) -> None:
    begun = await train(**ENDLESS, wait_s=0.0)
    await until(state, begun["job_id"], lambda run: run.progress.get("metrics", {}).get("history"))
    status = await call(state, "job_status", job_id=begun["job_id"])
    assert begun["state"] in ("queued", "running")  # it was asked for at once
    assert (status["state"], status["n_steps"]) == ("running", 781_250)
    assert status["eta_s"] > 10 and status["metrics"]["latest"]["explained_variance"] < 1
    assert (await call(state, "server_status"))["jobs"][0]["job_id"] == begun["job_id"]
    again = await call(state, "train_sae", resume=begun["job_id"], wait_s=0.0)
    assert again["state"] == "running"  # left alone
    await stop_and_see(state, begun["job_id"])


@pytest.mark.slow
async def test_one_trains_four_wait_and_a_sixth_is_refused(
    train: Train, state: AppState, glass_dir: Path
) -> None:
    state.settings = state.settings.model_copy(update={"max_queued_jobs": 1})
    first = (await train(**ENDLESS, wait_s=0.0))["job_id"]
    await until(state, first, lambda run: run.phase == "training")
    second = (await train(**SMALL, wait_s=0.0))["job_id"]
    await until(state, second, lambda run: run.phase == "waiting")
    assert (await call(state, "job_status", job_id=second))["state"] == "queued"
    error = await refuse(state, "train_sae", model=str(glass_dir), hook_name=HOOK)
    assert error["code"] == "TOO_MANY_JOBS" and first in error["hint"]
    await stop_and_see(state, first)
    assert (await call(state, "job_status", job_id=second, wait_s=WAIT_S))["state"] == "done"


async def test_two_servers_that_resume_one_run_start_one_worker(
    train: Train, state: AppState
) -> None:
    job_id = (await train(**ENDLESS, wait_s=0.0))["job_id"]
    await until(state, job_id, lambda run: run.progress.get("step", 0) > 2)
    await stop_and_see(state, job_id)
    started = list[str]()
    start_worker = runs_module.start_worker
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            runs_module,
            "start_worker",
            lambda run_id, folder: started.append(run_id) or start_worker(run_id, folder),
        )
        async with anyio.create_task_group() as group:
            for server in (state, AppState(state.settings)):
                group.start_soon(
                    lambda server=server: call(server, "train_sae", resume=job_id, wait_s=0.0)
                )
    assert started == [job_id]
    await until(state, job_id, lambda run: run.phase == "training")
    second = start_worker(job_id, state.runs.folder(job_id))
    for _ in range(500):
        if second.poll() is not None:
            break
        await asyncio.sleep(0.02)
    assert second.poll() == 3 and state.runs.get(job_id).live
    await stop_and_see(state, job_id)


async def test_a_new_server_sees_the_runs_of_the_old_one(train: Train, state: AppState) -> None:
    job_id = (await train(**ENDLESS, wait_s=0.0))["job_id"]
    await until(state, job_id, lambda run: run.progress.get("step", 0) > 2)
    state.close()
    restarted = AppState(state.settings)
    assert (await call(restarted, "job_status", job_id=job_id))["state"] == "running"
    assert (await stop_and_see(restarted, job_id)).state == "cancelled"


@pytest.mark.slow
async def test_a_full_disk_ends_the_run_and_leaves_its_last_checkpoint(
    train: Train, state: AppState, workers: Forked
) -> None:
    job_id = (await train(**ENDLESS, wait_s=0.0))["job_id"]
    await until(state, job_id, lambda run: run.progress.get("step", 0) > 2)
    kept = Path((await stop_and_see(state, job_id)).checkpoint or "")
    before = sorted(kept.parent.iterdir())
    workers.fsize = 200_000
    async with Client(build_server(state=state)) as client:
        await client.call_tool("train_sae", {"resume": job_id, "wait_s": 0.0})
    await until(state, job_id, lambda run: not run.live)
    status = await call(state, "job_status", job_id=job_id)
    assert (status["state"], status["error"]["code"]) == ("failed", "DISK_FULL")
    assert f'train_sae(resume="{job_id}")' in status["error"]["hint"]
    assert sorted(kept.parent.iterdir()) == before
    workers.fsize = 0
    assert (await call(state, "train_sae", resume=job_id, wait_s=0.0))["state"] in (
        "queued",
        "running",
    )
    await until(state, job_id, lambda run: run.message == "training")
    assert (await stop_and_see(state, job_id)).state == "cancelled"


@pytest.mark.slow
async def test_a_torn_checkpoint_is_passed_over_and_said_and_none_left_is_an_error(
    train: Train, state: AppState
) -> None:
    job_id = (await train(**ENDLESS, wait_s=0.0))["job_id"]
    await until(
        state,
        job_id,
        lambda run: run.checkpoint and run.progress["step"] > int(run.checkpoint[-8:]) + 5,
    )
    await stop_and_see(state, job_id)
    older, newest = sorted((state.runs.folder(job_id) / "checkpoints").glob("ckpt-*"))
    (newest / "sae.safetensors").write_bytes(b"torn")
    assert (await call(state, "train_sae", resume=job_id, wait_s=0.0))["state"] in (
        "queued",
        "running",
    )
    run = await until(
        state, job_id, lambda run: any("damaged" in warning for warning in run.warnings)
    )
    assert older.name in run.warnings[-1]
    await stop_and_see(state, job_id)
    for checkpoint in older.parent.glob("ckpt-*"):
        (checkpoint / "MANIFEST.json").write_text("{}")
    error = await refuse(state, "train_sae", resume=job_id)
    assert error["code"] == "CHECKPOINT_CORRUPT"


async def test_a_resumed_run_keeps_its_settings(
    train: Train, state: AppState, glass_dir: Path
) -> None:
    job_id = (await train(**SMALL))["job_id"]
    error = await refuse(state, "train_sae", resume=job_id, lr=0.1)
    assert (
        error["code"] == "RESUME_MISMATCH"
        and error["field"] == "lr"
        and f'train_sae(resume="{job_id}")' in error["hint"]
    )
    assert (await call(state, "train_sae", resume=job_id, hook_name=HOOK, model=str(glass_dir)))[
        "state"
    ] == "done"
    assert (await refuse(state, "train_sae", resume="train-000000"))["code"] == "JOB_NOT_FOUND"


async def test_a_run_outlives_the_call_that_started_it(train: Train, state: AppState) -> None:
    with anyio.move_on_after(0.5):
        await train(**ENDLESS)
    (run,) = state.runs.all()
    await until(state, run.id, lambda run: run.phase == "training")
    await stop_and_see(state, run.id)


@pytest.mark.slow
async def test_a_real_worker_survives_the_process_that_started_it(
    settings: Settings, glass_dir: Path
) -> None:
    """Not forked from a warm process, as in the other tests: the command that the server uses."""
    state = AppState(settings)
    reply = await call(
        state, "train_sae", model=str(glass_dir), hook_name=HOOK, wait_s=0.0, **SMALL
    )
    run = state.runs.get(reply["job_id"])
    assert run.pid and os.getsid(run.pid) == run.pid != os.getsid(0)
    started = time.monotonic()
    assert (await call(state, "job_status", job_id=run.id, wait_s=WAIT_S))["state"] == "done"
    assert time.monotonic() - started < WAIT_S


SET: dict[str, Any] = SMALL | {
    "hook_name": "blocks.{layer}.mlp.hook_in",
    "hook_name_out": "blocks.{layer}.hook_mlp_out",
    "layers": "0,2",
}


async def test_a_set_is_trained_as_one_job_and_each_of_its_saes_loads(
    train: Train, state: AppState, glass_dir: Path
) -> None:
    planned = await train(**SET, dry_run=True)
    assert (planned["plan"]["n_saes"], planned["plan"]["n_passes"]) == (2, 1)
    assert "for 2 SAEs" in planned["summary"]
    done = await train(**SET, name="circuit")
    assert done["state"] == "done" and done["sae"] is None
    assert done["saes"] == ["glassllm-en/0.mlp.in/circuit", "glassllm-en/2.mlp.in/circuit"]
    assert "2 of 2 SAEs are trained" in done["summary"]
    assert done["provenance"]["sae"] is None
    for layer, line in zip((0, 2), done["members"], strict=True):
        assert re.match(rf"layer_{layer}: explained variance [\d.-]+, CE score [\d.-]+, L0 4", line)
        folder = Path(done["path"]) / f"layer_{layer}"
        assert sorted(path.name for path in folder.iterdir()) == [
            "cfg.json",
            "sae_weights.safetensors",
        ]
    status = await call(state, "job_status", job_id=done["job_id"])
    assert status["saes"] == done["saes"] and status["members"] == done["members"]
    folder = str(Path(done["path"]) / "layer_2")
    loaded = await call(state, "load_sae", path=folder, model=str(glass_dir))
    assert loaded["sae"] == done["saes"][1]
    whole = await call(state, "load_sae", path=done["path"], model=str(glass_dir), layers="all")
    assert whole["sae"] == "glassllm-en/all.mlp.in/circuit"
    assert done["next"][0].startswith("load_sae(path=") and 'layers="all"' in done["next"][0]


async def test_options_list_several_saes_of_one_site(train: Train) -> None:
    one_k = {name: value for name, value in SMALL.items() if name != "k"}
    done = await train(**one_k, options=["k=4,8"], name="pair")
    assert [line.partition(":")[0] for line in done["members"]] == ["k4", "k8"]
    assert [path.name for path in sorted(Path(done["path"]).iterdir())] == ["k4", "k8"]


async def test_a_cancelled_set_goes_on_to_the_same_saes(train: Train, state: AppState) -> None:
    of_set = {name: SET[name] for name in ("hook_name", "hook_name_out", "layers")}
    long = LONG | of_set | {"training_tokens": 25_600, "d_sae": 64}
    straight = await train(**long)
    job_id = (await train(**long, wait_s=0.0))["job_id"]
    await until(state, job_id, lambda run: run.progress.get("step", 0) > 5)
    running = await call(state, "job_status", job_id=job_id)
    assert [line.partition(":")[0] for line in running["members"]] == ["layer_0", "layer_2"]
    stopped = await stop_and_see(state, job_id)
    assert stopped.state == "cancelled" and 5 < stopped.progress["step"] < 200
    resumed = await call(state, "train_sae", resume=job_id, wait_s=WAIT_S)
    assert resumed["state"] == "done"
    for name in ("layer_0", "layer_2"):
        one, other = (load_sae(Path(run["path"]) / name) for run in (straight, resumed))
        assert one.weights_hash == other.weights_hash


@pytest.mark.parametrize(
    ("said", "code", "field"),
    [
        ({"layers": ""}, "CONFLICTING_ARGUMENTS", "hook_name"),
        ({"layers": "0-99"}, "INVALID_LAYERS", "layers"),
        ({"hook_name": "blocks.1.hook_resid_post"}, "CONFLICTING_ARGUMENTS", "hook_name"),
        ({"k": 4.0, "options": ["k=4,8"]}, "CONFLICTING_ARGUMENTS", "k"),
        ({"options": ["seed=1,1"]}, "INVALID_ARGUMENT", "options"),
        ({"options": ["cache_activations=true"]}, "CONFLICTING_ARGUMENTS", "cache_activations"),
    ],
)
async def test_a_set_that_cannot_be_is_refused_at_once(
    state: AppState, glass_dir: Path, said: dict[str, Any], code: str, field: str
) -> None:
    error = await refuse(state, "train_sae", **{"model": str(glass_dir), **SET, **said})
    assert (error["code"], error["field"]) == (code, field)
