"""What may stand for an argument of a prompt or for a variable of a resource's URI, as the user types it."""

from collections.abc import Iterable

from mcp.types import Completion

from saescope_mcp.state import AppState

MOST = 100
"""The protocol allows no more values in an answer."""


async def complete(state: AppState, name: str, typed: str) -> Completion:
    """Values of the argument `name` that contain what was typed; those that begin with it come first."""
    typed = typed.lower()
    found = sorted(
        (value for value in dict.fromkeys(_values(state, name)) if typed in value.lower()),
        key=lambda v: not v.lower().startswith(typed),
    )
    return Completion(values=found[:MOST], total=len(found), has_more=len(found) > MOST)


def _values(state: AppState, name: str) -> Iterable[str]:
    if name == "sae":
        return [*state.saes, *state.known.all()]
    if name == "job_id":
        return [*(job.id for job in state.jobs.all()), *(run.id for run in state.runs.all())]
    if name in ("release", "model"):
        return _published(name)
    return ()


def _published(name: str) -> Iterable[str]:
    from saescope.catalogue import releases

    found = releases()
    return (
        found
        if name == "release"
        else sorted({entry.model for saes in found.values() for entry in saes.values()})
    )
