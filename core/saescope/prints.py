"""Hashes of files and folders, by which it is told whether they are what they were."""

import hashlib
from pathlib import Path

from saescope.fence import open_file

WHOLE_BYTES = 64 << 20
"""Every byte of a file up to this size enters its hash."""
N_BLOCKS, BLOCK_BYTES = 256, 64 << 10
"""This many blocks of this many bytes of a larger file enter its hash."""


def content_hash(path: Path) -> str:
    """sha256 of a file; of one above 64 MB a hash of its size and of blocks from all over it; of a
    folder a hash of the names of the files in it and of theirs.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_dir():
        size, digest = file_print(path)
        return digest if int(size) <= WHOLE_BYTES else hash_of(size, digest)
    named = ((file.relative_to(path).as_posix(), *file_print(file)) for file in files_in(path))
    return hash_of(*(part for parts in named for part in parts))


def files_in(folder: Path) -> list[Path]:
    """The files below a folder in order, but for hidden ones."""
    inside = (file for file in folder.rglob("*") if file.is_file())
    return sorted(
        file
        for file in inside
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def file_print(file: Path) -> tuple[str, str]:
    """Size, and a hash of all of it; of a large file, of blocks that are spread over it evenly."""
    with open_file(file, field="dataset") as opened:
        size = opened.seek(0, 2)
        opened.seek(0)
        if size <= WHOLE_BYTES:
            return str(size), hashlib.file_digest(opened, "sha256").hexdigest()
        blocks = list[bytes]()
        for number in range(N_BLOCKS):
            opened.seek((size - BLOCK_BYTES) * number // (N_BLOCKS - 1))
            blocks.append(opened.read(BLOCK_BYTES))
        return str(size), hash_of(*blocks)


def hash_of(*parts: str | bytes) -> str:
    """One hash of several texts, each with its length."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
