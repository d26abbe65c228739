"""Opening the files that a caller names: inside the fence, regular, and no larger than their kind
can be. Standard library only.

What decides is the descriptor that was opened, so a path that is exchanged between a look and an
open gains nothing. Whoever sets no fence (the library, the command line) reads anywhere; pipes,
devices and endless files are refused there too.
"""

import io
import os
import stat
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath, PureWindowsPath

from saescope.errors import ArgumentError, FormatError

CONFIG_BYTES = 4 << 20
"""The largest configuration: those of a model with every label that it knows are below 1 MiB."""
LOOK = "Look whether it is in its place and may be read, then call again."
"""The next step after a file that cannot be read."""
OWN_BYTES = 64 << 20
"""The largest record of saescope's own that is read as a whole."""
_PACKAGE = Path(__file__).resolve().parent
_SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys"),
    *("/usr/bin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/sbin", "/usr/share", "/usr/etc"),
    *("/usr/local/bin", "/usr/local/etc", "/usr/local/lib", "/usr/local/sbin", "/usr/local/share"),
    *("/run/secrets", "/run/credentials", "/run/user", "/var/log", "/var/mail", "/var/spool"),
    *("/private/etc", "/private/var/db", "/private/var/log", "/nix", "/snap", "/lost+found"),
    *("/System", "/Library", "/Applications", "/private/var/root"),
)
"""Folders of the system; everything below them is closed as well."""
_SHARED = (
    *("/home", "/Users", "/usr", "/usr/local", "/var", "/var/lib", "/var/cache", "/run", "/opt"),
    *("/srv", "/mnt", "/media", "/private", "/private/var", "/Volumes", "/Network"),
)
"""Folders that are never a root themselves; one below may be somebody's own."""
_WINDOWS = (
    *("windows", "program files", "program files (x86)", "programdata", "recovery"),
    *("$recycle.bin", "system volume information", "perflogs"),
)
_PRIVATE = ("AppData", "Library")
"""Folders of a home that hold what programs keep for themselves, as hidden ones do elsewhere."""
_NO_DISK = ("/proc", "/sys")
"""What lies there calls itself a regular file of no length, and may have no end; a link to standard
input leads there, too."""
_TRIES = 20
"""How often a path is followed whose links are exchanged meanwhile."""
_F_GETPATH = 50
"""macOS: the fcntl that tells a descriptor's path."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Folders below which files may be opened. What is hidden below one of them, `.ssh` or `.env`,
    is out unless it is one itself."""

    roots: tuple[Path, ...]

    @classmethod
    def around(cls, roots: Iterable[Path]) -> "Fence":
        """The fence around these folders with links resolved; a system folder is never one of
        them."""
        resolved = (resolve(root) for root in roots)
        return cls(tuple(root for root in resolved if not is_system_folder(root)))

    def holds(self, place: Path) -> bool:
        """Whether this path, its links resolved, lies inside."""
        return any(
            place.is_relative_to(root) and not _is_private(place, root)
            for root in (*self.roots, _PACKAGE)
        )


AskFence = Callable[[], Fence | None]
_fence: ContextVar[AskFence] = ContextVar("saescope_fence", default=lambda: None)


@contextmanager
def fenced(fence: Fence | AskFence | None) -> Generator[None]:
    """Every file that saescope opens for a caller inside the block must lie inside the fence; None:
    anywhere. A function is asked for the fence once, when the first file is opened."""
    token = _fence.set(cache(fence) if callable(fence) else lambda: fence)
    try:
        yield
    finally:
        _fence.reset(token)


def real_path(path: str | Path) -> Path:
    """Resolve a path, every link followed; a loop of links stays as it is (`Path.resolve` raises
    RuntimeError of it).

    Raises:
        FormatError: FILE_READ_ERROR: a link on the way is exchanged again and again.
    """
    why = ""
    for _ in range(_TRIES):
        try:
            return Path(os.path.realpath(path))
        except OSError as error:  # what was a link a moment ago is none when it is read
            why = error.strerror or ""
    raise _unreadable(Path(path).name, "path", f"it is exchanged while it is read ({why})")


def resolve(path: str | Path) -> Path:
    """The path with `~`, links and `..` resolved, whether or not it exists."""
    return real_path(Path(path).expanduser())


def is_system_folder(folder: PurePath) -> bool:
    """Whether this absolute path is the root of a drive, holds every user's files, or belongs to
    the operating system."""
    if folder.parent == folder:
        return True
    if isinstance(folder, PureWindowsPath):
        parts = [part.lower() for part in folder.parts[1:]]
        return parts[0] in _WINDOWS or parts == ["users"]
    return str(folder) in _SHARED or any(folder.is_relative_to(root) for root in _SYSTEM)


def is_kept_by_programs(folder: Path) -> bool:
    """Whether this resolved folder lies in a hidden folder of the home, or in one that programs
    keep: desktop clients work in such."""
    own = resolve("~")
    if not folder.is_relative_to(own) or folder == own:
        return False
    first = folder.relative_to(own).parts[0]
    return first.startswith(".") or first in _PRIVATE


def check_inside(path: str | Path, *, field: str = "path") -> Path:
    """Return the path with its links resolved, once it is known to lie inside.

    Raises:
        ArgumentError: PATH_NOT_ALLOWED: it lies outside the fence.
    """
    place, fence = resolve(path), _fence.get()()
    if fence is not None and not fence.holds(place):
        raise outside(path, fence, field)
    return place


def check_linked(path: str | Path, folder: str | Path, *, field: str = "path") -> None:
    """Raise unless a file of a cache, its links resolved, lies in its own part of it, `folder`, or
    inside the fence.

    Raises:
        ArgumentError: PATH_NOT_ALLOWED.
    """
    if not resolve(path).is_relative_to(resolve(folder)):
        check_inside(path, field=field)


def is_inside(path: str | Path) -> bool:
    """Whether `check_inside` lets it pass."""
    fence = _fence.get()()
    return fence is None or fence.holds(resolve(path))


def outside(path: str | Path, fence: Fence, field: str) -> ArgumentError:
    return ArgumentError(
        f"{Path(path).name!r} leads to a file outside the folders that may be read, or "
        "to a hidden one.",
        code="PATH_NOT_ALLOWED",
        field=field,
        got=path,
        allowed=", ".join(map(str, fence.roots)),
        hint="Copy it below one of them.",
        facts={"roots": fence.roots},
    )


def open_file(
    path: str | Path, *, limit: int | None = None, field: str = "path"
) -> io.BufferedReader:
    """A regular file inside the fence, of at most `limit` bytes, to be closed by the caller.

    Raises:
        FileNotFoundError: there is none.
        ArgumentError: PATH_NOT_ALLOWED: it lies outside the fence.
        FormatError: FILE_SUSPICIOUS: a pipe, a device, a folder, or larger than its kind is;
            FILE_READ_ERROR.
    """
    place, name = check_inside(path, field=field), Path(path).name
    if any(place.is_relative_to(root) for root in _NO_DISK):
        raise _suspicious(name, "something that the system makes up as it is read", field)
    # A pipe without a writer blocks an ordinary open; where a name has become a link by now, it is
    # not followed.
    flags = os.O_RDONLY
    for flag in ("O_NONBLOCK", "O_NOFOLLOW", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, flag, 0)
    try:
        handle = os.open(place, flags)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(name, field, getattr(error, "strerror", None) or str(error)) from error
    try:
        _check(os.fstat(handle), name, limit, field)
        _check_opened(handle, path, field)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_file(path: str | Path, *, limit: int = CONFIG_BYTES, field: str = "path") -> bytes:
    """The whole content of a file of at most `limit` bytes; raises as `open_file`."""
    with open_file(path, limit=limit, field=field) as file:
        content = file.read(limit + 1)
    if len(content) > limit:  # it has grown
        raise _too_large(Path(path).name, len(content), limit, field)
    return content


def check_regular(path: str | Path, *, field: str = "path", folders: bool = False) -> None:
    """Raise where something is there that is no regular file, nor, if `folders` are meant as well,
    a folder.

    Raises:
        FormatError: FILE_SUSPICIOUS.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # nothing there, or nothing to be seen: whoever opens it says so
        return
    if not (stat.S_ISREG(mode) or (folders and stat.S_ISDIR(mode))):
        raise _suspicious(Path(path).name, _kind(mode), field)


@contextmanager
def present(name: str, *, field: str = "path") -> Generator[None]:
    """Files that vanish, or become something else, between a look and a read are an error that says
    so.

    Raises:
        FormatError: FILE_READ_ERROR.
    """
    try:
        yield
    except OSError as error:
        raise _unreadable(name, field, error.strerror or str(error)) from error


def open_own(path: Path) -> io.BufferedReader:
    """A file that saescope wrote itself, wherever it keeps it: not what the caller named, but it
    may have been exchanged all the same.

    Raises:
        OSError: there is none, or it is no regular file.
    """
    with _own():
        return open_file(path)


def read_own(path: Path, *, limit: int = OWN_BYTES) -> bytes:
    """The whole content of such a file; raises as `open_own`, also where it is larger than
    `limit`."""
    with _own():
        return read_file(path, limit=limit)


@contextmanager
def _own() -> Generator[None]:
    with fenced(None):
        try:
            yield
        except FormatError as error:
            raise OSError(error.message) from error


def _check(status: os.stat_result, name: str, limit: int | None, field: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _suspicious(name, _kind(status.st_mode), field)
    if limit is not None and status.st_size > limit:
        raise _too_large(name, status.st_size, limit, field)


def _check_opened(handle: int, path: str | Path, field: str) -> None:
    """A folder on the way may have become a link since the path was resolved: ask the descriptor
    where it is."""
    fence, place = _fence.get()(), _place_of(handle)
    if fence is not None and place is not None and not fence.holds(place):
        raise outside(path, fence, field)


def _place_of(handle: int) -> Path | None:
    try:
        if sys.platform == "darwin":
            import fcntl

            return Path(os.fsdecode(fcntl.fcntl(handle, _F_GETPATH, bytes(1024)).rstrip(b"\0")))
        return Path(os.readlink(f"/proc/self/fd/{handle}"))
    except OSError:  # Windows; a system without /proc
        return None


def _is_private(place: Path, root: Path) -> bool:
    if any(part.startswith(".") for part in place.relative_to(root).parts):
        return True
    kept = [resolve("~") / name for name in _PRIVATE]
    return any(place.is_relative_to(one) and not root.is_relative_to(one) for one in kept)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def _suspicious(name: str, what: str, field: str) -> FormatError:
    return FormatError(
        f"{name!r} is {what}, not a file.",
        code="FILE_SUSPICIOUS",
        field=field,
        got=what,
        allowed="a regular file",
        hint="Give a regular file in its place.",
    )


def _too_large(name: str, size: int, limit: int, field: str) -> FormatError:
    return FormatError(
        f"{name!r} has {size} bytes; a file of its kind has at most {limit}.",
        code="FILE_SUSPICIOUS",
        field=field,
        got=size,
        allowed=limit,
        hint="Load from a source you trust.",
    )


def _unreadable(name: str, field: str, why: str) -> FormatError:
    return FormatError(
        f"{name!r} cannot be read: {why}.",
        code="FILE_READ_ERROR",
        field=field,
        got=name,
        hint=LOOK,
    )
