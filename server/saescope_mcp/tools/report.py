"""export_report."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp.types import ToolAnnotations

from saescope.records.report import ExportedReport, ReportCheck
from saescope.reports import (
    ReportData,
    checked,
    gathered,
    read_data,
    require_new,
    said,
    texts_named,
    write_report,
)
from saescope_mcp.binding import next_call, nothing
from saescope_mcp.groups import Group
from saescope_mcp.jobs import Job
from saescope_mcp.replies import Tool
from saescope_mcp.replies.tool import by_itself
from saescope_mcp.replies.waiting import result_or_job, still_running
from saescope_mcp.schemas.report import ExportReport, ExportReportReply
from saescope_mcp.state import AppState, model_name, readable, writable
from saescope_mcp.tools.results import void_shown

if TYPE_CHECKING:
    from saescope_mcp.settings import Settings

MOST_MOVED = 40
"""Lines that differ of a reply: the summary has their number."""


async def export_report(state: AppState, request: ExportReport) -> ExportReportReply:
    """Kept results as files for others: a report (HTML, Markdown with pictures, citations), and a
    script and notebook that compute every number again with the library alone and compare. With
    check: runs a report again in a fresh process, says which numbers moved, and which weights or
    versions changed. Results that cannot run again are named."""
    if request.check:
        return await _check(state, request)
    folder = Path(writable(request.path, state.settings, "path"))
    await state.loaders.run(partial(require_new, folder))
    data = await state.keeper.ask(
        gathered, request.results, investigation=request.investigation, title=request.title
    )
    await void_shown(state, data.entries)
    done = await state.loaders.run(partial(write_report, folder, data))
    return _written(done, folder)


def _written(done: ExportedReport, folder: Path) -> ExportReportReply:
    n, left = len(done.result_ids), len(done.not_run)
    shown: Any = {"not_run": done.not_run}
    again = f"; {left} of them cannot be run again" if left else ""
    return ExportReportReply(
        summary=f"Report of {n} result{'s' * (n != 1)} written to {folder}{again}; rerun.py and "
        f"rerun.ipynb compute {done.n_numbers} values again and compare them.",
        warnings=done.warnings,
        next=[next_call("export_report", check=str(folder))] if left < n else [],
        files=done.files,
        n_values=done.n_numbers,
        **shown,
    )


async def _check(state: AppState, request: ExportReport) -> ExportReportReply:
    place = readable(request.check, state.settings, "check")
    data = await state.loaders.run(partial(read_data, Path(place)))
    _require_readable(data, state.settings)
    await void_shown(state, data.entries)

    async def work(job: Job) -> ExportReportReply:
        job.say(f"computing {len(data.entries)} results again in a process of its own")
        run = partial(checked, data, offline=state.settings.offline)
        return _compared(await state.loaders.run(run))

    again = next_call("export_report", check=request.check)
    done, job = await result_or_job(state, request, work, tool="export_report", again=again)
    return done or ExportReportReply(**still_running(job, "The check"))


def _require_readable(data: ReportData, settings: "Settings") -> None:
    """Raises ArgumentError: PATH_NOT_ALLOWED: the report names files that this server may not
    read: it may be a stranger's."""
    for source in data.sources.values():
        if source.path:
            readable(source.path, settings, "check")
        model_name(source.model, settings)
    for place in texts_named(data.entries):
        readable(place, settings, "check")


def _compared(done: ReportCheck) -> ExportReportReply:
    more, shown = done.n_moved - MOST_MOVED, replace(done, moved=done.moved[:MOST_MOVED])
    fields: Any = {name: getattr(shown, name) for name in ReportCheck.__dataclass_fields__}
    return ExportReportReply(
        summary=said(done),
        warnings=[f"{more} more values differ: rerun.py prints all."] if more > 0 else [],
        n_values=done.n_same + done.n_moved,
        reproduced=done.reproduced,
        **fields,
    )


TOOLS = [
    Tool(
        export_report,
        ExportReport,
        ToolAnnotations(
            title="Export or check a report",
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=False,
            open_world_hint=False,
        ),
        group=Group.RECORD,
        keeps=nothing,
        prepare=by_itself,
    )
]
