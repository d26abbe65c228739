"""sae://jobs: what job_status would say, for clients that show resources."""

from saescope_mcp.binding.document import compact, document
from saescope_mcp.resources.resource import Resource
from saescope_mcp.schemas.status import JobStatus
from saescope_mcp.state import AppState
from saescope_mcp.tools.status import job_status


async def jobs(state: AppState) -> str:
    """All jobs of this machine: id, tool, state, elapsed time."""
    return await _status(state, JobStatus())


async def job(state: AppState, job_id: str) -> str:
    """One job: state, step, metrics, time to go, result or error; the document of job_status."""
    return await _status(state, JobStatus(job_id=job_id))


async def _status(state: AppState, request: JobStatus) -> str:
    return compact(
        document(
            "job_status",
            request,
            await job_status(state, request),
            max_tokens=state.settings.max_result_tokens,
        )
    )


RESOURCES = [
    Resource(jobs, "sae://jobs", "Jobs"),
    Resource(job, "sae://jobs/{job_id}", "A job"),
]
