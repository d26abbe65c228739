"""What a report is made of, and what comes of running it again."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedLine:
    """One number, or one word, of a result: what was stored, and what came now."""

    result_id: str
    name: str
    """Its place in the result, such as "features[0].attribution"."""
    stored: str | int | float | bool | None
    now: str | int | float | bool | None
    same: bool
    moved: float | None = None
    """Now less stored, where both are numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstance:
    """What the numbers rest on: a version, a model, the weights of an SAE."""

    what: str
    stored: str
    now: str
    decides: bool
    """Whether numbers must not be compared where it differs: weights are decisive, versions are
    not."""

    @property
    def same(self) -> bool:
        return self.stored == self.now


@dataclass(frozen=True, slots=True, kw_only=True)
class NotRun:
    """A result that is shown and not run again."""

    result_id: str
    tool: str
    why: str


@dataclass(frozen=True, kw_only=True)
class ReportCheck:
    """What comes of running a report again."""

    n_results: int
    """Results that ran."""
    n_same: int
    """Lines that are the same within the tolerance."""
    n_moved: int
    """Lines that differ."""
    tolerance: float
    """The relative difference up to which two numbers count as the same."""
    moved: list[ComparedLine]
    changed: list[Circumstance]
    """Versions, models and weights that are not those of the report."""
    failed: list[NotRun]
    """Results whose code stopped with an error."""
    not_run: list[NotRun]

    @property
    def reproduced(self) -> bool:
        """Whether every number that can be computed again is as it was, with the same weights."""
        decided = any(each.decides for each in self.changed)
        return not (self.n_moved or self.failed or decided) and bool(self.n_results)


@dataclass(frozen=True, kw_only=True)
class ExportedReport:
    """The files of a report."""

    title: str
    files: dict[str, str]
    """The path of each file by its kind: "html", "markdown", "script", "notebook", "data"."""
    result_ids: list[str]
    n_numbers: int
    """Numbers and words that the script compares."""
    not_run: list[NotRun] = field(default_factory=list[NotRun])
    warnings: list[str] = field(default_factory=list[str])
