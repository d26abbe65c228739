"""Kept results as a report that others can read and run: the files of a new folder."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from saescope.errors import ArgumentError, cannot_write
from saescope.ledger import KeptEntry, Ledger
from saescope.records.report import ExportedReport
from saescope.reports.data import ReportData
from saescope.reports.page import html, markdown, pictures
from saescope.reports.script import Program, notebook, program, script
from saescope.reports.sources import known_sources

HTML, MARKDOWN, SCRIPT, NOTEBOOK, DATA = (
    *("report.html", "report.md", "rerun.py"),
    *("rerun.ipynb", "report.json"),
)
ASIDE = ".report-"
"""Begins the name of the folder in which files are made."""


def export_report(
    folder: str | Path,
    *,
    results: Sequence[str] = (),
    investigation: str = "",
    title: str = "",
    ledger: Ledger | None = None,
) -> ExportedReport:
    """Write kept results, or those of an investigation, into a new folder: a report to read
    (`report.html`, `report.md`), and a script and a notebook that compute every number again with
    the library alone and compare (`rerun.py`, `rerun.ipynb`).

    Results that cannot be computed again, such as a training, are shown and named in `not_run`.

    Raises:
        ArgumentError: MISSING_ARGUMENT, or REPORT_EXISTS: something is in the folder.
        NotFoundError: RESULT_NOT_FOUND, INVESTIGATION_NOT_FOUND.
        ResourceError: the folder cannot be written.
    """
    data = gathered(ledger or Ledger(), results, investigation=investigation, title=title)
    return write_report(Path(folder).expanduser(), data)


def gathered(
    ledger: Ledger, results: Sequence[str], *, investigation: str, title: str
) -> ReportData:
    """What the report is made of; raises as `ss.export_report`."""
    if not results and not investigation:
        raise ArgumentError(
            "Neither results nor an investigation is named.",
            code="MISSING_ARGUMENT",
            field="results",
            allowed="result ids, or the name of an investigation",
            hint="ss.Ledger().find() lists what is kept.",
        )
    ids, notes, about = [*results], dict[str, str](), ""
    if investigation:
        one = ledger.investigations.of(investigation)
        ids += one.result_ids
        notes, about = dict(zip(one.result_ids, one.notes, strict=True)), one.note
    entries = [ledger.bring(result_id) for result_id in dict.fromkeys(ids)]
    if not entries:
        raise ArgumentError(
            f"Investigation {investigation!r} has no result.",
            code="MISSING_ARGUMENT",
            field="investigation",
            got=investigation,
            allowed="an investigation with at least one result",
            hint=f"ss.Ledger().investigations.add({investigation!r}, [...]) adds some.",
        )
    known, handles = known_sources(), {handle for entry in entries for handle in used(entry)}
    return ReportData(
        title=title or investigation or "Report",
        note=about,
        entries=entries,
        notes=notes,
        sources={handle: known[handle] for handle in sorted(handles) if handle in known},
    )


def used(entry: KeptEntry) -> list[str]:
    """Every SAE that a result needs to be computed again."""
    more = [entry.arguments.get(name, "") for name in ("against_sae", "match")]
    return [*entry.saes, *filter(None, more)]


def program_of(data: ReportData) -> Program:
    """The code of a report."""
    return program(data.entries, data.sources, title=data.title, notes=data.notes)


def report_html(data: ReportData) -> str:
    """The report to read, without files."""
    return html(data, program_of(data))


def write_report(folder: Path, data: ReportData) -> ExportedReport:
    """Write all files, or none; raises as `ss.export_report`."""
    require_new(folder)
    code = program_of(data)
    drawn = pictures(data)
    files = {
        HTML: html(data, code),
        MARKDOWN: markdown(data, code, drawn),
        SCRIPT: script(code),
        NOTEBOOK: notebook(code),
        DATA: data.to_text(),
    } | drawn
    _write(folder, files)
    kinds = {"html": HTML, "markdown": MARKDOWN, "script": SCRIPT, "notebook": NOTEBOOK}
    kinds |= {"data": DATA}
    loud = [
        f"{each.tool} {each.result_id} is shown and NOT run again: {each.why}."
        for each in code.not_run
    ]
    return ExportedReport(
        title=data.title,
        files={kind: str(folder / name) for kind, name in kinds.items()},
        result_ids=[entry.result_id for entry in data.entries],
        n_numbers=code.n_values,
        not_run=code.not_run,
        warnings=loud,
    )


def require_new(folder: Path) -> None:
    """Raises ArgumentError: REPORT_EXISTS: something is there."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    raise ArgumentError(
        f"{folder} is there already, and a report overwrites nothing.",
        code="REPORT_EXISTS",
        field="path",
        got=folder,
        allowed="a new folder, or an empty one",
        hint="Name another folder.",
    )


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """All files in one move.

    Raises:
        ResourceError: DISK_FULL or CANNOT_WRITE.
    """
    aside = folder.parent / f"{ASIDE}{uuid4().hex[:8]}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
        for name, text in files.items():
            place = aside / name
            place.parent.mkdir(exist_ok=True)
            place.write_text(text, encoding="utf-8", errors="replace")
        if folder.is_dir():
            folder.rmdir()
        aside.rename(folder)
    except OSError as error:
        raise cannot_write("The report", folder.parent, error, field="path") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
