"""Below which folders tools read and write: the settings' roots, and what saescope and Hugging Face
keep themselves."""

import os
from pathlib import Path

from saescope.catalogue.cached import hub_cache
from saescope.errors import ArgumentError
from saescope.fence import Fence, resolve
from saescope.names import home
from saescope_mcp.settings import Settings


def trained_saes() -> Path:
    """The folder in which train_sae puts what it makes; always readable."""
    return home() / "saes"


def reading(settings: Settings) -> Fence | None:
    """The fence around what tools may open; None where anything may be."""
    if settings.read_anywhere:
        return None
    own = (trained_saes(), home() / "models", home() / "converted", hub_cache())
    return Fence.around((*settings.read_roots, *settings.write_roots, *own))


def said_roots(settings: Settings) -> list[str] | None:
    """Give `reading` in the form in which a worker's process is told of it."""
    fence = reading(settings)
    return fence and [str(root) for root in fence.roots]


def readable(path: str, settings: Settings, field: str) -> str:
    """Resolve links and `..` of a path that may be read.

    Raises:
        ArgumentError: PATH_NOT_ALLOWED: it lies outside the folders that may be read.
    """
    return _inside(path, reading(settings), settings.read_roots, field=field, setting="READ_ROOTS")


def writable(path: str, settings: Settings, field: str) -> str:
    """Checks as `readable` does, for a folder that is to be made."""
    roots = (*settings.write_roots, trained_saes())
    fence = None if settings.read_anywhere else Fence.around(roots)
    return _inside(path, fence, roots, field=field, setting="WRITE_ROOTS")


def _inside(
    path: str, fence: Fence | None, roots: tuple[Path, ...], *, field: str, setting: str
) -> str:
    place = resolve(os.path.expanduser(path))
    if any(len(part.encode()) > 255 for part in place.parts):
        raise ArgumentError(
            f"A name in {field} is longer than any file's.",
            code="TOO_LONG",
            field=field,
            got=path,
            allowed="255 bytes",
        )
    if fence is None or fence.holds(place):
        return str(place)
    verb = "written" if setting == "WRITE_ROOTS" else "read"
    raise ArgumentError(
        f"{field} lies outside the folders that may be {verb}, or in a hidden one.",
        code="PATH_NOT_ALLOWED",
        field=field,
        got=path,
        allowed=", ".join(map(str, roots)) or "nothing yet",
        hint=f"Choose a place below one of them, or start the server with SAESCOPE_{setting} set.",
    )
