"""The table of jobs, torn or locked: other jobs and the server go on, and what happened is said."""

import random
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.server.helpers import call, refuse
from tests.server.test_jobs import DONE, a_run

from saescope import database
from saescope.names import home
from saescope_mcp.jobs import Run, Runs
from saescope_mcp.jobs.table import ROW_FILE, kept_run
from saescope_mcp.state import AppState
from saescope_mcp.worker.process import main

COLUMNS = [column.name for column in fields(Run)]
SLOW = pytest.mark.slow


@pytest.fixture
def three(state: AppState) -> list[Run]:
    said = {"state": "failed", "pid": 1, "checkpoint": "x", **DONE}
    made = [a_run(f"train-{i:06}", created=float(i), **said) for i in (3, 2, 1)]
    state.runs.table.restore(made)
    return made


def spoil(path: Path, column: str, value: object) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE runs SET {column} = ? WHERE id = 'train-000002'", [value])


@contextmanager
def kept_locked(path: Path) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield other


@pytest.mark.parametrize(
    ("column", "value"),
    [
        pytest.param(
            *(column, value),
            marks=[] if name == "half" or column in ("state", "created", "result") else SLOW,
            id=f"{column}-{name}",
        )
        for column in COLUMNS
        for name, value in {"half": '{"half": ', "null": None, "bytes": b"\xff\x00"}.items()
    ],
)
async def test_a_torn_cell_costs_its_own_row_at_most(
    column: str, value: object, state: AppState, three: list[Run]
) -> None:
    spoil(state.runs.table.path, column, value)
    listed = await call(state, "job_status")
    assert [row["job_id"] for row in listed["jobs"]] == ["train-000003", "train-000001"]
    assert len(listed["warnings"]) == 1 and "table of jobs was damaged" in listed["warnings"][0]
    assert (await call(state, "job_status", job_id="train-000001"))["state"] == "failed"
    assert len((await call(state, "server_status"))["jobs"]) == 2
    assert (await refuse(state, "job_status", job_id="train-000002"))["code"] == "JOB_NOT_FOUND"


async def test_a_torn_row_comes_back_from_its_folder(state: AppState, three: list[Run]) -> None:
    for run in three:
        state.runs.folder(run.id).mkdir()
        state.runs.keep(run)
    spoil(state.runs.table.path, "progress", "{")
    listed = await call(state, "job_status")
    assert listed["total"] == 3 and "1 came from the last good copy" in listed["warnings"][0]
    assert state.runs.all() == three


@pytest.mark.parametrize("seed", range(20))
def test_no_damage_shows_another_job(seed: int, tmp_path: Path) -> None:
    runs, rng = Runs(tmp_path), random.Random(seed)
    made = [a_run(f"train-{i:06}", state="done", created=float(-i), **DONE) for i in range(20)]
    runs.table.restore(made)
    for run in made:
        runs.folder(run.id).mkdir()
        runs.keep(run)
    torn = bytearray(runs.table.path.read_bytes())
    for _ in range(rng.choice([1, 5, 100])):
        torn[rng.randrange(len(torn))] ^= 1 << rng.randrange(8)
    runs.table.path.write_bytes(torn if seed % 5 else torn[: rng.randrange(len(torn))])
    assert runs.all() == made


@pytest.mark.parametrize("seed", range(15))
def test_a_kept_row_that_was_changed_is_no_row(seed: int, tmp_path: Path) -> None:
    runs, rng = Runs(tmp_path), random.Random(seed)
    run = a_run(state="done", progress={"step": 10}, **DONE)
    runs.folder(run.id).mkdir()
    runs.keep(run)
    file = runs.folder(run.id) / ROW_FILE
    assert kept_run(file) == run
    torn = bytearray(file.read_bytes())
    torn[rng.randrange(len(torn))] ^= 1 << rng.randrange(8)
    file.write_bytes(torn)
    assert kept_run(file) in (None, run)


async def test_a_locked_table_stops_nobody_else(
    state: AppState, three: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 1.0)
    await call(state, "server_status")
    late, refused, status = list[float](), dict[str, Any](), dict[str, Any]()

    async def ping() -> None:
        while True:
            before = time.monotonic()
            await anyio.sleep(0.01)
            late.append(time.monotonic() - before)

    with kept_locked(state.runs.table.path):
        async with anyio.create_task_group() as group:
            group.start_soon(ping)
            refused = await refuse(state, "job_status", job_id="train-000001")
            status = await call(state, "server_status")
            group.cancel_scope.cancel()
    assert refused["code"] == "JOBS_UNAVAILABLE" and "keeps jobs.db locked" in refused["hint"]
    assert "locked" in status["warnings"][0] and status["jobs"] == []
    assert max(late) < 0.5
    assert (await call(state, "job_status"))["total"] == 3


def test_a_worker_that_starts_while_the_table_is_locked_waits_for_it(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    runs, ended = Runs(home() / "jobs"), list[Any]()
    runs.table.restore([a_run(state="done", **DONE)])
    worker = threading.Thread(target=lambda: ended.append(main(["train-000001"])))
    with kept_locked(runs.table.path):
        worker.start()
        worker.join(0.5)
        assert worker.is_alive()
    worker.join(10)
    assert ended == [0]
