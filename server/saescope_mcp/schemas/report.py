"""export_report."""

from typing import Annotated, ClassVar, Literal, LiteralString

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from saescope.records.report import ReportCheck
from saescope_mcp.schemas.bounds import AtMost, Identifier, LocalPath, Name, Text
from saescope_mcp.schemas.common import Reply, Request, WaitS, is_empty, unfinished

_WRITES = ("path", "results", "investigation", "title")


class ExportReport(Request):
    """Arguments of export_report: path with results or an investigation, or check."""

    results: Annotated[list[Identifier], AtMost("max_noted")] = Field(
        default=[], description="Result ids, in the order to tell them."
    )
    investigation: Name = Field(default="", description="Or all results of this list.")
    path: LocalPath = Field(default="", description="New folder in a write root.")
    title: Text = Field(default="", description="Its title.")
    check: LocalPath = Field(
        default="", description="A report's folder: compute all again and compare."
    )
    wait_s: WaitS = 30.0

    @model_validator(mode="after")
    def _writes_or_checks(self) -> "ExportReport":
        given = [name for name in _WRITES if getattr(self, name)]
        if self.check and given:
            _refuse("conflicting_arguments", given[0], f"check and {given[0]} are both given")
        if not self.check and not self.path:
            _refuse("missing_argument", "path", "There is neither path nor check")
        if not self.check and not (self.results or self.investigation):
            _refuse("missing_argument", "results", "There is neither results nor investigation")
        return self


def _refuse(kind: LiteralString, field: str, said: str) -> None:
    allowed = "path with results or an investigation; or check alone"
    raise PydanticCustomError(kind, "{said}", {"field": field, "said": said, "allowed": allowed})


class ReportReply(Reply, frozen=True):
    """What was written, or how far a check is."""

    evidence: None = None
    provenance: None = None
    result_id: None = None
    state: Literal["done", "running"] = "done"
    job_id: str | None = None
    files: dict[str, str] = Field(default={}, exclude_if=is_empty)
    """What was written: html, markdown, script, notebook, data."""
    n_values: int | None = None
    """Values that are compared when it is run again."""
    reproduced: bool | None = None
    """Whether a check found every value as it was, with the same weights."""
    truncated: bool = Field(default=False, exclude_if=is_empty)


REPORT_LATER = unfinished(ReportCheck, ReportReply, without={"reproduced"})


class ExportReportReply(REPORT_LATER, frozen=True):
    """Where the report is, or what came of running it again."""

    listed: ClassVar[str] = "moved"
    usual: ClassVar[dict[str, object]] = Reply.usual | {"state": "done"}
