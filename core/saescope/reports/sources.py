"""Where the SAEs of kept results come from: the load call of every handle, which a server
remembers."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from saescope.embedded import EMBEDDED_HANDLE, EMBEDDED_MODEL
from saescope.errors import SaescopeError
from saescope.fence import read_own
from saescope.ledger import KeptEntry
from saescope.names import Source, home
from saescope.prints import content_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class SAESource(Source):
    """Where an SAE and its model come from, and how they were loaded."""

    device: str = "auto"
    dtype: str = "auto"
    allow_mismatch: bool = False


GONE, UNREADABLE = "gone", "cannot be read"
"""What became of a text that has no hash now."""
_FIELDS = frozenset(each.name for each in fields(SAESource))


def known_sources() -> dict[str, SAESource]:
    """What loads the SAE, or the set, of each handle that was used on this machine; none where
    there was no server."""
    try:
        rows = json.loads(read_own(home() / "handles.json"))
        return {handle: source_of(row) for handle, row in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def source_of(row: Mapping[str, Any]) -> SAESource:
    """A source as it is kept, or as the arguments of `ss.load_sae` say it."""
    return SAESource(**{name: value for name, value in row.items() if name in _FIELDS})


def model_to_load(source: SAESource, named: str) -> str:
    """What `ss.load_model` is to be given, where results are of the model `named`."""
    if source.model:
        return source.model
    # Where nobody names another one, the model's embedded copy was used.
    return EMBEDDED_HANDLE if named == EMBEDDED_MODEL else named


def missing_files(source: SAESource) -> list[str]:
    """Files and folders of this machine that the source names and that are gone."""
    places = [source.path.partition("{layer}")[0], source.model if _is_local(source.model) else ""]
    return [place for place in places if place and not Path(place).expanduser().exists()]


def texts_now(path: str) -> str:
    """The hash that a file or a folder of texts has now, or what became of it."""
    if not Path(path).exists():
        return GONE
    try:
        return content_hash(Path(path))
    except (SaescopeError, OSError):
        return UNREADABLE


def texts_named(entries: Iterable[KeptEntry]) -> set[str]:
    """Files and folders of texts that a script of these results reads."""
    origins = [entry.document.get("provenance") or {} for entry in entries]
    return {path for origin in origins for path in origin.get("files") or {}}


def _is_local(model: str) -> bool:
    return model.startswith(("/", ".", "~")) or Path(model).is_absolute()
