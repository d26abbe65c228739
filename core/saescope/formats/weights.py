"""Reading safetensors files that may be torn, hostile or full of NaN: the header is judged before
any tensor is touched.

Tensors are read with plain reads, part by part, into the memory where they stay: no file is mapped,
so that a load peaks at the weights as they end up, and a file that changes or shrinks meanwhile
cannot crash the process.
"""

import io
import json
import math
import operator
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from saescope.cancel import stop_if_cancelled
from saescope.errors import FormatError
from saescope.fence import open_file, present
from saescope.finite import all_finite
from saescope.formats.source import FileSource

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 64
CHUNK_BYTES = 8 << 20
ROWS_BETWEEN_LOOKS = 256
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class TensorInfo(NamedTuple):
    """What the header says of one tensor."""

    shape: tuple[int, ...]
    dtype: str


class _TensorEntry(NamedTuple):
    info: TensorInfo
    start: int
    end: int


def read_header(source: FileSource, name: str) -> dict[str, TensorInfo]:
    """Shapes and dtypes, from the first bytes of the file.

    Raises:
        FormatError: no safetensors file, torn, or more in it than an SAE has.
    """
    with source.open(name) as file:
        return {tensor: entry.info for tensor, entry in _entries(file, name)[0].items()}


class Weights:
    """The tensors of an open safetensors file."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._entries, self._origin = _entries(file, name)
        self.header = {tensor: entry.info for tensor, entry in self._entries.items()}

    def take(
        self,
        tensor: str,
        dtype: torch.dtype,
        *,
        transpose: bool = False,
        sum_from: int | None = None,
    ) -> Tensor:
        """One tensor as `dtype`, contiguous in its own memory; with `transpose` a matrix on disk
        arrives as its transpose.

        `sum_from` is for the decoders of a cross-layer transcoder, [d_sae, n_layers, d_out]: they
        are summed, from that one on.

        Raises:
            FormatError: the file ends early, or there are NaN or infinities in it.
        """
        shape, disk_dtype = self._begin(tensor)
        rows, width = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        wide = width if sum_from is None else math.prod(shape[2:])
        out = torch.empty((wide, rows) if transpose else (rows, wide), dtype=dtype)
        row_bytes = max(1, width * disk_dtype.itemsize)
        n_bad, step = (
            0,
            max(1, min(CHUNK_BYTES, rows * row_bytes // 32) // row_bytes),
        )  # small beside what is read
        as_is = dtype == disk_dtype and not transpose and sum_from is None
        buffer = torch.empty((0 if as_is else step, width), dtype=disk_dtype)
        for row in range(0, rows, step):
            stop_if_cancelled()
            part = self._fill(out[row : row + step] if as_is else buffer[: min(step, rows - row)])
            if sum_from is not None:
                part = (
                    part.reshape(len(part), *shape[1:])[:, sum_from:]
                    .to(torch.promote_types(disk_dtype, torch.float32))
                    .sum(1)
                )
            part = part.to(dtype)
            n_bad += n_not_finite(
                part
            )  # only now: a value that is finite on disk may be too large for a narrower dtype
            if not as_is:
                into = out[:, row : row + step] if transpose else out[row : row + step]
                into.copy_(part.T if transpose else part)
        if n_bad:
            raise not_finite(self._name, tensor, n_bad)
        return out if transpose or sum_from is not None else out.reshape(shape)

    def take_rows(
        self, tensor: str, rows: Sequence[int], dtype: torch.dtype, *, block: int = 0
    ) -> Tensor:
        """Some rows of a matrix, or of the `block`-th matrix of a tensor [n_rows, n_blocks, width],
        [n, width] as `dtype`; nothing else of the file is read.

        Raises:
            FormatError: the file ends early, or there are NaN or infinities in these rows.
        """
        shape, disk_dtype = self._begin(tensor)
        begin, width = self._file.tell(), shape[-1]
        n_blocks = shape[1] if len(shape) == 3 else 1
        assert len(shape) in (2, 3) and block < n_blocks, f"{tensor} of shape {shape} has no such"
        assert not rows or (min(rows) >= 0 and max(rows) < shape[0]), f"rows beyond {shape[0]}"
        out = torch.empty((len(rows), width), dtype=disk_dtype)
        for place, row in enumerate(rows):
            if not place % ROWS_BETWEEN_LOOKS:
                stop_if_cancelled()
            self._file.seek(begin + (row * n_blocks + block) * width * disk_dtype.itemsize)
            self._fill(out[place])
        taken = out.to(dtype)
        if n_bad := n_not_finite(taken):
            raise not_finite(self._name, tensor, n_bad)
        return taken

    def whole_number(self, tensor: str) -> int:
        """Read a tensor that holds a single integer."""
        (shape, dtype), start, end = self._entries[tensor]
        if math.prod(shape) != 1 or dtype not in ("I64", "I32"):
            raise FormatError(
                f"{_base(self._name)}: {tensor} must be one whole number, got {dtype} "
                f"of shape {shape}.",
                field=tensor,
            )
        self._file.seek(self._origin + start)
        return int.from_bytes(self._file.read(end - start), "little", signed=True)

    def _begin(self, tensor: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Go to where a tensor begins; its shape and dtype."""
        (shape, dtype), start, _ = self._entries[tensor]
        if dtype not in DTYPES:
            raise FormatError(
                f"{_base(self._name)} holds a tensor in a type that is not read: "
                f"{tensor!r} is {dtype}.",
                code="UNSUPPORTED_DTYPE",
                field=tensor,
                got=dtype,
                allowed=[*DTYPES],
            )
        self._file.seek(self._origin + start)
        return shape, DTYPES[dtype]

    def _fill(self, part: Tensor) -> Tensor:
        """`part`, contiguous, with the file's next bytes in it."""
        if not part.numel():
            return part
        view, filled = part.view(torch.uint8).numpy().reshape(-1).data, 0
        while filled < part.nbytes:
            got = self._file.readinto(view[filled:])  # pyright: ignore[reportAttributeAccessIssue]
            if not got:
                raise _corrupt(self._name, "it ends before its weights do")
            filled += got
        return part


@contextmanager
def open_weights(source: FileSource, name: str) -> Generator[Weights]:
    """The tensors of `name`, downloaded first if it is on the hub."""
    with present(name):
        opened = open_file(source.local(name))
    with opened as file:
        yield Weights(cast(io.FileIO, file.raw), name)  # unbuffered


def n_not_finite(tensor: Tensor) -> int:
    """How many values are NaN or infinite; without a temporary copy where there are none."""
    if bool(all_finite(tensor)):
        return 0
    return int((~tensor.isfinite()).sum())


def _entries(file: BinaryIO, name: str) -> tuple[dict[str, _TensorEntry], int]:
    """Each tensor's place, and where the weights begin."""
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if start.lstrip()[:1] == b"<":
        raise _corrupt(name, "it looks like an HTML page, not weights")
    if len(start) < 8 or length > size - 8:
        raise _corrupt(name, f"its header claims {length} bytes and the file has {size}")
    if length > MAX_HEADER_BYTES:
        raise _suspicious(
            name, f"its header has {length} bytes, an SAE's has at most {MAX_HEADER_BYTES}"
        )
    try:
        header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        entries = {tensor: _entry(row) for tensor, row in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _corrupt(name, "its header cannot be read") from error
    if len(entries) > MAX_TENSORS:
        raise _suspicious(name, f"it has {len(entries)} tensors, an SAE has at most {MAX_TENSORS}")
    _check_places(name, entries, size - 8 - length)
    return entries, 8 + length


def _entry(row: dict[str, Any]) -> _TensorEntry:
    start, end = map(operator.index, row["data_offsets"])
    return _TensorEntry(
        TensorInfo(tuple(map(operator.index, row["shape"])), str(row["dtype"])), start, end
    )


def _check_places(name: str, entries: dict[str, _TensorEntry], n_bytes: int) -> None:
    """Tensors lie one after the other, without hole or overlap, and each is as long as its shape
    says."""
    end = 0
    for tensor, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        dtype = DTYPES.get(entry.info.dtype)
        if min(entry.info.shape, default=0) < 0 or entry.start != end or entry.end < entry.start:
            raise _corrupt(name, f"its header has tensor {tensor!r} in an impossible place")
        if dtype and math.prod(entry.info.shape) * dtype.itemsize != entry.end - entry.start:
            raise _corrupt(
                name,
                f"tensor {tensor!r} of shape {entry.info.shape} cannot have "
                f"{entry.end - entry.start} bytes",
            )
        end = entry.end
    if end != n_bytes:
        raise _corrupt(name, f"its header describes {end} bytes of weights and {n_bytes} are there")


def not_finite(name: str, tensor: str, n_bad: int) -> FormatError:
    return FormatError(
        f"{_base(name)} has weights that are NaN or infinite: {{{tensor!r}: {n_bad}}}.",
        code="WEIGHTS_NOT_FINITE",
        hint="Get the file again; if it was converted to float16, convert to bfloat16 or "
        "float32 instead.",
    )


def _corrupt(name: str, why: str) -> FormatError:
    return FormatError(
        f"{_base(name)} is torn or no safetensors file: {why}.", hint="Get the file again."
    )


def _suspicious(name: str, why: str) -> FormatError:
    return FormatError(
        f"{_base(name)} is refused: {why}.",
        code="FILE_SUSPICIOUS",
        hint="Load an SAE from a source you trust.",
    )


def _base(name: str) -> str:
    return name.rpartition("/")[2]
