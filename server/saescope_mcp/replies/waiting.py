"""What a call answers that may take longer than it waits: what its job comes to, or that the job
runs."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from saescope_mcp.binding import next_call
from saescope_mcp.jobs import IN_LINE, Job
from saescope_mcp.state import AppState

_Reply = TypeVar("_Reply")


class Patient(Protocol):
    """A request that says how long its call waits."""

    @property
    def wait_s(self) -> float: ...

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> BaseModel: ...


async def result_or_job(
    state: AppState,
    request: Patient,
    work: Callable[[Job], Awaitable[_Reply]],
    *,
    tool: str,
    again: str,
    about: str = "",
) -> tuple[_Reply | None, Job]:
    """The reply that `work` comes to, None where that takes longer than the call waits, and the
    job. Calls of one request, and of one thing that it is `about`, share their job; `again` is the
    call that starts one anew."""

    async def begun(job: Job) -> _Reply:
        job.say(IN_LINE)
        return await work(job)

    key = (tool, request.model_copy(update={"wait_s": 0.0}).model_dump_json(), about)
    job = state.jobs.start(tool, key, request, begun)
    return await state.jobs.outcome(job, request.wait_s, again=again), job


def still_running(job: Job, what: str) -> dict[str, Any]:
    """The fields of a reply that say that `what` goes on as this job."""
    return {
        "summary": f"{what} continues as job {job.id}: {job.message}.",
        "state": "running",
        "job_id": job.id,
        "next": [next_call("job_status", job_id=job.id, wait_s=30)],
    }
