"""Which weights these are, without reading all of them: for sets of gigabytes, and decoders that
stay on disk."""

import hashlib
from collections.abc import Sequence
from typing import BinaryIO, Protocol

from saescope.sets.member import Member

WHOLE_BYTES = 4 << 20
"""Files up to this size are read whole."""
_ENDS, _BLOCK, _N_BLOCKS = 1 << 20, 1 << 14, 64


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


def files_hash(members: Sequence[Member]) -> str:
    """One sha256 for the weight files of all members: of a repository its commit and their names,
    of files on this disk their names, sizes and samples from all over them. Another training gives
    another hash; a few numbers that were changed by hand may not."""
    digest = hashlib.sha256()
    for member in members:
        located, recipe = member.storage.located, member.storage.recipe
        for name in dict.fromkeys([recipe.file, *recipe.other.values()]):
            digest.update(f"{member.layer} {name}\n".encode())
            if located.source.repo_id:
                digest.update(f"{located.source.repo_id}@{located.revision}\n".encode())
                continue
            with located.source.open(name) as file:
                _sample(file, digest)
    return digest.hexdigest()


def _sample(file: BinaryIO, digest: _Digest) -> None:
    size = file.seek(0, 2)
    digest.update(f"{size}\n".encode())
    if size <= WHOLE_BYTES:
        file.seek(0)
        digest.update(file.read(size))
        return
    between = size - 2 * _ENDS
    parts = [(0, _ENDS), (size - _ENDS, _ENDS)]
    parts += [(_ENDS + i * between // _N_BLOCKS, _BLOCK) for i in range(_N_BLOCKS)]
    for start, n_bytes in sorted(parts):
        file.seek(start)
        digest.update(file.read(n_bytes))
