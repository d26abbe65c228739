"""How large a model will be, from the headers of its files, on this machine or on the hub: no
weight is read."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from saescope import hub
from saescope.embedded import DISK_BYTES, EMBEDDED_HANDLE, is_ready, model_dir
from saescope.errors import ModelError, SaescopeError
from saescope.fence import open_file, present
from saescope.models.folder import read_json
from saescope.models.partial import layers_below

MAX_HEADER_BYTES = 16 << 20
INDEX = "model.safetensors.index.json"
_STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

_NUMBERED = re.compile(r"((?:[A-Za-z_]\w*\.)+)(\d+)\.")


class _Tensor(NamedTuple):
    """A tensor of a file: name, size, and the dtype that it is stored in."""

    name: str
    n_weights: int
    stored: str


def peek_model_bytes(
    name_or_path: str | Path = EMBEDDED_HANDLE,
    *,
    dtype: str = "float32",
    revision: str = "",
    offline: bool = False,
    up_to: str | Sequence[str] = (),
) -> int:
    """Size of the weights in a dtype, or as stored ("auto"), all or `up_to` a hook; 0 if that is
    not known before the download (a GGUF file, a gated repository, no network)."""
    path = Path(name_or_path).expanduser()
    if str(name_or_path) == EMBEDDED_HANDLE:
        if not up_to or not is_ready():
            return DISK_BYTES * _BYTES.get(dtype, 4) // 4
        path = model_dir()
    n_layers = layers_below([up_to] if isinstance(up_to, str) else up_to)
    if path.is_dir():
        with present(path.name, field="model"):
            tensors = [each for file in path.glob("*.safetensors") for each in _of_file(file)]
            return _bytes_of(tensors, dtype, n_layers)
    if path.exists():
        return 0
    try:
        fetch = hub.Fetch(revision, offline)
        return _bytes_of(_on_hub(official_name(str(name_or_path)), fetch), dtype, n_layers)
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


def _on_hub(name: str, fetch: hub.Fetch) -> list[_Tensor]:
    repository = hub.repository(name, **fetch._asdict())
    files = [file for file in repository.names if file.endswith(".safetensors") and "/" not in file]
    if INDEX in repository.names:  # some repositories hold the weights once more in other files
        with repository.open(INDEX) as index:
            files = shards(index.read(MAX_HEADER_BYTES))
    tensors = list[_Tensor]()
    for file in files:
        with repository.open(file) as opened:
            tensors += _tensors(opened, file)
    return tensors


def _bytes_of(tensors: Sequence[_Tensor], dtype: str, n_layers: int | None) -> int:
    """Bytes of all, or without those of layers from `n_layers` on: of the numbered parts that hold
    most, for there may be smaller ones with numbers, such as those that read pictures."""
    sizes = Counter[str]()
    for name, n_weights, _ in tensors:
        if match := _NUMBERED.match(name):
            sizes[match[1]] += n_weights
    layers = max(sizes, key=lambda name: sizes[name], default="")
    return sum(
        n_weights * _BYTES.get(dtype, _STORED_BYTES.get(stored, 4))
        for name, n_weights, stored in tensors
        if n_layers is None
        or not (match := _NUMBERED.match(name))
        or match[1] != layers
        or int(match[2]) < n_layers
    )


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


def _of_file(file: Path) -> list[_Tensor]:
    with open_file(file, field="model") as opened:
        return _tensors(opened, file.name)


def _tensors(opened: BinaryIO, name: str) -> list[_Tensor]:
    length = int.from_bytes(opened.read(8), "little")
    try:
        header = json.loads(opened.read(length) if length <= MAX_HEADER_BYTES else b"")
        return [
            _Tensor(tensor, math.prod(entry["shape"]), str(entry["dtype"]))
            for tensor, entry in header.items()
            if tensor != "__metadata__"
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{name} is torn, or no safetensors file.",
            code="FILE_CORRUPT",
            field="model",
            hint="Get it again.",
        ) from error
