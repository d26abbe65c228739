"""Every failure as one document. The only place that catches everything."""

import errno
import logging
import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

import saescope
from saescope.errors import ISSUES, FormatError, SaescopeError, cannot_write, free_space
from saescope.fence import LOOK, real_path
from saescope.names import home, nearest
from saescope_mcp.binding.arguments import of_arguments
from saescope_mcp.binding.error_document import error_document, show
from saescope_mcp.binding.wording import PLAIN, Wording
from saescope_mcp.groups import SETTING

log = logging.getLogger("saescope")

_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_NOT_THERE = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM),
    *(errno.ENXIO, errno.ESTALE, errno.ENAMETOOLONG),
}


def refusal(
    tool: str,
    error: Exception | SystemExit,
    request: type[BaseModel] | None = None,
    *,
    wording: Wording = PLAIN,
) -> dict[str, str]:
    """Make the document that is sent instead of a result."""
    if isinstance(error, ValidationError) and request is not None:
        return of_arguments(tool, error, request)
    if isinstance(error, SaescopeError):
        return _of_the_library(error, request, wording)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return error_document(
            "OUT_OF_MEMORY",
            f"{tool} ran out of memory.",
            hint=wording.out_of_memory,
        )
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        return _of_the_disk(error)
    if isinstance(error, OSError) and _is_of_the_caller(error):
        log.warning("%s could not read a file", tool, exc_info=error)
        return error_document(
            "FILE_READ_ERROR",
            f"{Path(os.fsdecode(error.filename)).name!r} cannot be read: {error.strerror}.",
            hint=LOOK,
        )
    log_id = uuid.uuid4().hex[:8]
    log.error("%s crashed, log id %s", tool, log_id, exc_info=error)
    return error_document(
        "INTERNAL",
        f"{tool} crashed ({type(error).__name__}); log id {log_id}.",
        hint=f"This is a fault of saescope: report it at {ISSUES} with what stderr says of "
        f"{log_id}. {wording.still_works}",
    )


def _of_the_library(
    error: SaescopeError, request: type[BaseModel] | None, wording: Wording
) -> dict[str, str]:
    field = _argument(error.field, request, wording)
    corrected = f"Correct {field} and call again." if field else wording.at_a_loss
    return error_document(
        error.code,
        wording.text(error.message),
        field=field,
        got=error.got,
        allowed=error.allowed,
        hint=wording.next_step(error) or corrected,
    )


def _is_of_the_caller(error: OSError) -> bool:
    """Whether a file that is not ours is missing, or something else: what we keep or brought along
    should be there, and is our fault if not."""
    if not isinstance(error.filename, str | bytes) or error.errno not in _NOT_THERE:
        return False
    ours = (home(), sys.prefix, *saescope.__path__)
    try:
        file = real_path(os.fsdecode(error.filename))
    except FormatError:  # it is being exchanged, which nobody does to ours
        return True
    return not any(file.is_relative_to(real_path(folder)) for folder in ours)


def _of_the_disk(error: OSError) -> dict[str, str]:
    """Whatever was being read or written, a disk that is full, read-only or broken is no fault of
    saescope."""
    place = Path(str(error.filename or home()))
    folder = place if place.is_dir() else place.parent
    if error.errno == errno.EIO:
        return error_document(
            "DISK_ERROR",
            f"The disk of {folder} fails: {error.strerror} ({free_space(folder)}).",
            hint="Check that disk, or set SAESCOPE_HOME to a folder on another one.",
        )
    refused = cannot_write(place.name or "A file", folder, error)
    return error_document(refused.code, refused.message, got=refused.got, hint=refused.hint)


def _argument(field: str, request: type[BaseModel] | None, wording: Wording) -> str:
    """The argument of the tool that the library means."""
    other = wording.arguments.get(field, "")
    names = request.model_fields if request is not None else {}
    return other if other in names and field not in names else field


def switched_off(name: str, group: str, setting: str) -> dict[str, str]:
    more = f"{setting},{name}"
    return error_document(
        "TOOL_OFF",
        f"{name} is switched off on this server.",
        field="name",
        got=name,
        hint=f'use_tools(groups=["{group}"]), then {name} again. To start with it: '
        f"{SETTING}={more}, or saescope serve --tools={more}.",
    )


def unknown_tool(name: str, known: Sequence[str]) -> dict[str, str]:
    close = nearest(name, known, 1)
    return error_document(
        "UNKNOWN_TOOL",
        f"There is no tool {show(name)}.",
        field="name",
        got=show(name),
        allowed=", ".join(known),
        hint=f"Call {close[0]}." if close else "Call one of the listed tools.",
    )
