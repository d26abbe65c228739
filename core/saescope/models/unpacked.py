"""GGUF files unpacked once: their weights as float32 in a model folder of the home, found again by
the file's content, since dequantising one takes a minute at every load."""

import hashlib
import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from saescope.fence import read_own
from saescope.json_text import parse
from saescope.models.gguf import export_gguf
from saescope.names import home
from saescope.progress import Say, silent

MARK = "unpacked.json"
"""Says by which versions a folder was unpacked, and how long its files are; written last."""
SPARE_BYTES = 1 << 30
"""What stays free on the disk; with less, a file is unpacked in memory at every load."""


def unpacked_folder(path: Path) -> Path:
    """Where the weights of a GGUF file lie as float32, once they are unpacked."""
    with path.open("rb") as file:
        return home() / "models" / f"gguf-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def is_unpacked(folder: Path) -> bool:
    """Whether all is there, as these versions of the libraries unpack it, in the sizes in which it
    was written."""
    try:
        mark = parse(read_own(folder / MARK))
        return mark["versions"] == _versions() and all(
            (folder / name).stat().st_size == size for name, size in mark["sizes"].items()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def unpack(
    path: Path, folder: Path, *, name: str, n_weights: int, say: Say | None = None
) -> Path | None:
    """The folder, once the GGUF file is unpacked to it; None where it cannot be kept, which is
    told."""
    tell, need = say or silent, 4 * n_weights
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < need + SPARE_BYTES:
            reason = f"{need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free on the disk"
        else:
            tell(f"unpacking {name} to float32, once: {need / 1e9:.1f} GB on disk, in {folder}")
            if _unpack(path, folder):
                return folder
            reason = "its tokenizer is not read back as it was written"
    except OSError as error:
        reason = error.strerror or str(error)
    tell(f"{name} is unpacked in memory and not kept: {reason}")
    return None


def _unpack(path: Path, folder: Path) -> bool:
    """Whether the folder is there now."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        made = Path(aside, "model")
        if not _is_same(export_gguf(path, made), made):
            return False
        sizes = {file.name: file.stat().st_size for file in made.iterdir()}
        mark = json.dumps({"versions": _versions(), "sizes": sizes})
        (made / MARK).write_text(mark, encoding="utf-8")
        if not is_unpacked(folder):  # another process may have been faster
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    return True


def _is_same(tokenizer: Any, folder: Path) -> bool:
    """Whether the tokenizer that was written to the folder is read from it as it was."""
    from transformers import AutoTokenizer

    written = AutoTokenizer.from_pretrained(folder)
    backends: list[Any] = [
        getattr(each, "backend_tokenizer", None) for each in (tokenizer, written)
    ]
    return (
        all(backends)
        and backends[0].to_str() == backends[1].to_str()
        and written.special_tokens_map == tokenizer.special_tokens_map
    )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("transformers", "gguf")}
