"""cancel_job, and what the tools that start runs have in common."""

import time
from pathlib import Path

import anyio
from mcp.types import ToolAnnotations

from saescope.errors import SaescopeError
from saescope_mcp.jobs import Job, Run, Runs
from saescope_mcp.schemas.train import CancelJob, CancelJobReply
from saescope_mcp.state import AppState
from saescope_mcp.tool import Tool, next_call

LOOK_S = 0.2


async def cancel_job(state: AppState, request: CancelJob) -> CancelJobReply:
    """Stop a job: a training or an indexing leaves a complete checkpoint, from which the call in `next` goes on; a load or an evaluation
    leaves nothing. What has ended stays as it is."""
    if job := state.jobs.find(request.job_id):
        return await _cancel_task(state, job)
    run = await state.ask(Runs.cancel, request.job_id)
    give_up = time.monotonic() + state.settings.plan_wait_s
    while run.live and time.monotonic() < give_up:
        await anyio.sleep(LOOK_S)
        run = await state.ask(Runs.get, run.id)
    done = f"{run.id} is {run.state}" + (" (it stops at its next step)." if run.live else ".")
    can_resume = run.state in ("cancelled", "interrupted", "failed") and not run.dry_run
    kept = f" Its last checkpoint is {Path(run.checkpoint).name}." if run.checkpoint else ""
    return CancelJobReply(
        summary=f"{done}{kept}"
        + (f" {run.tool} goes on from there." if can_resume and run.checkpoint else ""),
        next=[next_call("job_status", job_id=run.id)]
        if run.live
        else [resume_call(run)]
        if can_resume
        else [],
        job_id=run.id,
        state=run.state,  # type: ignore[arg-type]  # one of JobState's
        checkpoint=run.checkpoint,
        n_tokens=run.progress.get("n_tokens"),
    )


async def _cancel_task(state: AppState, job: Job) -> CancelJobReply:
    job.task.cancel()
    await state.jobs.watch(job, state.settings.cancel_grace_s)
    said = f"{job.id} is {job.state}."
    return CancelJobReply(summary=said, job_id=job.id, state=job.state, checkpoint=None)  # type: ignore[arg-type]


def resume_call(run: Run) -> str:
    """The call that goes on with a run that has stopped: a training by its id, an indexing by its arguments."""
    return (
        next_call("train_sae", resume=run.id)
        if run.tool == "train_sae"
        else next_call(run.tool, **run.request)
    )


def error_of(run: Run) -> SaescopeError:
    """The error that ended a run, as if it had happened in this call."""
    said = run.error
    return SaescopeError(
        said["message"],
        code=said["code"],
        field=said["field"],
        got=said["got"],
        allowed=said["allowed"],
        hint=said["hint"],
    )


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


_STOP = ToolAnnotations(
    title="Cancel a job",
    read_only_hint=False,
    destructive_hint=False,
    idempotent_hint=True,
    open_world_hint=False,
)
TOOLS = [Tool(cancel_job, CancelJob, _STOP)]
