"""Tasks of this process: started once, waited for by any number of calls, asked about later. Knows
no SAE."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from saescope.errors import Cancelled


class Current(NamedTuple):
    """What is being done: the tool of a call, and the job where the call has become one."""

    tool: str = ""
    job_id: str = ""


NOBODY = Current()
CURRENT: ContextVar[Current] = ContextVar("saescope_current", default=NOBODY)
"""Read by whoever must say who keeps others waiting."""
CLIENT: ContextVar[str] = ContextVar("saescope_client", default="")
"""Who calls, as far as one server has several clients; empty: the only one."""


IN_LINE = "waiting for the model"
"""What a job says that is not at work yet."""


@dataclass(eq=False)
class Job:
    """One piece of work; its state is that of its task."""

    id: str
    tool: str
    key: object
    """Two starts with one key are one job while it runs."""
    request: Any
    message: str = ""
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    waiting: int = 0
    task: asyncio.Task[Any] = field(init=False)

    def say(self, message: str) -> None:
        """What the work is at; may be called from a thread."""
        self.message = message

    @property
    def state(self) -> str:
        if not self.task.done():
            return "running"
        if self.task.cancelled():
            return "cancelled"
        return "failed" if self.task.exception() else "done"

    @property
    def elapsed_s(self) -> float:
        return (self.ended or time.monotonic()) - self.started


class Jobs:
    """Holds the newest jobs of this process."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._jobs: dict[str, Job] = {}

    def start(
        self, tool: str, key: object, request: Any, work: Callable[[Job], Awaitable[Any]]
    ) -> Job:
        """Start a new job, or return the running one with this key."""
        if running := self.running(key):
            return running
        job = Job(
            id=f"{tool.split('_')[0]}-{uuid.uuid4().hex[:6]}", tool=tool, key=key, request=request
        )

        async def run() -> Any:
            CURRENT.set(Current(tool, job.id))
            try:
                return await work(job)
            finally:
                job.ended = time.monotonic()

        job.task = asyncio.create_task(run())
        job.task.add_done_callback(
            lambda task: task.cancelled() or task.exception()
        )  # asked for, so asyncio does not complain
        self._jobs[job.id] = job
        self._forget()
        return job

    async def wait(self, job: Job, seconds: float) -> None:
        """Until the job has ended, or that long. A job whose only waiting call is cancelled ends
        too."""
        job.waiting += 1
        try:
            await asyncio.wait({job.task}, timeout=seconds)
        except asyncio.CancelledError:
            if job.waiting == 1:
                job.task.cancel()
            raise
        finally:
            job.waiting -= 1

    async def outcome(self, job: Job, seconds: float, *, again: str) -> Any:
        """What the job comes to within that long; None while it runs.

        Raises:
            Cancelled: it was cancelled; `again` is the call that starts it anew.
        """
        await self.wait(job, seconds)
        if job.task.cancelled():
            raise Cancelled(f"{job.id} was cancelled.", hint=again)
        return job.task.result() if job.task.done() else None

    async def watch(self, job: Job, seconds: float) -> None:
        """Waits as `wait` does, for a call that the job does not depend on."""
        await asyncio.wait({job.task}, timeout=seconds)

    def running(self, key: object) -> Job | None:
        return next(
            (job for job in self._jobs.values() if job.key == key and not job.task.done()), None
        )

    def all(self) -> list[Job]:
        """Return all jobs, newest first."""
        return [*reversed(self._jobs.values())]

    def find(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def cancel_all(self) -> None:
        for job in self._jobs.values():
            if not job.task.done():
                job.task.cancel()

    def _forget(self) -> None:
        ended = [job.id for job in self._jobs.values() if job.task.done()]
        for job_id in ended[: max(0, len(self._jobs) - self._keep)]:
            del self._jobs[job_id]
