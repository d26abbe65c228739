"""A whole file from the hub into its cache: resumed where it stopped, also by another process, and
used only if its hash is right."""

import hashlib
import os
import re
import shutil
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from saescope.errors import FormatError, OfflineError, ResourceError, cannot_write
from saescope.fence import read_own, real_path
from saescope.hub import transfer
from saescope.hub.failures import passes, translate
from saescope.names import home
from saescope.progress import Progress, Say

_SAFE_ETAG = re.compile(r"[0-9A-Za-z_.-]{1,128}")
_PROGRESS_S = 0.5
_ENOUGH_BYTES = 1 << 20
"""An attempt that brought this much counts as progress: the patience starts anew."""


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def fetch(url: str, what: str, *, into: Path, etag: str, size: int, say: Say) -> None:
    """Make the file `etag` in `into` hold the `size` bytes at `url`.

    Raises:
        NotFoundError, OfflineError: the hub does not have it or stops answering; what has arrived
            is kept for the next try.
        FormatError: HASH_MISMATCH, the bytes are not those that the hub has promised; they are
            thrown away.
        ResourceError: no room on the disk.
    """
    if not _SAFE_ETAG.fullmatch(etag) or etag in (".", ".."):
        raise OfflineError(
            f"The server gives no usable etag for {what}.",
            code="HUB_BAD_REPLY",
            hint="Set HF_ENDPOINT to another mirror.",
        )
    blob = into / etag
    part = blob.with_name(f"{etag}.saescope.incomplete")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with _lock(part):
            if blob.exists():
                return
            resumed = part.exists()
            _complete(url, what, part, size, say)
            if resumed and not _as_promised(
                part, etag, size
            ):  # what lay there may have been damaged
                part.unlink()
                _complete(url, what, part, size, say)
            if not _as_promised(part, etag, size):
                part.unlink()
                raise _mismatch(
                    what,
                    "What arrived was thrown away; call again, or set HF_ENDPOINT to "
                    "another mirror.",
                )
            os.replace(part, blob)
    except OSError as error:
        raise cannot_write(
            what,
            blob.parent,
            error,
            hint="Free space on the disk, or set HF_HUB_CACHE to a folder that can be written.",
        ) from None
    mark_verified(blob)


def _complete(url: str, what: str, part: Path, size: int, say: Say) -> None:
    """Append to `part` until it has `size` bytes."""
    failures = 0
    while (have := part.stat().st_size if part.exists() else 0) < size:
        _check_room(what, part.parent, size - have)
        failed: Exception = ConnectionError()
        try:
            _append(url, part, have, size, lambda n, size: say(f"{what}: {_mb(n)} of {_mb(size)}"))
        except transfer.errors() as error:
            if isinstance(error, OSError) and error.errno:  # the disk, not the network
                raise
            failed = error
        now = part.stat().st_size if part.exists() else 0
        if now >= size:
            return
        failures = 0 if now - have >= _ENOUGH_BYTES else failures + 1
        if failures >= transfer.ATTEMPTS or not passes(failed):
            raise translate(what, failed) from None
        transfer.pause(max(failures, 1), failed)


def _append(url: str, part: Path, have: int, size: int, progress: Progress) -> None:
    with transfer.get(url, have, None) as response:
        start = transfer.first_byte(response)
        with part.open("r+b" if part.exists() else "wb") as file:
            file.truncate(min(start, have))
            file.seek(0, 2)
            at, told_at = file.tell(), time.monotonic()
            for content in transfer.body(response):
                at += file.write(content)
                if at > size:  # more than was promised: let the hash decide on what was
                    break
                if time.monotonic() - told_at > _PROGRESS_S:
                    told_at = time.monotonic()
                    progress(at, size)
            file.truncate(min(at, size))


def check_cached(path: Path, what: str, *, may_remove: bool) -> Path:
    """`path`, a file in the hub's cache, once its bytes are known to be those that its etag
    promises.

    Raises:
        FormatError: HASH_MISMATCH.
    """
    blob = real_path(path)
    if _known_hash(blob.name) and not _marked(blob):
        if not _as_promised(blob, blob.name, blob.stat().st_size):
            if may_remove:
                path.unlink(missing_ok=True)
                blob.unlink(missing_ok=True)
            raise _mismatch(
                what,
                "The cached file was removed; call again."
                if may_remove
                else f"Delete {path} and load it again online.",
            )
        mark_verified(blob)
    return path


def mark_verified(blob: Path) -> None:
    """Remember that this file has been checked, for as long as its size and date stay."""
    mark = _mark(blob)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(_stamp(blob), encoding="ascii")
    except OSError:
        return  # checked again next time


def _marked(blob: Path) -> bool:
    try:
        return read_own(_mark(blob)) == _stamp(blob).encode()
    except OSError:
        return False


def _mark(blob: Path) -> Path:
    return home() / "verified" / blob.name


def _stamp(blob: Path) -> str:
    status = blob.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _known_hash(etag: str) -> bool:
    return bool(re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag))


def _as_promised(path: Path, etag: str, size: int) -> bool:
    """The etag of a large file is its sha256, that of a small one git's sha1; of any other only the
    size can be checked."""
    if path.stat().st_size != size:
        return False
    if not _known_hash(etag):
        return True
    digest: _Hash = (
        hashlib.sha256()
        if len(etag) == 64
        else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    )
    with path.open("rb") as file:
        while content := file.read(1 << 20):
            digest.update(content)
    return digest.hexdigest() == etag


def _mismatch(what: str, hint: str) -> FormatError:
    return FormatError(
        f"{what} is not the file that the hub has: its hash differs.",
        code="HASH_MISMATCH",
        got=what,
        hint=hint,
    )


def _check_room(what: str, folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise ResourceError(
            f"{what} needs {_mb(n_bytes)} more on the disk, {_mb(free)} are free.",
            code="DISK_FULL",
            got=_mb(free),
            allowed=_mb(n_bytes),
            hint="Free space, or set HF_HUB_CACHE to a folder on another disk.",
        )


def _lock(part: Path) -> AbstractContextManager[Any]:
    from huggingface_hub.utils import WeakFileLock

    return WeakFileLock(f"{part}.lock")


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB"
