"""`saescope warm`: a process that keeps a model and an SAE in memory, and the commands of the same
machine, home and settings that let it do their work.

It listens on a Unix socket in the home that only its user can reach. A command sends one line of
JSON and reads lines until the outcome; a process that is busy, or that would answer otherwise, says
so, and the command does the work itself.
"""

import hashlib
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from saescope import __version__
from saescope.json_text import parse
from saescope.names import home
from saescope.progress import Say

SOCKET = "warm.sock"
MOST_BYTES = 2**26
"""A line that is longer than this is not read; a document has a few thousand bytes."""
_DECIDING = ("SAESCOPE_", "HF_", "OMP_", "MKL_", "CUDA_", "XDG_")
"""Beginnings of variables on which an outcome may depend."""
FOR_ROOM = (
    "ALREADY_LOADED",
    "BUSY",
    "LOADING",
    "OUT_OF_MEMORY_BUDGET",
    "TOO_MANY_MODELS",
    "TOO_MANY_SAES",
)
"""Refusals of a process that has more in memory than the command would have."""


class CommandCall(NamedTuple):
    """A call of the command line."""

    tool: str
    arguments: dict[str, Any]
    loading: dict[str, Any]
    """What is said of the SAE's load."""


class CommandOutcome(NamedTuple):
    """What a call came to, as a command tells it: of the binder's `Outcome` what comes through a
    socket, since the binder takes longer to import than a warm process to answer."""

    document: dict[str, Any]
    is_error: bool


def work_of_another(asked: CommandCall, say: Say) -> CommandOutcome | None:
    """The outcome of a call, by the process that `saescope warm` started; None where there is none,
    or it is busy, or of another version or other settings."""
    if not hasattr(socket, "AF_UNIX") or not (place := home() / SOCKET).exists():
        return None
    line = json.dumps({"like": likeness(), "folder": str(Path.cwd()), **asked._asdict()})
    with socket.socket(socket.AF_UNIX) as there:
        try:
            there.connect(str(place))
            there.sendall(line.encode() + b"\n")
            return _heard(there, say)
        except (OSError, ValueError, TypeError, KeyError):
            return None  # it ended, or does not speak as we do


def _heard(there: socket.socket, say: Say) -> CommandOutcome | None:
    with there.makefile("rb") as lines:
        while line := lines.readline(MOST_BYTES):
            told = parse(line)
            if "say" in told:
                say(str(told["say"]))
            elif "document" in told:
                document = dict(told["document"])
                if told["is_error"] and document["code"] in FOR_ROOM:
                    return None
                return CommandOutcome(document, is_error=bool(told["is_error"]))
            else:
                say("the warm process is busy, or of other code or settings: it is not used")
                return None
    return None


def likeness(environ: Mapping[str, str] = os.environ) -> str:
    """A hash of version, code and settings: where it is equal, answers are the same."""
    folders = [
        Path(sys.modules[name].__file__ or "").parent for name in ("saescope", "saescope_mcp")
    ]
    newest = max(file.stat().st_mtime_ns for folder in folders for file in folder.rglob("*.py"))
    said = sorted((name, value) for name, value in environ.items() if name.startswith(_DECIDING))
    told = repr((__version__, sys.executable, newest, said))
    return hashlib.sha256(told.encode()).hexdigest()
