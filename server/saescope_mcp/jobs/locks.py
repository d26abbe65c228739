"""Locks between processes, which end with the process that holds them, however it ends."""

import errno
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

RETRY_S = 0.02


class FileLock:
    """An exclusive lock on a file that is only there to be locked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def take(self, *, within_s: float = 0.0) -> bool:
        """Whether it is ours now; tries again for that long."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        give_up = time.monotonic() + within_s
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        while not _lock(handle):
            if time.monotonic() >= give_up:
                os.close(handle)
                return False
            time.sleep(RETRY_S)
        self._handle = handle
        return True

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def is_held(self) -> bool:
        """Whether another holds it, or another FileLock of this process. Nothing is written: the
        folder may be one that can only be read."""
        try:
            handle = _opened(self.path)
        except FileNotFoundError:
            return False
        try:
            return not _lock(handle)
        finally:
            os.close(handle)

    def is_lost(self) -> bool:
        """Whether its file was deleted or replaced: another process may then hold a lock of this
        name too."""
        try:
            return self._handle is None or not os.path.samestat(
                os.fstat(self._handle), self.path.stat()
            )
        except OSError:
            return True

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


@contextmanager
def locked(path: Path, *, within_s: float = 5.0) -> Generator[None]:
    """The block alone, among all processes that lock this file; after that long without them, for a
    stale lock must not stop us."""
    lock = FileLock(path)
    lock.take(within_s=within_s)
    with lock:
        yield


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR)  # which locks need on a network's file system
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return os.open(path, os.O_RDONLY)


def _lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
