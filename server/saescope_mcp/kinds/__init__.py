"""The kinds of jobs that run in processes of their own, one row each.

A new kind is a row here, its module beside this one and its worker; job_status, cancel_job, the
command line and the process of a job read the table.
"""

from saescope_mcp.jobs import Run
from saescope_mcp.kinds.indexing import INDEXING
from saescope_mcp.kinds.kind import Kind, ended, error_of, to_go
from saescope_mcp.kinds.training import TRAINING

KINDS = {kind.tool: kind for kind in (TRAINING, INDEXING)}


def kind_of(run: Run) -> Kind:
    return KINDS[run.tool]


__all__ = [
    "INDEXING",
    "KINDS",
    "TRAINING",
    "Kind",
    "ended",
    "error_of",
    "kind_of",
    "to_go",
]
