"""Workers killed at any moment of a training or an indexing: everything is readable afterwards, and
a resume ends as an undisturbed run."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.attack.conftest import Attack
from tests.server.helpers import HOOK, call, save_random_sae
from tests.server.workers import Forked, installed

from saescope.load import load_sae
from saescope_mcp.jobs import Run
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

RUN: dict[str, Any] = {
    "hook_name": HOOK,
    "training_tokens": 40_000,
    "batch_size": 128,
    "d_sae": 256,
    "k": 4.0,
    "context_size": 32,
    "options": ["buffer_tokens=1024", "checkpoint_every_s=1"],
}
LONGEST_LIFE_S = 2.5
MANY = 10
"""Kills of one test; 70 of workers, and 30 of servers in test_killed_servers.py."""
GIVE_UP_S = 240.0


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Forked:
    return installed(monkeypatch)


@pytest.fixture
def state(glass_dir: Path, tmp_path: Path) -> AppState:
    return AppState(Settings(read_roots=(glass_dir.parent, tmp_path), offline=True))


async def ended(state: AppState, run_id: str, *, within_s: float = GIVE_UP_S) -> Run:
    waited = 0.0
    while (run := state.runs.get(run_id)).live and waited < within_s:
        await asyncio.sleep(0.05)
        waited += 0.05
    return run


async def killed(state: AppState, run_id: str, after_s: float) -> bool:
    """Whether its worker got a SIGKILL at that moment of its life: it may have ended before."""
    run = await ended(state, run_id, within_s=after_s)
    if not run.live or run.pid is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(run.pid, signal.SIGKILL)
    run = await ended(state, run_id)
    assert not run.live, f"{run.state} long after its worker was killed"
    return run.state == "interrupted"


async def readable(state: AppState, run_id: str) -> None:
    """Nothing that a user may ask about fails."""
    assert (await call(state, "job_status", job_id=run_id))["job_id"] == run_id
    assert (await call(state, "job_status"))["total"] >= 1
    assert (await call(state, "server_status"))["jobs"]


async def kill_trainings(state: AppState, glass_dir: Path, attack: Attack) -> None:
    asked = RUN | {"model": str(glass_dir), "wait_s": 0.0}
    whole = await ended(state, (await call(state, "train_sae", **asked, name="whole"))["job_id"])
    assert whole.state == "done", f"{whole.message} {whole.error}"
    expected, kills, tries = load_sae(whole.result["path"]).weights_hash, 0, 0
    run_id = (await call(state, "train_sae", **asked, name="cut"))["job_id"]
    while kills < MANY and (tries := tries + 1) < 5 * MANY:
        with attack.case(f"{run_id}, kill {kills}"):
            kills += await killed(state, run_id, attack.rng.uniform(0, LONGEST_LIFE_S))
            await readable(state, run_id)
            if (run := state.runs.get(run_id)).state == "done":
                assert load_sae(run.result["path"]).weights_hash == expected
                another = await call(state, "train_sae", **asked, name=f"cut-{tries}")
                run_id = another["job_id"]
            else:
                await call(state, "train_sae", resume=run_id, wait_s=0.0)
    with attack.case("the end"):
        run = await ended(state, run_id)
        assert run.state == "done", f"{run.state}: {run.message} {run.error}"
        assert load_sae(run.result["path"]).weights_hash == expected
        assert kills == MANY


async def kill_indexings(state: AppState, sae: str, attack: Attack) -> None:
    asked: dict[str, Any] = {"sae": sae, "n_tokens": 20_000, "wait_s": 0.0}
    kills, tries = 0, 0
    while kills < MANY and (tries := tries + 1) < 5 * MANY:
        with attack.case(f"kill {kills}"):
            run_id = (await call(state, "index_features", **asked))["job_id"]
            kills += await killed(state, run_id, attack.rng.uniform(0, LONGEST_LIFE_S))
            await readable(state, run_id)
            assert (await call(state, "describe_feature", sae=sae, feature=1))["feature"] == 1
            if state.runs.get(run_id).state == "done":
                asked["n_tokens"] += 1000
    with attack.case("the end"):
        run = await ended(state, (await call(state, "index_features", **asked))["job_id"])
        assert run.state == "done", f"{run.state}: {run.message} {run.error}"
        assert (await call(state, "describe_feature", sae=sae, feature=1))["corpus"]
        assert kills == MANY


@pytest.mark.attack
@pytest.mark.parametrize("part", range(4))
async def test_killed_trainings(
    part: int, state: AppState, workers: Forked, glass_dir: Path, attack: Attack
) -> None:
    await kill_trainings(state, glass_dir, attack)


@pytest.mark.attack
@pytest.mark.parametrize("part", range(3))
async def test_killed_indexings(
    part: int, state: AppState, workers: Forked, glass_dir: Path, tmp_path: Path, attack: Attack
) -> None:
    path = save_random_sae(tmp_path / "random")
    loaded = await call(state, "load_sae", path=str(path), model=str(glass_dir), wait_s=55.0)
    await kill_indexings(state, loaded["sae"], attack)
