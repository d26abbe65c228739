"""A kind of job is one row: what asks about jobs reads the table and knows no kind."""

from pkgutil import resolve_name
from typing import Any

import pytest
from tests.server.helpers import call

from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.binding import next_call
from saescope_mcp.cli.following import fields_of
from saescope_mcp.jobs import Run
from saescope_mcp.kinds import KINDS, Kind
from saescope_mcp.schemas.common import Reply, Request
from saescope_mcp.state import AppState
from saescope_mcp.worker.base import Worker


class Count(Request):
    """Arguments of a kind that no tool starts yet."""

    up_to: int = 3


class Counted(Reply, frozen=True):
    """What it has come to."""

    counted: int


COUNTING = Kind(
    tool="count_up",
    request=Count,
    reply=lambda run: Counted(
        summary=f"{run.id} counted to {run.progress['n']}.", counted=run.progress["n"]
    ),
    resume=lambda run: next_call("count_up", **run.request),
    progress=lambda run: (run.progress["n"], 3),
    worker="tests.server.test_kinds:Counter",
)


class Counter(Worker):
    """Would do the work."""

    phase = "counting"


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, COUNTING.tool, COUNTING)


def row(state: str, **more: Any) -> Run:
    times = {"created": 1.0, "queued": 1.0, "heartbeat": 1.0, "started": 1.0, "ended": 2.0}
    known: dict[str, Any] = {"request": {"up_to": 3}, "progress": {"n": 2}, **times, **more}
    return Run(id="count-1", tool=COUNTING.tool, state=state, **known)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_row_agrees_with_its_tool_and_its_worker(kind: Kind) -> None:
    (tool,) = [tool for tool in ALL_TOOLS if tool.name == kind.tool]
    assert tool.request is kind.request
    assert kind.reply.__annotations__["return"] is tool.reply
    assert issubclass(resolve_name(kind.worker), Worker)


@pytest.mark.usefixtures("counting")
async def test_a_new_row_is_all_that_job_status_and_the_terminal_need(tiny: AppState) -> None:
    tiny.runs.table.restore([row("done")])
    status = await call(tiny, "job_status", job_id="count-1", response_format="detailed")
    assert status["summary"] == "count-1 counted to 2." and status["tool"] == "count_up"
    assert status["result"]["counted"] == 2
    assert fields_of(row("running"))["count"] == "2/3"


@pytest.mark.usefixtures("counting")
async def test_a_new_row_is_all_that_cancel_job_needs(tiny: AppState) -> None:
    tiny.runs.table.restore([row("interrupted", checkpoint="counted-2")])
    done = await call(tiny, "cancel_job", job_id="count-1")
    assert done["state"] == "cancelled" and done["next"] == ["count_up(up_to=3)"]
