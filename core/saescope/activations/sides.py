"""A list of texts cut in two by a column: those with a label, and the others."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from saescope.activations.columns import ListedText, label_of
from saescope.activations.listed import read_rows
from saescope.errors import ArgumentError

NEGATIVE = ("0", "no", "false", "none", "")
"""Labels of the other side."""
MOST_LABELS = 10
"""Values of a column of labels that an error names."""


class TwoSides(NamedTuple):
    """Rows by their labels."""

    rows: list[ListedText]
    others: list[ListedText]
    label: str
    """That of the first side."""
    other_labels: frozenset[str]
    n_without: int
    """Rows without a label that belong to no side."""


def read_sides(
    path: str | Path, label_column: str, *, column: str = ""
) -> tuple[list[str], list[str]]:
    """The texts of a file with a label and those without it, as `two_sides` cuts them.

    Raises:
        NotFoundError, ArgumentError, FormatError: there are no such texts, or no two sides.
    """
    named = label_column.partition("=")[0]
    sides = two_sides(read_rows(Path(path), column=column, more=[named]), label_column)
    return [row.text for row in sides.rows], [row.text for row in sides.others]


def two_sides(rows: Sequence[ListedText], label_column: str) -> TwoSides:
    """Rows whose first value beside the text is that of `label_column` ("column=value"), and the
    others; of a column alone the value that says yes comes first.

    Raises:
        ArgumentError: they have not exactly two values, or none has the one that is named.
    """
    column, _, wanted = label_column.partition("=")
    labels = [label_of(row.beside[0]) for row in rows]
    first = label_of(wanted) or _positive(column, labels)
    values = {label.casefold() for label in labels if label}
    if len(values) > 1:  # a row without a label belongs to no side
        rows = [row for row, label in zip(rows, labels, strict=True) if label]
    n_without, labels = len(labels) - len(rows), [label_of(row.beside[0]) for row in rows]
    chosen = [label.casefold() == first.casefold() for label in labels]
    if not any(chosen) or all(chosen):
        raise _no_sides(column, labels)
    parts = [[row for row, it in zip(rows, chosen, strict=True) if it == side] for side in (1, 0)]
    others = frozenset(label for label, it in zip(labels, chosen, strict=True) if not it)
    return TwoSides(parts[0], parts[1], first, others, n_without)


def _positive(column: str, labels: Sequence[str]) -> str:
    """The value that says yes, of two; the first where none does.

    Raises:
        ArgumentError: there are not exactly two, of which one may be nothing.
    """
    values = [*dict.fromkeys(labels)]
    values = [value for value in values if value] if len(values) > 2 else values
    if len(values) != 2:
        raise _no_sides(column, labels)
    return min(values, key=lambda value: value.casefold() in NEGATIVE)


def _no_sides(column: str, labels: Sequence[str]) -> ArgumentError:
    values = [*filter(None, dict.fromkeys(labels))] or ["..."]
    return ArgumentError(
        f"Column {column!r} makes no two sides of a contrast: it has {len(values)} different "
        "values.",
        field="label_column",
        got=values[:MOST_LABELS],
        allowed="a column with two values, or column=value for one against all others",
        hint=f'Name one of several values: label_column="{column}={values[0][:40]}".',
    )
