"""How large a model will be, from the headers of its files, on this machine or on the hub: no
weight is read."""

import json
import math
from pathlib import Path
from typing import BinaryIO

from saescope import hub
from saescope.embedded import DISK_BYTES, EMBEDDED_HANDLE, model_dir
from saescope.errors import ModelError, SaescopeError
from saescope.fence import open_file, present
from saescope.models.folder import read_json

MAX_HEADER_BYTES = 16 << 20
INDEX = "model.safetensors.index.json"
_STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def peek_model_bytes(
    name_or_path: str | Path = EMBEDDED_HANDLE,
    *,
    dtype: str = "float32",
    revision: str = "",
    offline: bool = False,
) -> int:
    """Size of the weights in a dtype, or as stored ("auto"); 0 if that is not known before the
    download (a GGUF file, a gated repository, no network)."""
    if str(name_or_path) == EMBEDDED_HANDLE:
        return DISK_BYTES * _BYTES.get(dtype, 4) // 4
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        with present(path.name, field="model"):
            return sum(_of_file(file, dtype) for file in path.glob("*.safetensors"))
    if path.exists():
        return 0
    try:
        return _on_hub(official_name(str(name_or_path)), dtype, hub.Fetch(revision, offline))
    except SaescopeError:  # the load itself will say what is wrong
        return 0


def peek_n_layers(name_or_path: str | Path = EMBEDDED_HANDLE) -> int | None:
    """Layers of a model whose config.json is on this machine; None where that cannot be told."""
    folder = (
        model_dir() if str(name_or_path) == EMBEDDED_HANDLE else Path(name_or_path).expanduser()
    )
    try:
        config = read_json(folder / "config.json")
    except (SaescopeError, OSError):  # the load itself will say what is wrong
        return None
    n_layers = config.get("num_hidden_layers")
    return n_layers if isinstance(n_layers, int) and n_layers > 0 else None


def official_name(name: str) -> str:
    """The hub's name for one of transformer-lens's aliases; any other name as it is."""
    from transformer_lens.supported_models import MODEL_ALIASES

    return next((official for official, aliases in MODEL_ALIASES.items() if name in aliases), name)


def _on_hub(name: str, dtype: str, fetch: hub.Fetch) -> int:
    repository = hub.repository(name, **fetch._asdict())
    files = [file for file in repository.names if file.endswith(".safetensors") and "/" not in file]
    if INDEX in repository.names:  # some repositories hold the weights once more in other files
        with repository.open(INDEX) as index:
            files = shards(index.read(MAX_HEADER_BYTES))
    total = 0
    for file in files:
        with repository.open(file) as opened:
            total += _weights_bytes(opened, file, dtype)
    return total


def shards(index: bytes) -> list[str]:
    try:
        return sorted({str(file) for file in json.loads(index)["weight_map"].values()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{INDEX} is no list of files.",
            code="FILE_CORRUPT",
            field="model",
            hint="Get it again.",
        ) from error


def _of_file(file: Path, dtype: str) -> int:
    with open_file(file, field="model") as opened:
        return _weights_bytes(opened, file.name, dtype)


def _weights_bytes(opened: BinaryIO, name: str, dtype: str) -> int:
    length = int.from_bytes(opened.read(8), "little")
    try:
        header = json.loads(opened.read(length) if length <= MAX_HEADER_BYTES else b"")
        tensors = [entry for tensor, entry in header.items() if tensor != "__metadata__"]
        return sum(
            math.prod(entry["shape"]) * _BYTES.get(dtype, _STORED_BYTES.get(entry["dtype"], 4))
            for entry in tensors
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{name} is torn, or no safetensors file.",
            code="FILE_CORRUPT",
            field="model",
            hint="Get it again.",
        ) from error
