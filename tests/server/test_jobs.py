"""The table of runs, locks, and what becomes of a run whose process is gone."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.server.helpers import call, refuse
from typer.testing import CliRunner

from saescope.errors import FormatError, NotFoundError, ResourceError
from saescope.names import home
from saescope_mcp.cli.commands import app
from saescope_mcp.jobs import FileLock, Run, Runs, RunTable
from saescope_mcp.jobs import runs as runs_module
from saescope_mcp.state import AppState

DONE: dict[str, Any] = {"started": 1.0, "ended": 3.0}


def a_run(run_id: str = "train-000001", **more: Any) -> Run:
    now = time.time()
    said: dict[str, Any] = {"tool": "train_sae", "state": "queued", "created": now, "queued": now, "heartbeat": now}
    return Run(id=run_id, **said | more)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "jobs")


def test_a_row_comes_back_as_it_was_written(runs: Runs) -> None:
    run = a_run(request={"k": 4.0}, warnings=["a"], progress={"metrics": {"history": [{"step": 1}]}}, dry_run=True, checkpoint="x")
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
    assert runs.table.add(a_run("e", name="x"), most_live=2)  # the failed one left nothing of that name


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


def test_an_unknown_job_names_the_nearest(runs: Runs) -> None:
    runs.table.add(a_run(), most_live=1)
    with pytest.raises(NotFoundError) as caught:
        runs.get("train-000002")
    assert caught.value.hint == 'job_status(job_id="train-000001")'


def test_a_table_that_cannot_be_read_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"no database" * 1000)
    with pytest.raises(FormatError, match="damaged"):
        RunTable(tmp_path / "jobs.db").all()
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError) as caught:
        RunTable(tmp_path / "file" / "jobs.db").add(a_run(), most_live=1)
    assert caught.value.code == "JOBS_UNAVAILABLE"


async def test_loads_and_trainings_are_one_list(state: AppState, sae_dir: Path, glass_dir: Path) -> None:
    await call(state, "load_sae", path=str(sae_dir), model=str(glass_dir))
    state.runs.table.add(a_run(state="done", **DONE), most_live=1)
    listed = await call(state, "job_status")
    assert sorted(row["tool"] for row in listed["jobs"]) == ["load_sae", "train_sae"] and listed["total"] == 2
    load = next(row["job_id"] for row in listed["jobs"] if row["tool"] == "load_sae")
    assert (await call(state, "cancel_job", job_id=load))["state"] == "done"  # too late: nothing changes
    assert (await refuse(state, "cancel_job", job_id="train-9"))["code"] == "JOB_NOT_FOUND"


async def test_a_running_load_can_be_cancelled(state: AppState, sae_dir: Path, glass_dir: Path) -> None:
    running = await call(state, "load_sae", path=str(sae_dir), model=str(glass_dir), wait_s=0.0)
    assert (await call(state, "cancel_job", job_id=running["job_id"]))["state"] == "cancelled"
    assert (state.models, state.saes) == ({}, {})


async def test_a_silent_process_is_said_to_be_paused(state: AppState) -> None:
    runs = state.runs
    runs.table.add(a_run(state="running", heartbeat=time.time() - 60, started=1.0), most_live=1)
    with runs.lock("train-000001") as lock:
        assert lock.take()
        assert "may be paused" in (await call(state, "job_status", job_id="train-000001"))["summary"]


def test_the_command_line_lists_and_cancels(own_home: Path) -> None:
    Runs(home() / "jobs").table.add(a_run(state="interrupted", **DONE), most_live=1)
    listed = CliRunner().invoke(app, ["job-status", "--json"])
    assert listed.exit_code == 0 and '"train-000001"' in listed.stdout
    cancelled = CliRunner().invoke(app, ["cancel-job", "--job-id", "train-000001", "--json"])
    assert cancelled.exit_code == 0 and '"state": "cancelled"' in cancelled.stdout
