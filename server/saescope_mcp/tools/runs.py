"""cancel_job."""

from pathlib import Path
from typing import Any

from mcp.types import ToolAnnotations

from saescope_mcp.binding import next_call, nothing
from saescope_mcp.groups import Group
from saescope_mcp.jobs import RESUMABLE, Job, Runs
from saescope_mcp.kinds import ended, kind_of
from saescope_mcp.replies import Tool
from saescope_mcp.schemas.train import CancelJob, CancelJobReply
from saescope_mcp.state import AppState


async def cancel_job(state: AppState, request: CancelJob) -> CancelJobReply:
    """Stop a job: a training or an indexing leaves a complete checkpoint, from which the call in
    `next` continues; a load, an evaluation or a generation leaves nothing. A job that has ended
    does not change."""
    if job := state.jobs.find(request.job_id):
        return await _cancel_task(state, job)
    run = await state.ask(Runs.cancel, request.job_id)
    run = await ended(state, run, within_s=lambda _: state.settings.plan_wait_s)
    done = f"{run.id} is {run.state}" + (" (it stops at its next step)." if run.live else ".")
    can_resume = run.state in RESUMABLE and not run.dry_run
    kept = f" Its last checkpoint is {Path(run.checkpoint).name}." if run.checkpoint else ""
    return CancelJobReply(
        summary=f"{done}{kept}"
        + (f" {run.tool} continues from there." if can_resume and run.checkpoint else ""),
        next=[next_call("job_status", job_id=run.id)]
        if run.live
        else [kind_of(run).resume(run)]
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
    state_now: Any = job.state  # one of JobState's
    sentence = f"{job.id} is {job.state}."
    return CancelJobReply(summary=sentence, job_id=job.id, state=state_now, checkpoint=None)


_STOP = ToolAnnotations(
    title="Cancel a job",
    read_only_hint=False,
    destructive_hint=False,
    idempotent_hint=True,
    open_world_hint=False,
)
TOOLS = [Tool(cancel_job, CancelJob, _STOP, group=Group.BASE, keeps=nothing)]
