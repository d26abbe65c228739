"""The header of a GGUF file, judged with plain reads: the library that reads it believes every
count that it finds there."""

import struct
from typing import BinaryIO

from saescope.errors import FormatError
from saescope.models.estimate import check_counts

MAX_FIELDS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_ITEMS = 1 << 23
"""The most entries of all arrays together: a vocabulary, its scores, types and merges."""
MAX_STRING_BYTES = 4 << 20
MAX_DIMS = 8
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of each type of number."""
_INTEGERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q"}
_STRING, _ARRAY = 8, 9


def check_gguf(file: BinaryIO, name: str) -> int:
    """The number of weights that the header tells of, once it is known that it lies within the file
    and its counts can be believed.

    Raises:
        FormatError: it is torn, or claims what no model has.
        ModelError: MODEL_CONFIG_INVALID: it tells of too many layers.
    """
    return _Header(file, name).n_weights()


class _Header:
    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name, self._items = file, name, 0
        self._size = file.seek(0, 2)
        file.seek(0)
        self._order = "<"

    def n_weights(self) -> int:
        if self._read(4) != b"GGUF":
            raise self._bad("it does not begin as one")
        version = self._number("I")
        if version & 0xFFFF == 0:  # written on a big-endian machine
            self._order, version = ">", int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise self._bad(f"its version is {version}")
        n_tensors, n_fields = self._number("Q"), self._number("Q")
        if n_tensors > MAX_TENSORS or n_fields > MAX_FIELDS:
            raise self._bad(f"it claims {n_tensors} tensors and {n_fields} fields")
        fields = dict(self._field() for _ in range(n_fields))
        check_counts({key: value for key, value in fields.items() if value is not None})
        return sum(self._tensor() for _ in range(n_tensors))

    def _field(self) -> tuple[str, int | None]:
        key, kind = self._string().decode("utf-8", "replace"), self._number("I")
        if kind in _INTEGERS:
            return key, self._number(_INTEGERS[kind])
        self._skip(kind, 1)
        return key, None

    def _skip(self, kind: int, n: int, depth: int = 0) -> None:
        self._items += n
        if self._items > MAX_ITEMS or depth > 2:
            raise self._bad("its lists are longer than a tokenizer's")
        if kind in _SIZES:
            self._jump(_SIZES[kind] * n)
        elif kind == _STRING:
            for _ in range(n):
                self._jump(self._number("Q"))
        elif kind == _ARRAY:
            for _ in range(n):
                inner, length = self._number("I"), self._number("Q")
                self._skip(inner, length, depth + 1)
        else:
            raise self._bad(f"it has a value of the unknown kind {kind}")

    def _tensor(self) -> int:
        name, n_dims = self._string(), self._number("I")
        if n_dims > MAX_DIMS:
            raise self._bad(f"tensor {name[:80]!r} has {n_dims} dimensions")
        n = 1
        for _ in range(n_dims):
            n *= self._number("Q")
        _, offset = self._number("I"), self._number("Q")
        # No kind of weight takes less than an eighth of a byte.
        if offset > self._size or n > 8 * self._size:
            raise self._bad(f"tensor {name[:80]!r} lies outside the file")
        return n

    def _string(self) -> bytes:
        length = self._number("Q")
        if length > MAX_STRING_BYTES:
            raise self._bad(f"it has a name of {length} bytes")
        return self._read(length)

    def _number(self, kind: str) -> int:
        return struct.unpack(self._order + kind, self._read(struct.calcsize(self._order + kind)))[0]

    def _read(self, n: int) -> bytes:
        content = self._file.read(n)
        if len(content) < n:
            raise self._bad("it ends within its header")
        return content

    def _jump(self, n: int) -> None:
        if self._file.tell() + n > self._size:
            raise self._bad("it ends within its header")
        self._file.seek(n, 1)

    def _bad(self, why: str) -> FormatError:
        return FormatError(
            f"{self._name} is torn or no GGUF file: {why}.",
            code="FILE_CORRUPT",
            field="model",
            got=self._name,
            hint="Get the model again, from a source you trust.",
        )
