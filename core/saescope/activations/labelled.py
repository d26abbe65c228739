"""Texts with what a column of their file says of each: true or false."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from saescope.activations.columns import Record, label_of, text_at
from saescope.activations.readers import RECORDS
from saescope.activations.text import Dataset, open_dataset
from saescope.errors import ArgumentError, FormatError, NotFoundError

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class LabelledText(NamedTuple):
    """A document and its label."""

    text: str
    label: bool | None
    """None where its row has no label."""


@dataclass(frozen=True, slots=True)
class LabelledDataset(Dataset):
    """A dataset whose documents have labels."""

    labelled: Callable[[], Iterator[LabelledText]]


def open_labelled(
    path: str, label_column: str, *, text_column: str = "", roots: Sequence[Path] = ()
) -> LabelledDataset:
    """A .jsonl, .csv, .tsv or .parquet file with a column of true and false, 0 and 1, yes and no;
    `column=value` makes true what has that value. A row without a label is a document without one.

    Raises:
        ArgumentError, NotFoundError, FormatError: there is no such file, column or label.
    """
    file = Path(path).expanduser()
    records = RECORDS.get(file.suffix.lower())
    if records is None or not file.is_file():
        raise ArgumentError(
            "Labels come from a column of one file.",
            code="UNKNOWN_FORMAT",
            field="dataset",
            got=file.name,
            allowed=f"a file: {', '.join(RECORDS)}",
            hint="Save the texts and their labels as two columns of a .csv or .jsonl file.",
        )
    dataset = open_dataset(path, text_column=text_column, roots=roots)

    def read() -> Iterator[LabelledText]:
        for record in records(file, text_column):
            for text in text_at(record.cells, record.column, record.where):
                yield LabelledText(text, _label(record, label_column))

    next(read(), None)  # a column that is not there is said now
    return LabelledDataset(dataset.name, dataset.fingerprint, dataset.read, read)


def _label(record: Record, label_column: str) -> bool | None:
    if label_column in record.cells:
        return _truth(label_of(record.cells[label_column]), record, label_column)
    name, sign, wanted = label_column.partition("=")
    if not sign or name not in record.cells:
        there = list(record.cells)[:20]
        raise NotFoundError(
            f"{record.where} has no column {name!r}.",
            code="COLUMN_NOT_FOUND",
            field="label_column",
            got=label_column,
            allowed=there,
            hint=f'Name it: label_column="{there[-1]}", or "column=value".',
        )
    said = label_of(record.cells[name])
    return said.casefold() == label_of(wanted).casefold() if said else None


def _truth(said: str, record: Record, label_column: str) -> bool | None:
    label = _WORDS.get(said.casefold())
    if said and label is None:
        raise FormatError(
            f"{record.where} has {said[:40]!r} in column {label_column!r}: neither true nor false.",
            code="LABEL_INVALID",
            field="label_column",
            got=said[:40],
            allowed="true and false, 1 and 0, yes and no",
            hint=f'Say which value is positive: label_column="{label_column}={said[:40]}".',
        )
    return label
