"""What a shell offers after Tab: handles, jobs, releases and choices that are known here, without
torch or the network."""

import json
from collections.abc import Callable

from typer import Context

from saescope.errors import SaescopeError
from saescope.names import home
from saescope_mcp.cli.verbs import Schema
from saescope_mcp.jobs import Run, RunTable

MOST = 100
Values = Callable[[Context, str], list[str]]


def values_of(name: str, schema: Schema) -> Values | None:
    """How values of an argument are found, if there is anything to offer."""
    choices = [choice for choice in schema.get("enum", ()) if choice]
    find = _KNOWN.get(name)
    if not (choices or find):
        return None

    def values(context: Context, incomplete: str) -> list[str]:
        known = choices or (find(context) if find else [])
        typed = incomplete.lower()
        return [value for value in known if value.lower().startswith(typed)][:MOST]

    return values


def handles() -> list[str]:
    """Handles of all SAEs that have been loaded on this machine, the newest first."""
    try:
        return [*json.loads((home() / "handles.json").read_text(encoding="utf-8"))][::-1]
    except (OSError, ValueError):
        return []


def jobs() -> list[Run]:
    """Trainings and indexings, newest first."""
    try:
        return RunTable(home() / "jobs" / "jobs.db").all()
    except SaescopeError:  # somebody types: a table that cannot be read now completes nothing
        return []


def _releases(context: Context) -> list[str]:
    from saescope.catalogue import releases

    return [*releases()]


def _sae_ids(context: Context) -> list[str]:
    """SAEs of the release that was named before."""
    from saescope.catalogue import releases

    return [*releases().get(context.params.get("release") or "", {})]


def _models(context: Context) -> list[str]:
    from saescope.catalogue import models_here, releases

    published = {entry.model for saes in releases().values() for entry in saes.values()}
    return [*models_here(), *sorted(published)]


def _handles(context: Context) -> list[str]:
    return handles()


def _jobs(context: Context) -> list[str]:
    return [run.id for run in jobs()]


def _devices(context: Context) -> list[str]:
    return ["auto", "cpu", "cuda", "mps"]


def _datasets(context: Context) -> list[str]:
    return ["embedded", "hf:"]


_KNOWN: dict[str, Callable[[Context], list[str]]] = {
    "sae": _handles,
    "saes": _handles,
    "also": _handles,
    "against_sae": _handles,
    "handle": _handles,
    "job_id": _jobs,
    "resume": _jobs,
    "release": _releases,
    "sae_id": _sae_ids,
    "model": _models,
    "device": _devices,
    "dataset": _datasets,
}
