"""A tool that starts a job, at a terminal: how it goes is shown, and Ctrl-C stops it with a
complete checkpoint."""

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import anyio
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from saescope.progress import Say, duration
from saescope_mcp.binding import Outcome, Tool, kept_document
from saescope_mcp.cli.calls import FOREVER_S, call, person_settings, settled
from saescope_mcp.cli.renderers.parts import spark
from saescope_mcp.cli.typed import as_command
from saescope_mcp.jobs import Run
from saescope_mcp.kinds import kind_of
from saescope_mcp.kinds.training import planned
from saescope_mcp.state import AppState

LOOK_S = 0.25
ROOM_FOR_BAR = 60


def start_and_follow(
    tool: Tool,
    arguments: dict[str, Any],
    loading: Mapping[str, Any],
    *,
    console: Console,
    say: Say,
) -> Outcome:
    """The document of the job once it has ended or was stopped; with --wait-s, what it is after
    that long."""
    if "wait_s" in arguments:
        return call(tool, arguments, loading, say)
    if arguments.get("dry_run"):
        console.print("[dim]measuring: loading the model, reading some text, taking some steps…[/]")
        return call(tool, {**arguments, "wait_s": FOREVER_S}, loading, say)
    begun = call(tool, {**arguments, "wait_s": 0.0}, loading, say)
    if begun.is_error:
        return begun
    state = AppState(person_settings())
    run = follow(state, begun.document["job_id"], console)
    if run.state == "failed":
        if not (run.checkpoint or arguments.get("resume")):
            state.runs.forget(run.id)
        return Outcome(run.error, is_error=True)
    kind = kind_of(run)
    request = kind.request.model_validate(run.request)
    keep = partial(kept_document, state, kind.reply(run), tool=run.tool, request=request)
    return settled(state, Outcome(anyio.run(keep), is_error=False))


def follow(state: AppState, run_id: str, console: Console) -> Run:
    """The run at its end. Ctrl-C asks it to stop; a second one leaves it alone: it stops by
    itself."""
    try:
        return _show(state, run_id, console)
    except KeyboardInterrupt:
        console.print("Stopping after this step…")
        state.runs.cancel(run_id)
    with suppress(KeyboardInterrupt):
        _show(state, run_id, console)
    run = state.runs.get(run_id)
    kind = kind_of(run)
    (done, total), again = kind.progress(run), as_command(kind.resume(run))
    kept = (
        f"A complete checkpoint is kept, at {done:,} of {total:,}."
        if run.checkpoint
        else "There was nothing to keep yet."
    )
    console.print(f"{kept} Go on with: [bold]{escape(again)}[/]", soft_wrap=True)
    return run


def _show(state: AppState, run_id: str, console: Console) -> Run:
    planned_shown = False
    with live_display(console) as (display, task):
        while (run := state.runs.get(run_id)).live:
            if run.plan and not planned_shown:
                planned_shown = True
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
    message = TextColumn(
        "{task.description}  {task.fields[count]}  {task.fields[measured]}  "
        "[dim]{task.fields[left]}[/]",
        table_column=Column(overflow="fold"),
    )
    bar = [BarColumn(bar_width=20)] if console.width >= ROOM_FOR_BAR else []
    with Progress(*bar, message, console=console) as display:
        yield display, display.add_task("starting", total=None, count="", measured="", left="")


def fields_of(run: Run) -> dict[str, Any]:
    progress, (done, total) = run.progress, kind_of(run).progress(run)
    metrics = progress.get("metrics", {})
    latest = metrics.get("latest")
    curve = spark([point["explained_variance"] for point in metrics.get("history", [])])
    measured = (
        f"L0 {latest['l0']:.1f}  EV {latest['explained_variance']:.3f} {curve}  dead "
        f"{latest['dead_share']:.1%}"
        if latest
        else ""
    )
    eta_s = progress.get("eta_s")
    return {
        "description": escape(run.message),
        "completed": done,
        "total": total or None,
        "count": f"{done}/{total or '?'}",
        "measured": measured,
        "left": f"{duration(max(1.0, eta_s))} to go" if run.state == "running" and eta_s else "",
    }
