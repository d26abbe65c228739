"""The table of runs, locks, and what becomes of a run whose process is gone."""

import errno
import os
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.server.helpers import call, refuse
from typer.testing import CliRunner

from saescope.errors import NotFoundError, ResourceError
from saescope.names import home
from saescope_mcp.cli.commands import app
from saescope_mcp.jobs import ROW_FILE, FileLock, Run, Runs, RunTable
from saescope_mcp.jobs import runs as runs_module
from saescope_mcp.replies.pictures import of_training
from saescope_mcp.state import AppState

DONE: dict[str, Any] = {"started": 1.0, "ended": 3.0}


def a_run(run_id: str = "train-000001", **more: Any) -> Run:
    now = time.time()
    said: dict[str, Any] = {
        "tool": "train_sae",
        "state": "queued",
        "created": now,
        "queued": now,
        "heartbeat": now,
    }
    return Run(id=run_id, **said | more)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "jobs")


def test_a_row_comes_back_as_it_was_written(runs: Runs) -> None:
    run = a_run(
        request={"k": 4.0},
        warnings=["a"],
        progress={"metrics": {"history": [{"step": 1}]}},
        dry_run=True,
        checkpoint="x",
    )
    assert runs.table.add(run, most_live=5)
    assert runs.table.get(run.id) == run
    assert runs.table.update(run.id, state="done", cancel=True, result={"sae": "a"})
    assert runs.table.get(run.id) == replace(run, state="done", cancel=True, result={"sae": "a"})


def test_there_is_room_for_so_many_live_runs_and_a_name_is_taken_once(runs: Runs) -> None:
    assert runs.table.add(a_run("a", name="x"), most_live=2)
    assert not runs.table.add(a_run("b", name="x"), most_live=2)
    assert runs.table.add(a_run("c"), most_live=2)
    assert not runs.table.add(a_run("d"), most_live=2)
    runs.table.update("a", state="failed")
    assert runs.table.add(
        a_run("e", name="x"), most_live=2
    )  # the failed one left nothing of that name


def test_only_one_of_two_revives_a_run(runs: Runs) -> None:
    runs.table.add(a_run(state="interrupted"), most_live=1)
    assert runs.table.revive("train-000001", most_live=1, state="queued")
    assert runs.table.revive("train-000001", most_live=2, state="queued") is False
    assert runs.table.revive("train-000001", most_live=1, state="queued") is None


def test_a_lock_is_one_holders_until_it_lets_go(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert not first.is_held() and first.take()
    assert not second.take() and second.is_held()
    first.release()
    assert second.take()
    second.release()


def test_a_run_without_its_worker_is_interrupted(runs: Runs) -> None:
    runs.table.add(a_run(state="running", heartbeat=5.0), most_live=1)
    assert runs.get("train-000001").state == "interrupted"
    assert runs.table.get("train-000001") == runs.get("train-000001")


def test_a_run_whose_lock_is_held_is_alive_however_long_it_is_silent(runs: Runs) -> None:
    runs.table.add(a_run(state="running", heartbeat=5.0), most_live=1)
    lock = runs.lock("train-000001")
    assert lock.take()
    assert runs.get("train-000001").state == "running"
    lock.release()


def test_a_worker_has_some_seconds_to_start(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.table.add(a_run(), most_live=1)
    assert runs.get("train-000001").state == "queued"
    monkeypatch.setattr(runs_module, "STARTING_S", 0.0)
    assert runs.get("train-000001").state == "interrupted"


def test_on_a_slow_machine_a_worker_may_take_longer_while_its_process_is_there(runs: Runs) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    minute_ago = time.time() - 60
    for run_id, more in {
        "a": {"pid": os.getpid()},
        "b": {"pid": gone.pid},
        "c": {"pid": os.getpid(), "state": "running"},
    }.items():
        runs.table.add(a_run(run_id, heartbeat=minute_ago, **more), most_live=3)
    assert {run.id: run.state for run in runs.all()} == {
        "a": "queued",
        "b": "interrupted",
        "c": "interrupted",
    }


def test_a_clock_that_was_set_back_does_not_keep_a_dead_run_waiting(runs: Runs) -> None:
    runs.table.add(a_run(heartbeat=time.time() + 1e6), most_live=1)
    assert runs.get("train-000001").state == "interrupted"


def test_runs_come_back_from_their_folders_when_the_table_is_gone(runs: Runs) -> None:
    kept = a_run("train-000001", state="done", result={"sae": "a"}, checkpoint="x")
    for run in (kept, a_run("train-000002", state="running", heartbeat=5.0)):
        runs.table.add(run, most_live=2)
        runs.folder(run.id).mkdir()
        runs.keep(run)
    (runs.folder("train-000003")).mkdir()
    (runs.folder("train-000003") / ROW_FILE).write_text('{"id": torn')
    runs.table.path.unlink()
    assert {run.id: run.state for run in Runs(runs.root).all()} == {
        "train-000001": "done",
        "train-000002": "interrupted",
    }
    assert runs.table.get("train-000001") == kept
    runs.recover()  # changes nothing that is there
    assert runs.table.get("train-000001") == kept and len(runs.all()) == 2


def test_what_cannot_be_written_down_is_told_all_the_same(runs: Runs) -> None:
    runs.table.add(a_run(state="running", heartbeat=5.0), most_live=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunTable, "update", raise_full)
        assert runs.get("train-000001").state == "interrupted"
    assert runs.table.all()[0].state == "running"


def raise_full(*_: object, **__: object) -> bool:
    raise ResourceError("The table of jobs cannot be read or written: database or disk is full.")


def test_a_disk_that_fills_up_in_a_transaction_is_named(runs: Runs) -> None:
    runs.table.add(a_run(), most_live=1)
    connect = sqlite3.connect

    def small(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        db = connect(*args, **kwargs)
        db.execute("PRAGMA max_page_count=1")  # as many as there are
        return db

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", small)
        with pytest.raises(ResourceError, match="full"):
            runs.table.update("train-000001", message="x" * 100_000)
    assert runs.get("train-000001").message == "starting"


def test_a_lock_whose_file_is_gone_or_another_is_lost(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.take() and not lock.is_lost()
    lock.path.unlink()
    assert lock.is_lost()
    lock.path.touch()
    assert lock.is_lost()
    lock.release()


def test_a_process_that_cannot_be_started_is_said_and_takes_no_place(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run_id: str, folder: Path) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs_module, "start_worker", full)
    said: dict[str, Any] = {
        "tool": "train_sae",
        "name": "",
        "most_live": 1,
        "request": {},
        "settings": {},
        "dry_run": False,
    }
    for _ in range(2):
        with pytest.raises(ResourceError, match="No space left") as caught:
            runs.start(**said)
        assert caught.value.code == "JOBS_UNAVAILABLE"


async def test_a_status_survives_a_damaged_table(state: AppState) -> None:
    state.runs.root.mkdir(parents=True)
    state.runs.table.path.write_bytes(b"no database" * 1000)
    status = await call(state, "server_status")
    assert status["jobs"] == [] and "has been made anew" in status["warnings"][0]


async def test_a_concise_status_lists_the_jobs_that_are_not_done(state: AppState) -> None:
    failed = a_run("train-f", state="failed", created=1.0, **DONE)
    state.runs.table.restore([a_run("train-d", state="done", created=2.0, **DONE), failed])
    listed = [
        [row["job_id"] for row in (await call(state, "server_status", **kind))["jobs"]]
        for kind in ({}, {"response_format": "detailed"})
    ]
    assert listed == [["train-f"], ["train-d", "train-f"]]


async def test_many_jobs_are_told_page_by_page(state: AppState) -> None:
    state.runs.table.restore(
        [a_run(f"train-{i:06}", state="done", created=float(i), **DONE) for i in range(60)]
    )
    first = await call(state, "job_status")
    assert (first["total"], len(first["jobs"]), first["next_offset"], first["next"]) == (
        60,
        25,
        25,
        ["job_status(offset=25)"],
    )
    last = await call(state, "job_status", offset=50)
    assert [row["job_id"] for row in last["jobs"]] == [
        f"train-{i:06}" for i in range(9, -1, -1)
    ] and not last["truncated"]


def test_an_unknown_job_names_the_nearest(runs: Runs) -> None:
    runs.table.add(a_run(), most_live=1)
    with pytest.raises(NotFoundError) as caught:
        runs.get("train-000002")
    assert caught.value.hint == 'job_status(job_id="train-000001")'


def test_a_table_that_cannot_be_read_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError) as caught:
        RunTable(tmp_path / "file" / "jobs.db").add(a_run(), most_live=1)
    assert caught.value.code == "JOBS_UNAVAILABLE"


async def test_loads_and_trainings_are_one_list(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    await call(state, "load_sae", path=str(sae_dir), model=str(glass_dir))
    state.runs.table.add(a_run(state="done", **DONE), most_live=1)
    listed = await call(state, "job_status")
    assert (
        sorted(row["tool"] for row in listed["jobs"]) == ["load_sae", "train_sae"]
        and listed["total"] == 2
    )
    load = next(row["job_id"] for row in listed["jobs"] if row["tool"] == "load_sae")
    assert (await call(state, "cancel_job", job_id=load))[
        "state"
    ] == "done"  # too late: nothing changes
    assert (await refuse(state, "cancel_job", job_id="train-9"))["code"] == "JOB_NOT_FOUND"


async def test_a_running_load_can_be_cancelled(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    running = await call(state, "load_sae", path=str(sae_dir), model=str(glass_dir), wait_s=0.0)
    assert (await call(state, "cancel_job", job_id=running["job_id"]))["state"] == "cancelled"
    assert (state.models, state.saes) == ({}, {})


async def test_a_silent_process_is_said_to_be_paused(state: AppState) -> None:
    runs = state.runs
    runs.table.add(a_run(state="running", heartbeat=time.time() - 60, started=1.0), most_live=1)
    with runs.lock("train-000001") as lock:
        assert lock.take()
        assert (
            "may be paused" in (await call(state, "job_status", job_id="train-000001"))["summary"]
        )


def test_the_command_line_lists_and_cancels(own_home: Path) -> None:
    Runs(home() / "jobs").table.add(a_run(state="interrupted", **DONE), most_live=1)
    listed = CliRunner().invoke(app, ["job-status", "--json"])
    assert listed.exit_code == 0 and '"train-000001"' in listed.stdout
    cancelled = CliRunner().invoke(app, ["cancel-job", "--job-id", "train-000001", "--json"])
    assert cancelled.exit_code == 0 and '"state": "cancelled"' in cancelled.stdout


@pytest.mark.parametrize(
    ("checkpoint", "step", "n_tokens"),
    [(None, None, None), ("checkpoints/ckpt-00000100", 100, 25_600)],
)
def test_a_resumed_run_says_where_it_goes_on(
    runs: Runs,
    checkpoint: str | None,
    step: int | None,
    n_tokens: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Started:
        pid = os.getpid()

        def poll(self) -> int | None:
            return None

    monkeypatch.setattr(runs_module, "start_worker", lambda run_id, folder: Started())
    cut_off = {"step": 204, "n_steps": 1000, "n_tokens": 204 * 256, "eta_s": 9.0}
    run = a_run(state="interrupted", checkpoint=checkpoint, progress=cut_off)
    runs.table.add(run, most_live=1)
    resumed = runs.resume(run, most_live=1)
    assert (resumed.progress.get("step"), resumed.progress.get("n_tokens")) == (step, n_tokens)


def test_a_training_is_drawn_with_another_over_it(own_home: Path) -> None:
    points = [{"step": step, "loss": 1.0 / (1 + step), "l0": 32.0} for step in range(9)]
    one, other = (
        a_run(name, progress={"metrics": {"history": points[:n]}})
        for name, n in (("train-1", 9), ("train-2", 5))
    )
    (alone,), (both,) = of_training(one), of_training(one, other)
    assert Path(alone).name == "train-1-curves.svg" and Path(both).name == "train-1-train-2.svg"
    assert "train-2, step 4: loss 0.2" in Path(both).read_text(encoding="utf-8")
    assert "train-2" not in Path(alone).read_text(encoding="utf-8")
    assert of_training(a_run("train-3")) == []
