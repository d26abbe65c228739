"""Clocks set by years, forwards and back, while a training runs, a lock is held or an answer is
kept: nothing hangs, ages or is lost."""

import asyncio
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.attack.conftest import Attack
from tests.server.helpers import HOOK, call
from tests.server.knowing import Bench
from tests.server.test_jobs import a_run
from tests.server.workers import Forked, installed, wrong_clock

from saescope.hub import download
from saescope.load import load_sae
from saescope.neuronpedia.cache import ReplyCache
from saescope_mcp.jobs import FileLock, Runs
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

YEAR_S = 365 * 86400.0
JUMPS = (-25 * YEAR_S, -YEAR_S, -60.0, 60.0, YEAR_S, 25 * YEAR_S)
RUN: dict[str, Any] = {
    "hook_name": HOOK,
    "training_tokens": 60_000,
    "batch_size": 128,
    "d_sae": 256,
    "k": 4.0,
    "context_size": 32,
    "options": ["buffer_tokens=1024", "checkpoint_every_s=1"],
    "wait_s": 0.0,
}


def durations(said: Any) -> list[float]:
    """Every duration in a document, at any depth."""
    if isinstance(said, list):
        return [found for each in said for found in durations(each)]
    if not isinstance(said, dict):
        return []
    own = [value for name, value in said.items() if name.endswith("_s") and value is not None]
    return [float(value) for value in own if not isinstance(value, list | dict)] + [
        found for each in said.values() for found in durations(each)
    ]


async def followed(state: AppState, run_id: str, clock: Path, attack: Attack) -> None:
    """Until the run has ended, with a jump every other moment."""
    while True:
        with attack.case(f"{run_id} at {clock.read_text()}"):
            said = await call(state, "job_status", job_id=run_id)
            assert said["state"] in ("queued", "running", "done"), said
            assert min([0.0, *durations(said)]) == 0, said
            assert (await call(state, "server_status"))["jobs"]
        if said["state"] not in ("queued", "running"):
            return
        whole = clock.with_suffix(".new")
        whole.write_text(str(attack.rng.choice(JUMPS)))
        whole.replace(clock)
        await asyncio.sleep(attack.rng.uniform(0.05, 0.4))


@pytest.mark.attack
async def test_trainings_while_the_clock_jumps(
    attack: Attack, glass_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers: Forked = installed(monkeypatch)
    state = AppState(Settings(read_roots=(glass_dir.parent, tmp_path), offline=True))
    asked, clock = RUN | {"model": str(glass_dir)}, tmp_path / "clock"
    whole = await call(state, "train_sae", **asked, name="whole")
    while (run := state.runs.get(whole["job_id"])).live:
        await asyncio.sleep(0.1)
    clock.write_text("0")
    workers.clock = str(clock)
    monkeypatch.setattr(time, "time", wrong_clock(str(clock)))
    for name in ("jumps", "waits"):
        await call(state, "train_sae", **asked, name=name)
    for each in reversed(state.runs.all()):
        await followed(state, each.id, clock, attack)
        with attack.case(f"{each.name}, its weights"):
            made = load_sae(state.runs.get(each.id).result["path"], device="cpu")
            assert made.weights_hash == load_sae(run.result["path"], device="cpu").weights_hash


async def test_calls_under_a_clock_that_is_another_at_every_look(
    attack: Attack, bench: Bench, glass_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, sae = await bench.loaded(glass_dir, indexed=True)
    calls: dict[str, dict[str, Any]] = {
        "label_feature": {"sae": sae, "feature": 1, "text": "kings"},
        "top_features": {"sae": sae, "text": " King of the sea"},
        "describe_feature": {"sae": sae, "feature": 1},
        "job_status": {},
    }
    expected = {tool: await call(state, tool, **arguments) for tool, arguments in calls.items()}
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + attack.rng.choice(JUMPS))
    for turn in range(5):
        for tool, arguments in calls.items():
            with attack.case(f"{tool}, turn {turn}"):
                assert await call(state, tool, **arguments) == expected[tool]


@pytest.mark.parametrize("jump_s", JUMPS)
def test_what_is_kept_stays_what_it_was(
    jump_s: float, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"verified"
    blob = tmp_path / hashlib.sha256(content).hexdigest()
    blob.write_bytes(content)
    then = time.time() + jump_s
    os.utime(blob, (then, then))
    download.mark_verified(blob)
    cache = ReplyCache("https://somewhere")
    cache.put("name", b"answer")
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + jump_s)
    monkeypatch.setattr(download, "_as_promised", None)  # it is not hashed once more
    assert download.check_cached(blob, "a file", may_remove=False) == blob
    kept = cache.get("name")
    assert kept is not None and kept.content == b"answer"
    assert kept.age_s == pytest.approx(abs(jump_s), abs=30)


def test_a_lock_is_waited_for_as_long_as_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = FileLock(tmp_path / "lock")
    assert held.take()
    jumps = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: (-1) ** next(jumps) * YEAR_S)
    began = time.monotonic()
    assert not FileLock(tmp_path / "lock").take(within_s=0.2)
    assert 0.2 <= time.monotonic() - began < 5


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc")
def test_a_worker_on_its_way_is_not_given_up_because_of_the_clock(tmp_path: Path) -> None:
    runs, idle = Runs(tmp_path / "jobs"), "import sys; sys.stdin.read()"
    command = [sys.executable, "-c", idle, "train-alive"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as alive:
        for run_id in ("train-alive", "train-other"):
            long_ago = time.time() - YEAR_S
            row = a_run(run_id, queued=long_ago, heartbeat=long_ago, pid=alive.pid)
            runs.table.add(row, most_live=2)
        states = {run.id: run.state for run in runs.all()}
        alive.communicate()
    assert states == {"train-alive": "queued", "train-other": "interrupted"}
