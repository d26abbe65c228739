"""Reading safetensors files that may be torn, hostile or full of NaN: the header is judged before any tensor is touched."""

import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saescope.cancel import checkpoint
from saescope.errors import FormatError

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 64
_DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class TensorInfo(NamedTuple):
    """What the header says of one tensor."""

    shape: tuple[int, ...]
    dtype: str


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Shapes and dtypes, from the first bytes of the file.

    Raises:
        FormatError: no safetensors file, torn, or more in it than an SAE has.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if start.lstrip()[:1] == b"<":
            raise _corrupt(path, "it looks like an HTML page, not weights")
        if len(start) < 8 or length > size - 8:
            raise _corrupt(path, f"its header claims {length} bytes and the file has {size}")
        if length > MAX_HEADER_BYTES:
            raise _suspicious(path, f"its header has {length} bytes, an SAE's has at most {MAX_HEADER_BYTES}")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            tensors = {name: TensorInfo(tuple(map(operator.index, entry["shape"])), str(entry["dtype"])) for name, entry in header.items()}
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise _corrupt(path, "its header cannot be read") from error
    if len(tensors) > MAX_TENSORS:
        raise _suspicious(path, f"it has {len(tensors)} tensors, an SAE has at most {MAX_TENSORS}")
    if end != size - 8 - length:
        raise _corrupt(path, f"its header describes {end} bytes of weights and {size - 8 - length} are there")
    return tensors


def read_tensors(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors as `dtype`, each finite.

    Raises:
        FormatError: unreadable, no floating-point weights, or NaN and infinities among them.
    """
    odd = {name: info.dtype for name, info in read_header(path).items() if info.dtype not in _DTYPES}
    if odd:
        raise FormatError(
            f"{path.name} holds tensors that are no floating-point weights: {odd}.", code="UNSUPPORTED_DTYPE", allowed=[*_DTYPES]
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: _take(file, name, dtype) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _corrupt(path, str(error)) from error
    _require_finite(path, tensors)
    return tensors


def _take(file: Any, name: str, dtype: torch.dtype) -> Tensor:
    checkpoint()
    return file.get_tensor(name).to(dtype, copy=True)  # a copy: the file may be overwritten while the SAE is in use


def _require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    bad = {name: n for name, tensor in tensors.items() if (n := int((~tensor.isfinite()).sum()))}
    if bad:
        raise FormatError(
            f"{path.name} has weights that are NaN or infinite: {bad}.",
            code="WEIGHTS_NOT_FINITE",
            hint="Get the file again; if it was converted to float16, convert to bfloat16 or float32 instead.",
        )


def _corrupt(path: Path, why: str) -> FormatError:
    return FormatError(f"{path.name} is torn or no safetensors file: {why}.", hint="Get the file again.")


def _suspicious(path: Path, why: str) -> FormatError:
    return FormatError(f"{path.name} is refused: {why}.", code="FILE_SUSPICIOUS", hint="Load an SAE from a source you trust.")
