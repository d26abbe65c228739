"""`saescope train-sae`: the run is a job like any other; this shows how it goes, and Ctrl-C stops it with a complete checkpoint."""

import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from saescope_mcp.cli.calls import FOREVER_S, person_settings
from saescope_mcp.cli.flags import arguments_from
from saescope_mcp.jobs import Run
from saescope_mcp.schemas.train import TrainSae
from saescope_mcp.state import AppState
from saescope_mcp.tool import Outcome
from saescope_mcp.tools.runs import duration
from saescope_mcp.tools.train import TOOLS, planned

TRAIN_SAE = TOOLS[0]
LOOK_S = 0.25
ROOM_FOR_BAR = 60


def train(given: dict[str, Any], console: Console) -> Outcome:
    """The document of the run once it has ended or was stopped; with --wait-s, what it is after that long."""
    state, arguments = AppState(person_settings()), arguments_from(TrainSae, given)
    if "wait_s" in arguments:
        return _call(state, arguments)
    if arguments.get("dry_run"):
        console.print("[dim]measuring: loading the model, reading some text, taking some steps…[/]")
        return _call(state, {**arguments, "wait_s": FOREVER_S})
    state.settings = state.settings.model_copy(update={"plan_wait_s": 0.0})
    begun = _call(state, {**arguments, "wait_s": 0.0})
    if begun.is_error:
        return begun
    run_id: str = begun.document["job_id"]
    run = follow(state, run_id, console)
    outcome = _call(state, {"resume": run_id, "dry_run": True})
    if run.state == "failed" and not run.checkpoint:
        state.runs.forget(run_id)
    return outcome


def follow(state: AppState, run_id: str, console: Console) -> Run:
    """The run at its end. Ctrl-C asks it to stop; a second one leaves it alone: it stops by itself."""
    try:
        return _show(state, run_id, console)
    except KeyboardInterrupt:
        console.print("Stopping after this step…")
        state.runs.cancel(run_id)
    with suppress(KeyboardInterrupt):
        _show(state, run_id, console)
    run = state.runs.get(run_id)
    kept = (
        f"A complete checkpoint is kept, at {_completed(run):,} of {_total(run):,}."
        if run.checkpoint
        else "There was nothing to keep yet."
    )
    again = (
        f"saescope train-sae --resume {run_id}" if run.tool == "train_sae" else "the same command"
    )
    console.print(f"{kept} Go on with: [bold]{again}[/]")
    return run


def _show(state: AppState, run_id: str, console: Console) -> Run:
    said = False
    with live_display(console) as (display, task):
        while (run := state.runs.get(run_id)).live:
            if run.plan and not said:
                said = True
                _tell_plan(run, console)
            display.update(task, **fields_of(run))
            time.sleep(LOOK_S)
        display.update(task, **fields_of(run))
    return run


def _tell_plan(run: Run, console: Console) -> None:
    console.print(f"{run.id}: {escape(planned(run.plan))} Ctrl-C stops it and keeps a checkpoint.")
    for warning in run.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")


@contextmanager
def live_display(console: Console) -> Generator[tuple[Progress, TaskID]]:
    # one text, which breaks between words: columns of their own would be cut within numbers
    said = TextColumn(
        "{task.description}  {task.fields[count]}  {task.fields[measured]}  [dim]{task.fields[left]}[/]",
        table_column=Column(overflow="fold"),
    )
    bar = [BarColumn(bar_width=20)] if console.width >= ROOM_FOR_BAR else []
    with Progress(*bar, said, console=console) as display:
        yield display, display.add_task("starting", total=None, count="", measured="", left="")


def fields_of(run: Run) -> dict[str, Any]:
    progress = run.progress
    latest = progress.get("metrics", {}).get("latest")
    measured = (
        f"L0 {latest['l0']:.1f}  EV {latest['explained_variance']:.3f}  dead {latest['dead_share']:.1%}"
        if latest
        else ""
    )
    eta_s = progress.get("eta_s")
    return {
        "description": escape(run.message),
        "completed": _completed(run),
        "total": _total(run) or None,
        "count": f"{_completed(run)}/{_total(run) or '?'}",
        "measured": measured,
        "left": f"{duration(eta_s)} to go" if run.state == "running" and eta_s else "",
    }


def _completed(run: Run) -> int:
    """Steps of a training, tokens of an indexing."""
    return run.progress.get("step", run.progress.get("n_tokens", 0))


def _total(run: Run) -> int:
    return run.progress.get("n_steps", run.progress.get("n_wanted", 0))


def _call(state: AppState, arguments: dict[str, Any]) -> Outcome:
    async def once() -> Outcome:
        return await TRAIN_SAE.call(state, arguments)

    return anyio.run(once)
