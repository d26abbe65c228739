"""A run as the trainings' page draws it: read from its row, so that looking keeps nothing."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from saescope.errors import SaescopeError
from saescope_mcp.jobs import Runs
from saescope_mcp.kinds import TRAINING, kind_of
from saescope_mcp.replies import refusal
from saescope_mcp.state import AppState

MOST_RUNS = 200


async def watched(state: AppState, job_id: str) -> dict[str, Any]:
    """What a run has come to, with its curves and how often its features fire; or the error
    document."""
    try:
        run = await state.ask(Runs.get, job_id)
    except SaescopeError as error:
        return dict(refusal("job_status", error))
    reply = kind_of(run).reply(run)
    return {
        "job_id": run.id,
        "tool": run.tool,
        "name": run.name,
        "state": run.state,
        "summary": reply.summary,
        "warnings": reply.warnings,
        "started": run.started,
        "saes": [*([run.result["sae"]] if "sae" in run.result else run.result.get("saes", []))],
        "members": run.result.get("members") or run.progress.get("members", []),
        "curves": run.progress.get("curves") or _older(run.progress.get("metrics") or {}),
        "densities": run.progress.get("densities", {}),
    }


async def trainings(state: AppState) -> list[dict[str, Any]]:
    """All trainings on this machine, the newest first, with the day and time (UTC) of each."""
    try:
        runs = await state.ask(Runs.all)
    except SaescopeError:  # the list of jobs says why
        return []
    kept = [run for run in runs if run.tool == TRAINING.tool and not run.dry_run][:MOST_RUNS]
    return [{"job_id": run.id, "name": run.name, "created": _day(run.created)} for run in kept]


def _day(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%d %H:%M")


def _older(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The curves of a run that was trained before its row had them."""
    points = [*metrics.get("history", [])]
    latest = metrics.get("latest")
    if latest and (not points or points[-1]["step"] != latest["step"]):
        points.append(latest)
    names = ["step", "loss", "l0", "explained_variance", "dead_share"]
    rows = [[point.get(name) for name in names] for point in points]
    return {"fields": names, "series": {"": rows} if rows else {}}
