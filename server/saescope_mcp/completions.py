"""What may stand for an argument of a prompt or for a variable of a resource's URI, as the user
types it."""

from collections.abc import Iterable

from mcp.types import Completion

from saescope.errors import SaescopeError
from saescope_mcp.jobs import Runs
from saescope_mcp.state import AppState

MOST = 100
"""The protocol allows no more values in an answer."""


async def complete(state: AppState, name: str, typed: str) -> Completion:
    """Values of the argument `name` that contain what was typed; those that begin with it come
    first."""
    typed = typed.lower()
    matches = sorted(
        (value for value in dict.fromkeys(await _values(state, name)) if typed in value.lower()),
        key=lambda v: not v.lower().startswith(typed),
    )
    return Completion(values=matches[:MOST], total=len(matches), has_more=len(matches) > MOST)


async def _values(state: AppState, name: str) -> Iterable[str]:
    if name == "sae":
        return [*state.saes, *state.sets, *state.known.all()]
    if name == "job_id":
        return [*(job.id for job in state.jobs.all()), *await _run_ids(state)]
    if name in ("release", "model"):
        return _published(name)
    return ()


async def _run_ids(state: AppState) -> list[str]:
    try:
        return [run.id for run in await state.ask(Runs.all)]
    except SaescopeError:  # somebody types: a table that cannot be read now completes nothing
        return []


def _published(name: str) -> Iterable[str]:
    from saescope.catalogue import releases

    published = releases()
    return (
        published
        if name == "release"
        else sorted({entry.model for saes in published.values() for entry in saes.values()})
    )
