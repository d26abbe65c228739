"""`saescope index-features`: the SAE is loaded here, the corpus is read in a job; Ctrl-C stops that with a complete checkpoint."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio
from rich.console import Console

from saescope_mcp.cli.calls import call, person_settings
from saescope_mcp.cli.flags import arguments_from
from saescope_mcp.cli.training import follow
from saescope_mcp.state import AppState
from saescope_mcp.tool import Outcome
from saescope_mcp.tools import index as tools
from saescope_mcp.tools import status

INDEX_FEATURES = tools.TOOLS[0]
JOB_STATUS = next(tool for tool in status.TOOLS if tool.name == "job_status")


def index(
    given: Mapping[str, Any],
    loading: Mapping[str, Any],
    console: Console,
    say: Callable[[str], None],
) -> Outcome:
    """The document of the job once it has ended or was stopped; with --wait-s, what it is after that long."""
    arguments = arguments_from(INDEX_FEATURES.request, given)
    begun = call(INDEX_FEATURES, {"wait_s": 0.0, **arguments}, loading, say)
    if begun.is_error or "wait_s" in arguments:
        return begun
    state = AppState(person_settings())
    run = follow(state, begun.document["job_id"], console)
    told = anyio.run(partial(JOB_STATUS.call, state, {"job_id": run.id}))
    if run.state == "failed":
        return Outcome(run.error, is_error=True)
    return Outcome(told.document["result"] or told.document, is_error=False)
