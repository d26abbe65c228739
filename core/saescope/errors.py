"""Every error that saescope raises on purpose, with a code, what was allowed and the next step.

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
from typing import ClassVar

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class SaescopeError(Exception):
    """Base of all; `str(e)` is the message, `hint` the exact next step."""

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


class ArgumentError(SaescopeError):
    default_code = "INVALID_ARGUMENT"


class NotFoundError(SaescopeError):
    default_code = "NOT_FOUND"


class ConfigError(SaescopeError):
    default_code = "CONFIG_INVALID"


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


def disk_is_full(error: Exception) -> bool:
    """Whether writing failed for want of space; safetensors says the number in its message only."""
    return getattr(error, "errno", None) in _FULL or any(
        f"os error {number})" in str(error) for number in _FULL
    )
