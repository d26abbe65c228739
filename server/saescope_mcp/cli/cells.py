"""Values of a document as the cells of tables, and a document that nobody has a better display
for."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

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
_OF_TOKENS = ("token", "tokens", "target", "promotes", "promoted", "suppresses")
"""Names of tokens, whose spaces matter."""
_SAID = ("total", "n_tokens", "n_left_out", "bos_prepended", "response_format")
"""Numbers that the summary has already."""
_COLUMNS = {
    "saes": ("release", "sae_id", "d_sae", "l0", "cached"),
    "indexes": ("sae", "n_features", "n_fired", "median_density", "n_tokens", "n_contexts"),
}
_NUMBER = re.compile(r"[+-]?\d[\d.,]*(?:e[+-]\d+)?%?|-")
"""A number, or what stands for none, that was written out before."""
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


def render(document: Mapping[str, Any], console: Console) -> None:
    """Tables and numbers of any document."""
    body = {name: value for name, value in document.items() if name not in _COMMON}
    numbers: dict[str, Any] = {}
    for name, value in body.items():
        if not is_rows(value):
            numbers |= {} if name in _SAID or value in (None, "", [], {}) else {name: value}
        elif listed := _only_column(value):
            numbers[name] = listed
        else:
            console.print(table(value, title=name, columns=_COLUMNS.get(name, ())))
    shown = {name: text_of(value, name) for name, value in _flatten(numbers).items()}
    if shown:
        console.print(pairs(shown))


def table(
    rows: Sequence[Mapping[str, Any]], *, title: str = "", columns: Sequence[str] = ()
) -> Rows:
    """Objects as rows; columns that say nothing are left out."""
    flat = [_flatten(row) for row in rows]
    names = list(columns) or _telling(flat)
    return Rows(
        [_column(name, names, [row.get(name) for row in flat]) for name in names],
        title,
    )


def _telling(flat: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of any row that say something."""
    names = dict.fromkeys(name for row in flat for name in row)
    return [name for name in names if _says_something(name, [row.get(name) for row in flat])]


def _only_column(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The values of rows in which one column alone says something."""
    flat = [_flatten(row) for row in rows]
    names = _telling(flat)
    return [row[names[0]] for row in flat] if len(names) == 1 else []


def _heading(name: str, names: Sequence[str]) -> str:
    """The last part of a nested name, or as much of it as tells it from the others."""
    parts = name.split(".")
    for n in range(1, len(parts)):
        short = ".".join(parts[-n:])
        if sum(f".{other}".endswith(f".{short}") for other in names) == 1:
            return short
    return name


def _column(name: str, names: Sequence[str], values: Sequence[Any]) -> Column:
    return Column(
        _HEADINGS.get(name, _heading(name, names)),
        [text_of(value, name) for value in values],
        all(isinstance(v, int | float | None) or _NUMBER.fullmatch(str(v)) for v in values),
    )


def text_of(value: Any, name: str = "") -> str:
    """A value in few characters; tokens are quoted, since spaces matter."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict) and "prob" in value:
        return f"{value['token']!r} {100 * value['prob']:.3g}%"
    if _is_interval(value):
        ends = [value["low"], value["high"]]
        between = "" if None in ends else f" ({text_of(ends[0])} to {text_of(ends[1])})"
        return f"{text_of(value['value'])}{between}"
    if is_label(value):
        return _label(value)
    if isinstance(value, dict):
        return " ".join(text_of(item, part) for part, item in value.items() if item is not None)
    if isinstance(value, list):
        return ("; " if is_rows(value) else ", ").join(text_of(item, name) for item in value)
    quoted = isinstance(value, str) and name.rsplit(".", 1)[-1].endswith(_OF_TOKENS)
    return repr(value) if quoted else str(value)


def is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def is_label(value: Any) -> bool:
    return isinstance(value, dict) and {"text", "source", "score", "verdict"} <= value.keys()


def _label(label: Mapping[str, Any]) -> str:
    """A name beside how it did in its test, without which it is a guess."""
    score = label["score"]
    accuracy = score and score.get("balanced_accuracy")
    tested = f"balanced accuracy {accuracy:.2f}, " if accuracy is not None else ""
    return f"{label['text']} ({tested}{label['verdict']})"


def _is_whole(value: Mapping[str, Any]) -> bool:
    """Whether an object is shown in one cell."""
    return "prob" in value or _is_interval(value) or is_label(value)


def _is_interval(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"value", "low", "high"}


def _flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat |= (
            _flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict) and not _is_whole(value)
            else {f"{prefix}{name}": value}
        )
    return flat


def _says_something(name: str, values: Sequence[Any]) -> bool:
    return any(value is not None for value in values) and not (
        name.endswith("text_index") and not any(values)
    )
