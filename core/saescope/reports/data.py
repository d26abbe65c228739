"""What a report is made of, as a file from which it can be made and run again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saescope.errors import FormatError, NotFoundError
from saescope.fence import read_own
from saescope.json_text import parse
from saescope.ledger import KeptEntry
from saescope.reports.sources import SAESource, source_of

FILE = "report.json"
VERSION = 1
MOST_BYTES = 2**28


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Results with what is said of them, and where their SAEs come from."""

    title: str
    note: str
    """What the investigation itself says."""
    entries: Sequence[KeptEntry]
    notes: Mapping[str, str]
    """What is said of results, by id."""
    sources: Mapping[str, SAESource]

    def to_text(self) -> str:
        """The data as a file."""
        fields = {
            "version": VERSION,
            "title": self.title,
            "note": self.note,
            "notes": dict(self.notes),
            "sources": {handle: asdict(source) for handle, source in self.sources.items()},
            "results": {entry.result_id: json.loads(entry.to_bytes()) for entry in self.entries},
        }
        return json.dumps(fields, ensure_ascii=False, indent=1) + "\n"


def read_data(path: Path) -> ReportData:
    """The data of a report: of its folder, or of any file in it.

    Raises:
        NotFoundError: REPORT_NOT_FOUND: there is none.
        FormatError: REPORT_DAMAGED: it is not as it was written.
    """
    place = path / FILE if path.is_dir() else path.parent / FILE
    if path.name == FILE:
        place = path
    try:
        content = read_own(place, limit=MOST_BYTES)
    except OSError as error:
        raise NotFoundError(
            f"There is no report at {path}: {place.name} cannot be read "
            f"({error.strerror or error}).",
            code="REPORT_NOT_FOUND",
            field="check",
            got=path,
            allowed=f"a folder of ss.export_report, or its {FILE}",
            hint="ss.export_report(folder, results=[...]) writes one.",
        ) from error
    try:
        return _data(parse(content))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"{error}" if isinstance(error, ValueError) else "lacks a part of a report"
        raise FormatError(
            f"The report {place} is damaged: it {why}.",
            code="REPORT_DAMAGED",
            field="check",
            got=place,
            hint="Export the results again into a new folder.",
        ) from error


def _data(said: Any) -> ReportData:
    if said["version"] != VERSION:
        raise ValueError(f"is of version {said['version']}, not {VERSION}")
    entries = list[KeptEntry]()
    for result_id, fields in said["results"].items():
        entry = KeptEntry.from_bytes(json.dumps(fields).encode())
        if entry.result_id != result_id:
            raise ValueError(f"holds a result {result_id} that was changed since it was exported")
        entries.append(entry)
    sources = {handle: source_of(row) for handle, row in said["sources"].items()}
    for handle, source in sources.items():
        if any(not isinstance(value, str | bool) for value in asdict(source).values()):
            raise ValueError(f"says nothing sensible of where {handle!r} comes from")
    return ReportData(
        title=str(said["title"]),
        note=str(said["note"]),
        entries=entries,
        notes={str(name): str(note) for name, note in said["notes"].items()},
        sources=sources,
    )
