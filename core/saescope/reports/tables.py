"""The numbers of a document as tables and pictures, whatever tool it is of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_ROWS, MOST_COLUMNS = 40, 10
_NOT_SHOWN = frozenset(
    {"summary", "warnings", "next", "provenance", "evidence", "state", "job_id", "truncated"}
    | {"next_offset", "result_id", "page", "page_path", "url", "pictures", "bos_prepended"}
    | {"reading", "left_out", "total"}
)
_BARS: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "attribute_logit": (("features", ("measured_effect", "attribution")),),
    "compare_prompts": (("features", ("closed", "closed_kl")),),
    "find_features": (("features", ("score", "effect")),),
    "intervene": (("on_prompts", ("effect",)), ("shares", ("alone",))),
    "steer_generate": (("table", ("concept_logprob", "kl")),),
    "steer_search": (("controls", ("concept_logprob",)),),
    "top_features": (("features", ("score",)),),
    "trace_circuit": (("nodes", ("influence",)),),
}
"""The list of each tool's result that a picture shows, and its field: the first that is there."""
MOST_BARS = 20


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Rows of one list of a result."""

    name: str
    columns: list[str]
    rows: list[list[str]]
    n_more: int


@dataclass(frozen=True, slots=True)
class BarRows:
    """What a picture shows: a bar for each row, and the span of controls."""

    what: str
    labels: list[str]
    values: list[float]
    controls: tuple[float, float] | None = None
    """Where two standard deviations about the mean of the controls begin and end."""


def facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Single values of a result with their names."""
    shown = {name: item for name, item in document.items() if name not in _NOT_SHOWN}
    return [(name, written(value)) for name, value in _single(shown, "")]


def tables(document: Mapping[str, Any]) -> list[ResultTable]:
    """The lists of a result."""
    return [
        _table(name, rows)
        for name, rows in document.items()
        if name not in _NOT_SHOWN and isinstance(rows, list) and rows
    ]


def bars(tool: str, document: Mapping[str, Any]) -> BarRows | None:
    """What a picture of the result shows; None where a table says it as well."""
    for name, fields in _BARS.get(tool, ()):
        rows = [row for row in document.get(name) or [] if isinstance(row, dict)]
        for field in fields:
            known = [row for row in rows if isinstance(row.get(field), int | float)][:MOST_BARS]
            if known:
                values = [float(row[field]) for row in known]
                return BarRows(f"{name}: {field}", [_label(row) for row in known], values)
    if isinstance(document.get("effect"), int | float):
        span = _span(document.get("control"))
        return BarRows("effect", ["the edit"], [float(document["effect"])], span)
    return None


def written(value: Any) -> str:
    """A value as it is read."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "unknown"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return (
            " to ".join(map(written, value)) if len(value) == 2 else ", ".join(map(written, value))
        )
    if isinstance(value, dict):
        return ", ".join(f"{name} {written(item)}" for name, item in value.items())
    return str(value)


def _single(value: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _single(item, f"{where}{name}.")
        elif not isinstance(item, list) or _is_interval(item):
            yield f"{where}{name}", item


def _is_interval(value: list[Any]) -> bool:
    return len(value) == 2 and all(isinstance(item, int | float) for item in value)


def _table(name: str, rows: list[Any]) -> ResultTable:
    records: list[dict[str, Any]] = [
        row if isinstance(row, dict) else {name: row} for row in rows[:MOST_ROWS]
    ]
    flat = [dict(_flat(row, "")) for row in records]
    names = dict.fromkeys(key for row in flat for key, value in row.items() if value is not None)
    columns = [*names][:MOST_COLUMNS]
    return ResultTable(
        name,
        columns,
        [[written(row[key]) if key in row else "" for key in columns] for row in flat],
        max(0, len(rows) - MOST_ROWS),
    )


def _flat(row: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for name, item in row.items():
        if name in _NOT_SHOWN:
            continue
        if isinstance(item, dict):
            yield from _flat(item, f"{where}{name}.")
        elif item != []:
            yield f"{where}{name}", item


def _label(row: Mapping[str, Any]) -> str:
    """What a row is about."""
    place = row.get("token") or row.get("token_b") or row.get("target") or row.get("arm")
    if "strength" in row and "feature" not in row:
        return f"strength {written(row['strength'])}"
    who = f"feature {row['feature']}" if row.get("feature") is not None else str(row.get("id", ""))
    if isinstance(row.get("top_token"), dict):
        place = row["top_token"].get("token")
    return " ".join(filter(None, [who, repr(place) if place else ""]))


def _span(control: Any) -> tuple[float, float] | None:
    if not isinstance(control, dict) or control.get("mean") is None:
        return None
    spread = 2 * (control.get("sd") or 0.0)
    return control["mean"] - spread, control["mean"] + spread


def numbers(value: Any) -> Iterator[float]:
    """All numbers of a document."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield float(value)
    inner: Sequence[Any] = (
        [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    )
    for item in inner:
        yield from numbers(item)
