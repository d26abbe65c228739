"""Answers on disk, as they came, packed: `<home>/neuronpedia/<2 of key>/<key>.json.gz`; the oldest
go first when it gets large."""

import gzip
import hashlib
import os
import time
import uuid
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from saescope.fence import read_own
from saescope.names import home

MOST_BYTES = 256 << 20
_PRUNE_EVERY = 64


class CachedAnswer(NamedTuple):
    """An answer that was kept."""

    content: bytes
    age_s: float


class ReplyCache:
    """Written aside and renamed, so that an entry is whole or not there; what cannot be read counts
    as not there."""

    def __init__(self, endpoint: str) -> None:
        self._folder, self._endpoint, self._n_put = home() / "neuronpedia", endpoint, 0

    def get(self, name: str) -> CachedAnswer | None:
        """Return what was kept under `name`."""
        path = self._path(name)
        try:
            # A date in the future is that of a clock which was wrong, now or then: not fresh.
            return CachedAnswer(
                gzip.decompress(read_own(path)), abs(time.time() - path.stat().st_mtime)
            )
        except (OSError, EOFError, zlib.error):
            return None

    def put(self, name: str, content: bytes) -> None:
        """Keep it; a disk that is full or read-only only means asking again."""
        path = self._path(name)
        aside = path.with_name(f".{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(gzip.compress(content, 5, mtime=0))
            os.replace(aside, path)
        except OSError:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
        if self._n_put % _PRUNE_EVERY == 0:
            self._prune()
        self._n_put += 1

    def _path(self, name: str) -> Path:
        key = hashlib.sha256(
            f"{self._endpoint} {name}".encode("utf-8", "surrogatepass")
        ).hexdigest()[:40]
        return self._folder / key[:2] / f"{key}.json.gz"

    def _prune(self) -> None:
        with suppress(OSError):
            files = sorted(
                ((path.stat(), path) for path in self._folder.glob("*/*")),
                key=lambda entry: entry[0].st_mtime,
            )
            excess = sum(stat.st_size for stat, _ in files) - MOST_BYTES
            for stat, path in files:
                if excess <= 0:
                    return
                path.unlink(missing_ok=True)
                excess -= stat.st_size
