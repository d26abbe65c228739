"""What an index was made from, in a file beside it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saescope.errors import FormatError

FILE = "manifest.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexManifest:
    """What an index was made from."""

    weights_hash: str
    d_sae: int
    hook_name: str
    model: str
    dataset: str
    """By its public name: a local file or folder without the folders above it."""
    n_tokens: int
    """Counted positions that were read."""
    n_contexts: int
    context_size: int
    seed: int
    created: str
    """UTC, ISO 8601."""
    settings: dict[str, Any]
    files: dict[str, int]
    """Sizes in bytes."""


def write_manifest(folder: Path, manifest: IndexManifest) -> None:
    (folder / FILE).write_text(
        json.dumps({"format": FORMAT} | asdict(manifest), indent=1), encoding="utf-8"
    )


def read_manifest(folder: Path) -> IndexManifest:
    """Raises FormatError INDEX_CORRUPT where a file is missing or not as long as it was written."""
    try:
        said: Mapping[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        version = said["format"]
        manifest = IndexManifest(
            **{name: value for name, value in said.items() if name != "format"}
        )
        wrong = [
            name for name, size in manifest.files.items() if (folder / name).stat().st_size != size
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise corrupt(folder, f"its manifest cannot be read ({type(error).__name__})") from error
    if version != FORMAT:
        raise corrupt(folder, f"its format is {version}, not {FORMAT}")
    if wrong:
        raise corrupt(folder, f"{wrong[0]} is not as it was written")
    return manifest


def corrupt(folder: Path, why: str) -> FormatError:
    return FormatError(
        f"The index {folder.name} is damaged: {why}.",
        code="INDEX_CORRUPT",
        hint="Make it anew with index_features.",
    )
