"""Work that outlasts a call: tasks of this process (loads, evaluations, generations), and runs in
processes of their own (trainings)."""

from saescope_mcp.jobs.locks import FileLock
from saescope_mcp.jobs.runs import Runs
from saescope_mcp.jobs.table import LIVE, RESUMABLE, ROW_FILE, Run, RunTable
from saescope_mcp.jobs.tasks import CLIENT, CURRENT, IN_LINE, Current, Job, Jobs

__all__ = [
    "CLIENT",
    "CURRENT",
    "IN_LINE",
    "LIVE",
    "RESUMABLE",
    "ROW_FILE",
    "Current",
    "FileLock",
    "Job",
    "Jobs",
    "Run",
    "RunTable",
    "Runs",
]
