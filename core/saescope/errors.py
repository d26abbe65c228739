"""Every error that saescope raises on purpose, with a code, what was allowed and the next step.

A hint speaks of the library. Whoever offers it under other names, as the tools do, takes the code
and the `facts` that the next call needs, and says it in their words.

SaescopeError
├── ArgumentError    an argument is wrong in itself
├── NotFoundError    a release, SAE, file or handle is not there
├── ConfigError      a configuration is incomplete or contradicts itself
├── FormatError      a file is torn, suspicious or in an unknown dialect
├── ModelError       the language model cannot be loaded
├── HookError        a hook name is unknown, or a hook never fired
├── MismatchError    model and SAE do not belong together
├── ResourceError    memory, disk or device
├── OfflineError     the network is needed and not allowed or not there
├── NumericError     a result is NaN or infinite
└── Cancelled        the caller gave up
"""

import errno
import shutil
import sqlite3
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

ISSUES = "https://github.com/saescope/saescope/issues"
"""Where a fault of saescope is reported."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MOST_CAUSE = 300


class SaescopeError(Exception):
    """Base of all; `str(e)` is the message, `hint` the exact next step, `facts` what it is made
    of."""

    default_code: ClassVar[str] = "ERROR"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        field: str = "",
        got: object = "",
        allowed: object = "",
        hint: str = "",
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.field = field
        self.got = str(got)
        self.allowed = (
            ", ".join(map(str, allowed)) if isinstance(allowed, list | tuple) else str(allowed)
        )
        self.hint = hint
        self.facts = dict(facts or {})


class ArgumentError(SaescopeError):
    default_code = "INVALID_ARGUMENT"


class NotFoundError(SaescopeError):
    default_code = "NOT_FOUND"


class ConfigError(SaescopeError):
    default_code = "CONFIG_INVALID"


def require_ranges(cfg: object, allowed: Mapping[str, tuple[int, int]]) -> None:
    """Raises ConfigError: OUT_OF_RANGE: a field of the settings is not within its bounds, both of
    which are allowed."""
    for field, (low, high) in allowed.items():
        if not low <= getattr(cfg, field) <= high:
            raise ConfigError(
                f"{field} is out of range.",
                code="OUT_OF_RANGE",
                field=field,
                got=getattr(cfg, field),
                allowed=f"{low}..{high}",
            )


class FormatError(SaescopeError):
    default_code = "FILE_CORRUPT"


class ModelError(SaescopeError):
    default_code = "MODEL_INVALID"


class HookError(SaescopeError):
    default_code = "HOOK_NOT_FOUND"


class MismatchError(SaescopeError):
    default_code = "MODEL_MISMATCH"


class ResourceError(SaescopeError):
    default_code = "OUT_OF_MEMORY_BUDGET"


class OfflineError(SaescopeError):
    default_code = "NOT_CACHED_OFFLINE"


class NumericError(SaescopeError):
    default_code = "NON_FINITE_RESULT"


class Cancelled(SaescopeError):
    default_code = "CANCELLED"


def cause_of(error: BaseException, *, replace: Mapping[str, str] | None = None) -> str:
    """What a library says went wrong, on one line of bounded length: its first line, and each next
    one while a line ends in a colon.

    An error that says nothing, as a bare assertion does, is told by its kind and the statement that
    raised it. `replace` maps text that is not for the reader, such as a private path, to what
    stands there instead.
    """
    cause = ""
    for line in filter(None, map(str.strip, str(error).splitlines())):
        cause = f"{cause} {line}".strip()
        if not cause.endswith(":"):
            break
    kind, frames = type(error).__name__, traceback.extract_tb(error.__traceback__)
    if not cause:
        cause = f"{kind}: {frames[-1].line}" if frames and frames[-1].line else kind
    elif isinstance(error, KeyError | ArithmeticError):
        cause = f"{kind}: {cause}"
    for text, instead in (replace or {}).items():
        cause = cause.replace(text, instead)
    half = _MOST_CAUSE // 2  # the value that is wrong may be named at the end
    return cause if len(cause) <= _MOST_CAUSE else f"{cause[:half]} ... {cause[-half + 5 :]}"


def disk_is_full(error: Exception) -> bool:
    """Whether writing failed for want of space; safetensors says the number in its message only."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return True
    return getattr(error, "errno", None) in _FULL or any(
        f"os error {number})" in str(error) for number in _FULL
    )


def cannot_write(
    what: str, folder: Path, error: Exception, *, field: str = "", hint: str = ""
) -> ResourceError:
    """DISK_FULL or CANNOT_WRITE, with the folder, the cause and the free space; `what` begins the
    sentence."""
    full = disk_is_full(error)
    why = getattr(error, "strerror", None) or cause_of(error)
    return ResourceError(
        f"{what} cannot be written to {folder}: {why.rstrip('.')} ({free_space(folder)}).",
        code="DISK_FULL" if full else "CANNOT_WRITE",
        field=field,
        got=folder,
        hint=hint
        or f"{'Free space there' if full else 'Make that folder writable'}, then call again.",
    )


def free_space(folder: Path) -> str:
    """Say how much space is free on the disk where the folder is or would be."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        return "its disk does not answer"
    return f"{free / 1e6:,.1f} MB are free there"
