"""Files of Neuronpedia as rows of its tables: its export (a folder, or one of its packed tables),
a feature's JSON as its API gives it, the body of an upload, and lists.

Strangers wrote them: what is opened is bounded before it is read, and lies inside the fence.
"""

import gzip
import io
import zlib
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saescope import json_text
from saescope.cancel import stop_if_cancelled
from saescope.errors import ArgumentError, FormatError
from saescope.fence import check_inside, open_file, present
from saescope.neuronpedia import records
from saescope.neuronpedia.identity import HostedSAE
from saescope.neuronpedia.records import Row
from saescope.neuronpedia.uploads import FeatureList, FeatureOnList
from saescope.untrusted import clean_line

FILE_BYTES, TEXT_BYTES, LINE_BYTES = 2 << 30, 4 << 30, 16 << 20
"""The largest file, what it may unpack to, and the longest line: a feature of a model of 16,384
dimensions takes a third of a megabyte."""
DOCUMENT_BYTES = 64 << 20
"""The largest file that is one JSON document."""
MOST_FILES = 10_000
LISTS = "an object with name and features, listId and featuresToAdd, or name and neurons"
KNOWN = (
    "an export of an SAE (its folder, or one of its .jsonl or .jsonl.gz), a feature's JSON, the "
    "body of an upload, or a list"
)
_TABLES = ("features", "explanations", "activations")


def rows_in(place: Path) -> Iterable[Row]:
    """What stands in a file, or in the files of a folder, in the words of the tables.

    Raises:
        FormatError, ArgumentError: as `read_features`.
    """
    check_inside(place)
    if not place.is_dir():
        yield from _rows_of_file(place)
        return
    with present(place.name):
        folder = _source_folder(place)
        files = [
            file
            for table in _TABLES
            for file in sorted((folder / table).glob("*"))
            if file.name.endswith((".jsonl", ".jsonl.gz"))
        ]
    if len(files) > MOST_FILES:
        raise unreadable(place.name, f"holds {len(files)} files", allowed=f"{MOST_FILES} at most")
    if not files:
        raise unreadable(place.name, "holds no table of an export", allowed=KNOWN)
    for file in files:
        yield from _rows_of_file(file)


def _source_folder(place: Path) -> Path:
    """The folder of one SAE: this one, or the only one of `<model>/<source>` below it."""
    if _is_export(place):
        return place
    below = [each for pattern in ("*", "*/*") for each in place.glob(pattern) if _is_export(each)]
    if len(below) > 1:
        names = sorted(str(each.relative_to(place)) for each in below)[:10]
        raise unreadable(
            place.name, f"holds exports of {len(below)} SAEs", allowed=f"one of {', '.join(names)}"
        )
    return below[0] if below else place


def _is_export(place: Path) -> bool:
    return any((place / table).is_dir() for table in _TABLES)


def _rows_of_file(place: Path) -> Iterable[Row]:
    if place.name.endswith((".jsonl", ".jsonl.gz")):
        yield from _lines(place)
        return
    document = document_in(place)
    made = list_in(document)
    if made is not None:
        yield from _listed_rows(made)
    elif isinstance(document, Mapping) and isinstance(document.get("features"), list):
        yield from _uploaded_rows(document)
    else:
        yield from _only_rows(document if isinstance(document, list) else [document])


def _listed_rows(made: FeatureList) -> Iterable[Row]:
    for row in made.features:
        yield {
            "modelId": row.sae.model,
            "layer": row.sae.source,
            "index": row.feature,
            "description": row.description,
            "list": made.name,
        }


def _uploaded_rows(body: Row) -> Iterable[Row]:
    """The body of an upload in the words of the tables."""
    for each in _only_rows(body["features"]):
        labels = _only_rows(each.get("explanations") or [])
        yield {
            "modelId": body.get("modelId"),
            "layer": body.get("source"),
            "index": each.get("index"),
            "frac_nonzero": each.get("density"),
            "explanations": [
                {
                    "description": label.get("text"),
                    "typeName": label.get("methodName"),
                    "explanationModelName": label.get("modelName"),
                }
                for label in labels
            ],
            "activations": each.get("activations"),
            **_columns("pos", each.get("topLogits")),
            **_columns("neg", each.get("bottomLogits")),
        }


def _columns(sign: str, tokens: Any) -> dict[str, Any]:
    kept = [*_only_rows(tokens or [])]
    return {
        f"{sign}_str": [row.get("token") for row in kept],
        f"{sign}_values": [row.get("value") for row in kept],
    }


def _only_rows(rows: Any) -> Iterable[Row]:
    return (row for row in rows if isinstance(row, Mapping)) if isinstance(rows, list) else ()


def list_in(document: Any) -> FeatureList | None:
    """A list in any of the shapes that the site gives or takes; None where it is none."""
    if not isinstance(document, Mapping):
        return None
    named = "name" in document or "listId" in document
    shapes = ("featuresToAdd", "features", "neurons")
    rows = next((document[key] for key in shapes if isinstance(document.get(key), list)), None)
    if not named or rows is None:
        return None
    made: dict[tuple[HostedSAE, int], FeatureOnList] = {}
    for row in _only_rows(rows):
        sae, feature = sae_of(row), records.index_of(row.get("index"))
        if sae is not None and feature is not None:
            said = row.get("description")
            words = clean_line(said) if isinstance(said, str) else ""
            made.setdefault((sae, feature), FeatureOnList(sae, feature, words))
    name, about = document.get("name"), document.get("description")
    return FeatureList(
        clean_line(name) if isinstance(name, str) else "",
        clean_line(about) if isinstance(about, str) else "",
        tuple(made.values()),
    )


def document_in(place: Path) -> Any:
    """A file that is one JSON document, packed or not."""
    with _damage_is_said(place.name), open_file(place, limit=DOCUMENT_BYTES) as file:
        content = file.read(DOCUMENT_BYTES + 1)
        if content[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as unpacked:
                content = unpacked.read(DOCUMENT_BYTES + 1)
        if len(content) > DOCUMENT_BYTES:
            raise ValueError(f"unpacks to more than {DOCUMENT_BYTES} bytes")
        return json_text.parse(content)


def _lines(place: Path) -> Iterable[Row]:
    with open_file(place, limit=FILE_BYTES) as file:
        source: io.BufferedIOBase = file
        if place.name.endswith(".gz"):
            source = gzip.GzipFile(fileobj=file)
        n, left = 0, TEXT_BYTES
        while True:
            n += 1
            with _damage_is_said(place.name, f" in line {n}"):
                line = source.readline(LINE_BYTES + 1)
                left -= len(line)
                if len(line) > LINE_BYTES or left < 0:
                    most = LINE_BYTES if len(line) > LINE_BYTES else TEXT_BYTES
                    raise ValueError(f"is longer than {most} bytes")
                row = json_text.parse(line) if line.strip() else None
            if not line:
                return
            stop_if_cancelled()
            if isinstance(row, Mapping):
                yield row


@contextmanager
def _damage_is_said(name: str, where: str = "") -> Generator[None]:
    try:
        yield
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        why = str(error) if isinstance(error, ValueError) else "is no whole gzip file"
        raise unreadable(name, f"{why}{where}") from error


def unreadable(name: str, why: str, *, allowed: str = "") -> FormatError:
    """The error for a file that is no file of Neuronpedia, or damaged; `why` completes its name."""
    return FormatError(
        f"{name!r} {why}.",
        code="NEURONPEDIA_FILE_UNREADABLE",
        field="path",
        got=name,
        allowed=allowed or KNOWN,
        hint="Download or write it again.",
    )


def sae_of(row: Row) -> HostedSAE | None:
    """The SAE that a row is about."""
    try:
        return HostedSAE.parse(f"{row.get('modelId')}/{row.get('layer')}")
    except ArgumentError:
        return None
