"""Reading npz files (NumPy's zip archives) that may be bombs: the zip directory is judged first,
and nothing is ever unpickled."""

import ast
import errno
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from saescope.errors import FormatError
from saescope.fence import open_file, present
from saescope.formats.source import FileSource
from saescope.formats.weights import TensorInfo, Weights

MAX_MEMBERS = 16
MAX_RATIO = 20
SLACK_BYTES = 1 << 20
"""Arrays of zeros may shrink more than weights do, up to this size."""
MAX_HEADER_BYTES = 4096
MAX_DIRECTORY_BYTES = 1 << 16
_end_of: Callable[[BinaryIO], list[Any] | None] = getattr(zipfile, "_EndRecData")  # noqa: B009
_DIRECTORY_SIZE = 5
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, OSError),
    *(LookupError, TypeError, ValueError, ArithmeticError, SyntaxError, MemoryError, RuntimeError),
)
"""What zipfile and its reading of a damaged header raise: a place before the file's start is an
OSError, a password a RuntimeError ..."""
_DTYPES = {
    "<f8": ("F64", torch.float64),
    "<f4": ("F32", torch.float32),
    "<f2": ("F16", torch.float16),
}


class _Array(NamedTuple):
    info: TensorInfo
    dtype: torch.dtype
    header_bytes: int
    fortran: bool


class NpzWeights(Weights):
    """The arrays of an open npz file."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        with _readable(name):
            self._name, self._zip = name, _directory(file, name)
        self._arrays = {
            entry.filename.removesuffix(".npy"): self._array(entry)
            for entry in self._zip.infolist()
        }
        self.header = {array: entry.info for array, entry in self._arrays.items()}

    def take(
        self,
        tensor: str,
        dtype: torch.dtype,
        *,
        transpose: bool = False,
        sum_from: int | None = None,
    ) -> Tensor:
        # In Fortran order a matrix lies there as its transpose.
        taken = super().take(
            tensor, dtype, transpose=transpose != self._arrays[tensor].fortran, sum_from=sum_from
        )
        with _readable(self._name):
            self._file.read(1)  # at its end, and only there, zipfile compares the checksum
        return taken

    def _begin(self, tensor: str) -> tuple[tuple[int, ...], torch.dtype]:
        array = self._arrays[tensor]
        with _readable(self._name):
            self._file = self._zip.open(f"{tensor}.npy")
            self._file.read(array.header_bytes)
        return array.info.shape[::-1] if array.fortran else array.info.shape, array.dtype

    def _fill(self, part: Tensor) -> Tensor:
        with _readable(self._name):
            return super()._fill(part)

    def _array(self, entry: zipfile.ZipInfo) -> _Array:
        try:
            with self._zip.open(entry) as file:
                header, length = _npy_header(file)
            descr, fortran, shape = header["descr"], header["fortran_order"], tuple(header["shape"])
            if type(fortran) is not bool or any(type(n) is not int for n in shape):
                raise TypeError("neither a shape nor an order")
        except ZIP_ERRORS as error:
            raise _corrupt(self._name, f"the header of {entry.filename} cannot be read") from error
        if "O" in str(descr):
            raise FormatError(
                f"{_base(self._name)}: {entry.filename} holds Python objects: loading "
                "them can run code, so saescope does not.",
                code="PICKLE_REFUSED",
                got=entry.filename,
                hint="Save the weights as plain arrays of floating-point numbers.",
            )
        if not isinstance(descr, str) or descr not in _DTYPES or len(shape) > 2:
            raise FormatError(
                f"{_base(self._name)}: {entry.filename} is no vector or matrix of "
                f"little-endian floats ({descr!r}, {shape}).",
                code="UNSUPPORTED_DTYPE",
                allowed=[*_DTYPES],
            )
        kind, dtype = _DTYPES[descr]
        if (
            min(shape, default=0) < 0
            or math.prod(shape) * dtype.itemsize != entry.file_size - length
        ):
            raise _corrupt(
                self._name,
                f"{entry.filename} says shape {shape}, which are not the "
                f"{entry.file_size - length} bytes in it",
            )
        return _Array(TensorInfo(shape, kind), dtype, length, fortran and len(shape) == 2)


@contextmanager
def open_npz(source: FileSource, name: str) -> Generator[NpzWeights]:
    """The arrays of `name`, downloaded first if it is on the hub."""
    with present(name):
        opened = open_file(source.local(name))
    with opened as file:
        yield NpzWeights(file, name)


def read_npz_header(source: FileSource, name: str) -> dict[str, TensorInfo]:
    """Shapes and dtypes; of a file on the hub only the zip directory and the start of each array
    are fetched."""
    with source.open(name) as file:
        return NpzWeights(file, name).header


@contextmanager
def _readable(name: str) -> Generator[None]:
    try:
        yield
    except ZIP_ERRORS as error:
        if getattr(error, "errno", None) not in (None, errno.EINVAL):
            raise  # the disk's fault, not the file's
        raise _corrupt(name, f"it cannot be unpacked ({type(error).__name__})") from error


def _directory(file: BinaryIO, name: str) -> zipfile.ZipFile:
    size = file.seek(0, 2)
    file.seek(0)
    if file.read(16).lstrip()[:1] == b"<":
        raise _corrupt(name, "it looks like an HTML page, not weights")
    end = _end_of(file)
    if end and end[_DIRECTORY_SIZE] > MAX_DIRECTORY_BYTES:  # each entry becomes an object
        raise _suspicious(name, f"its directory has {end[_DIRECTORY_SIZE]} bytes")
    archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    total = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_MEMBERS or len(set(names)) != len(names):
        raise _suspicious(
            name, f"it has {len(entries)} arrays, an SAE has at most {MAX_MEMBERS}, each once"
        )
    if total > MAX_RATIO * size + SLACK_BYTES:
        raise _suspicious(name, f"its {size} bytes claim to unpack to {total}")
    odd = [entry.filename for entry in entries if not _is_plain(entry)]
    if odd:
        raise _suspicious(name, f"{odd[0]!r} is no plain array")
    return archive


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    stem = entry.filename.removesuffix(".npy")
    packed = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    return (
        entry.filename.endswith(".npy")
        and stem.isidentifier()
        and packed
        and not entry.flag_bits & 1
    )


def _npy_header(file: Any) -> tuple[dict[str, Any], int]:
    """What an array says of itself, and how many bytes it takes for that."""
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or start[6] not in (1, 2):
        raise ValueError("no NumPy array")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError("an oversized header")
    header = ast.literal_eval(file.read(length).decode("latin-1").strip())
    if not isinstance(header, dict):
        raise TypeError("the header is no dictionary")
    return header, 8 + width + length


def _corrupt(name: str, why: str) -> FormatError:
    return FormatError(f"{_base(name)} is torn or no npz file: {why}.", hint="Get the file again.")


def _suspicious(name: str, why: str) -> FormatError:
    return FormatError(
        f"{_base(name)} is refused: {why}.",
        code="FILE_SUSPICIOUS",
        hint="Load an SAE from a source you trust.",
    )


def _base(name: str) -> str:
    return name.rpartition("/")[2]
