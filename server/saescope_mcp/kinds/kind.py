"""What every kind of job says of itself, and what is the same for all of them: waiting, errors,
durations."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio

from saescope.errors import SaescopeError
from saescope_mcp.jobs import Run, Runs
from saescope_mcp.schemas.common import Reply, Request
from saescope_mcp.state import AppState

LOOK_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of job: what starts it, what it has come to, how it is resumed and who does the
    work."""

    tool: str
    """The name of the tool that starts such a job; it stands in the job's row."""
    request: type[Request]
    reply: Callable[[Run], Reply]
    """What a job has come to, the same from its tool, job_status and the command line."""
    resume: Callable[[Run], str]
    """The call that resumes a job that has stopped."""
    progress: Callable[[Run], tuple[int, int]]
    """How much is done, and of how much; 0 while that is not known."""
    worker: str
    """`module:class`, imported in the process of the job alone."""
    pictures: Callable[[Run, Run | None], list[str]] = lambda run, over: []
    """Files with the curves so far, and those of another run over them."""


async def ended(state: AppState, run: Run, *, within_s: Callable[[Run], float]) -> Run:
    """The run once it has ended, or as it is after that long; the limit may depend on how far it
    is."""
    started = time.monotonic()
    while run.live and (left := within_s(run) - (time.monotonic() - started)) > 0:
        await anyio.sleep(min(LOOK_S, left))
        run = await state.ask(Runs.get, run.id)
    return run


def error_of(run: Run) -> SaescopeError:
    """The error that ended a run, as if it had happened in this call."""
    error = run.error
    return SaescopeError(
        error["message"],
        code=error["code"],
        field=error["field"],
        got=error["got"],
        allowed=error["allowed"],
        hint=error["hint"],
    )


def provenance_of(run: Run) -> dict[str, Any]:
    """Return the fields of a reply that rest on the result."""
    provenance = run.result.get("provenance")
    return {"evidence": "observed" if provenance else None, "provenance": provenance}


def to_go(run: Run) -> float | None:
    """The seconds that are left, as the job or else its plan says."""
    eta_s = run.progress.get("eta_s")
    return eta_s if eta_s is not None else run.plan.get("eta_s")
