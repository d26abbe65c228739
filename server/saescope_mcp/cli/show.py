"""A tool's document for a person's eyes."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from saescope_mcp.binding import Outcome
from saescope_mcp.cli.tables import Column, Rows, pairs

_HEADINGS = {
    "max_activation": "max",
    "mean_activation": "mean",
    "measured_effect": "measured",
    "concept_score": "concept",
    "n_tokens": "tokens",
    "top_token.pos": "pos",
    "top_token.token": "token",
}
_SAID = ("total", "n_tokens", "n_left_out", "bos_prepended", "response_format")
"""Numbers that the summary has already."""
_COLUMNS = {
    "saes": ("release", "sae_id", "d_sae", "l0", "cached"),
    "indexes": ("sae", "n_features", "n_fired", "median_density", "n_tokens", "n_contexts"),
}
_COMMON = (
    "summary",
    "warnings",
    "next",
    "result_id",
    "evidence",
    "provenance",
    "truncated",
    "next_offset",
)


def show(outcome: Outcome, console: Console) -> None:
    """Summary first, then tables, numbers, warnings, and what to do next."""
    document = outcome.document
    if outcome.is_error:
        console.print(f"[bold red]{document['code']}[/] {escape(document['message'])}")
        console.print(f"[bold]Next:[/] {escape(document['hint'])}", soft_wrap=True)
        return
    console.print(escape(document["summary"]), style="bold")
    body = {name: value for name, value in document.items() if name not in _COMMON}
    for name, value in body.items():
        if is_rows(value):
            console.print(table(value, title=name, columns=_COLUMNS.get(name, ())))
    numbers = {
        name: value
        for name, value in body.items()
        if not is_rows(value) and name not in _SAID and value not in (None, [], {})
    }
    shown = {name: text_of(value, name) for name, value in _flatten(numbers).items()}
    if shown:
        console.print(pairs(shown))
    for warning in document["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    if document["evidence"]:
        console.print(
            f"evidence: {document['evidence']}   result: {document['result_id']}", style="dim"
        )
    for call in document["next"]:
        console.print(f"[dim]next (as a tool call):[/] {escape(call)}", soft_wrap=True)


def table(
    rows: Sequence[Mapping[str, Any]], *, title: str = "", columns: Sequence[str] = ()
) -> Rows:
    """Objects as rows; columns that say nothing are left out."""
    flat = [_flatten(row) for row in rows]
    names = list(columns) or [
        name for name in flat[0] if _says_something(name, [row.get(name) for row in flat])
    ]
    return Rows([_column(name, [row.get(name) for row in flat]) for name in names], title)


def _column(name: str, values: Sequence[Any]) -> Column:
    return Column(
        _HEADINGS.get(name, name.rsplit(".", 1)[-1]),
        [text_of(value, name) for value in values],
        all(isinstance(value, int | float | None) for value in values),
    )


def text_of(value: Any, name: str = "") -> str:
    """A value in few characters; tokens are quoted, since spaces matter."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict) and "prob" in value:
        return f"{value['token']!r} {100 * value['prob']:.3g}%"
    if isinstance(value, dict):
        return " ".join(f"{text_of(item)}" for item in value.values())
    if isinstance(value, list):
        quoted = name.endswith(("tokens", "promotes", "suppresses"))
        return ", ".join(repr(item) if quoted else text_of(item) for item in value)
    return repr(value) if name.endswith("token") else str(value)


def is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat |= (
            _flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict) and "prob" not in value
            else {f"{prefix}{name}": value}
        )
    return flat


def _says_something(name: str, values: Sequence[Any]) -> bool:
    return any(value is not None for value in values) and not (
        name.endswith("text_index") and not any(values)
    )
