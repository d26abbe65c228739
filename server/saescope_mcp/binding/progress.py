"""A sign of life for the client while a call is at work: what the newest running job says, each
second."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from saescope_mcp.binding.call import State

EVERY_S = 1.0


@asynccontextmanager
async def reported(context: Any, state: State) -> AsyncGenerator[None]:
    """Report progress while the block runs, to a client that asked for it; its unit is seconds,
    since most ends are not known."""
    async with anyio.create_task_group() as group:
        group.start_soon(_report, context, state)
        yield
        group.cancel_scope.cancel()


async def _report(context: Any, state: State) -> None:
    started = time.monotonic()
    try:
        while True:
            await anyio.sleep(EVERY_S)
            running = [
                job.message for job in state.jobs.all() if job.state == "running" and job.message
            ]
            await context.report_progress(
                round(time.monotonic() - started, 1), None, running[0] if running else None
            )
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return  # the client is gone; the call ends by being cancelled
