"""Features as files that Neuronpedia reads: the folder of its own export, which an instance imports
(`/api/admin/import`), and the bodies of its API beside it."""

import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from saescope.errors import ArgumentError, cannot_write
from saescope.neuronpedia import rows, uploads
from saescope.neuronpedia.identity import HostedSAE
from saescope.neuronpedia.rows import Exported, Origin, Row
from saescope.records.publication import PublishedFile

BATCH = 1024
"""Features of a file, as in the published exports."""


class FeatureExport(NamedTuple):
    """What was written, or in a dry run would be, and where."""

    folder: Path
    """`<folder>/<model>/<source>`, as in the public bucket."""
    neuronpedia_id: str
    n_features: int
    n_examples: int
    n_labels: int
    files: tuple[PublishedFile, ...]
    """`upload-N.json` is a body of `POST /api/feature/upload-batch`, `list.json` that of
    `POST /api/list/new-with-features`; all others are the export that an instance imports."""
    url: str
    """Shows the features side by side where Neuronpedia hosts them."""
    written: bool
    warnings: tuple[str, ...]


def write_features(
    folder: str | Path,
    origin: Origin,
    features: Sequence[Exported],
    *,
    now: datetime | None = None,
    dry_run: bool = False,
) -> FeatureExport:
    """Write features into the new folder `<folder>/<model>/<source>`, whole or not at all.

    Raises:
        ArgumentError: EMPTY_REQUEST, there are none; ALREADY_EXISTS, that folder holds something.
        ResourceError: DISK_FULL or CANNOT_WRITE.
    """
    _require_some(features)
    place = Path(folder).expanduser() / origin.sae.model / origin.sae.source
    _require_new(place)
    features = sorted(features, key=lambda each: each.card.feature)
    cards = [each.card for each in features]
    listed = uploads.list_of(origin.sae, cards, origin.title)
    by_table = _tables(origin.sae, features)
    single = rows.source_files(origin, cards, now or datetime.now(UTC))
    bodies = {
        f"upload-{n}.json": body
        for n, body in enumerate(uploads.upload_bodies(origin.sae, features))
    }
    content = {
        **{f"{name}.jsonl": _lines([row]) for name, row in single.items()},
        **{name: _lines([body]) for name, body in bodies.items()},
        "list.json": _lines([uploads.list_body(listed)]),
        **_packed(by_table),
    }
    if not dry_run:
        _write(place, content)
    silent = [str(card.feature) for card in cards if not card.examples]
    return FeatureExport(
        place,
        str(origin.sae),
        len(cards),
        len(by_table["activations"]),
        len(by_table["explanations"]),
        tuple(PublishedFile(name=name, n_bytes=len(data)) for name, data in content.items()),
        uploads.quick_list_url(listed),
        not dry_run,
        (f"Without examples, and so in no upload: {', '.join(silent)}.",) if silent else (),
    )


def _require_some(features: Sequence[Exported]) -> None:
    if not features:
        raise ArgumentError(
            "There is nothing to write.",
            code="EMPTY_REQUEST",
            field="features",
            got=0,
            allowed="one feature or more",
            hint="Name the features to write.",
        )


def _require_new(place: Path) -> None:
    there = place.is_symlink() or (place.exists() and not place.is_dir())
    if there or (place.is_dir() and any(place.iterdir())):
        raise ArgumentError(
            f"{place.name!r} is there already.",
            code="ALREADY_EXISTS",
            field="path",
            got=place,
            allowed="a folder in which this SAE has none yet",
            hint="Choose another folder: nothing is written among files that are there.",
        )


def _tables(sae: HostedSAE, features: Sequence[Exported]) -> dict[str, list[Row]]:
    cards = [each.card for each in features]
    return {
        "features": [rows.feature_row(sae, each) for each in features],
        "activations": [row for card in cards for row in rows.activation_rows(sae, card)],
        "explanations": [row for card in cards for row in rows.explanation_rows(sae, card)],
    }


def _packed(by_table: Mapping[str, Sequence[Row]]) -> dict[str, bytes]:
    """The tables as `<table>/batch-<n>.jsonl.gz`; an empty one has no file."""
    return {
        f"{table}/batch-{n}.jsonl.gz": gzip.compress(_lines(batch), 5, mtime=0)
        for table, table_rows in by_table.items()
        for n, batch in enumerate(_batches(table_rows))
    }


def _batches(table_rows: Sequence[Row]) -> Iterable[list[Row]]:
    """Rows of so many features at a time."""
    order = {name: n for n, name in enumerate(dict.fromkeys(row["index"] for row in table_rows))}
    batches: dict[int, list[Row]] = {}
    for row in table_rows:
        batches.setdefault(order[row["index"]] // BATCH, []).append(row)
    return batches.values()


def _lines(written: Iterable[Row]) -> bytes:
    return "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in written).encode()


def _write(place: Path, content: Mapping[str, bytes]) -> None:
    """Made aside and put in place at once, so that no half of an export is taken for one."""
    aside = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".exporting-", dir=place.parent))
        for name, data in content.items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_bytes(data)
        aside.chmod(0o755)  # as any new folder; a temporary one is its owner's alone
        os.replace(aside, place)
    except OSError as error:
        raise cannot_write("The export", place.parent, error, field="path") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
