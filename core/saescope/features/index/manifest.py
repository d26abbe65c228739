"""What an index was made from, in a file beside it, with the hashes by which its files are
verified."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from saescope.errors import FormatError
from saescope.fence import open_own, read_own

FILE = "manifest.json"
FORMAT = 2
OLD_FORMAT = 1
"""The version of indexes without hashes and typical activations; attention sinks count as any
position."""
OWN_HASH = "sha256_of_the_rest"


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexManifest:
    """What an index was made from."""

    weights_hash: str
    d_sae: int
    hook_name: str
    model: str
    model_fingerprint: str = ""
    """The hash of the model's weights (in the dtype that `settings` has), configuration and
    tokenizer; empty in an index of an earlier version."""
    dataset: str
    """The public name of the text: a local file or folder without the folders above it."""
    n_tokens: int
    """The counted positions that were read."""
    n_sinks: int = 0
    """Positions read beside them whose norm at the site is out of proportion."""
    n_contexts: int
    context_size: int
    seed: int
    created: str
    """The time at which it was written: UTC, ISO 8601."""
    settings: dict[str, Any]
    files: dict[str, int]
    """The size of each file in bytes."""
    sha256: dict[str, str] = field(default_factory=dict[str, str])
    """The hash of each file."""
    format: int = FORMAT


def write_manifest(folder: Path, manifest: IndexManifest) -> None:
    document = asdict(manifest)
    text = json.dumps(document | {OWN_HASH: _hash_of(document)}, indent=1)
    (folder / FILE).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> IndexManifest:
    """Raises FormatError INDEX_CORRUPT where it is not as it was written, or a file is missing or
    of another length."""
    try:
        document: dict[str, Any] = json.loads(read_own(folder / FILE))
        own_hash, version = document.pop(OWN_HASH, None), document["format"]
        manifest = IndexManifest(**document)
        wrong = [
            name for name, size in manifest.files.items() if (folder / name).stat().st_size != size
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise corrupt(folder, f"its manifest cannot be read ({type(error).__name__})") from error
    if version not in (OLD_FORMAT, FORMAT):
        raise corrupt(folder, f"its format is {version}, not {FORMAT}")
    if own_hash != (_hash_of(document) if version != OLD_FORMAT else None):
        raise corrupt(folder, "its manifest is not as it was written")
    if wrong:
        raise corrupt(folder, f"{wrong[0]} is not as it was written")
    return manifest


def hash_file(path: Path) -> str:
    with open_own(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def corrupt(folder: Path, why: str) -> FormatError:
    return FormatError(
        f"The index {folder.name} is damaged: {why}.",
        code="INDEX_CORRUPT",
        hint="Rebuild it with ss.index_features.",
    )
