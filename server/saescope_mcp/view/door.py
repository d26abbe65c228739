"""The way into the window that names no token: a file for its user alone, which leads to the
address. A token on a command line, as one that opens a browser has, could be read by everybody on
the machine."""

import os
import socket
from html import escape
from pathlib import Path

from saescope.names import home
from saescope_mcp.view.guard import HOST


class Door:
    """A file that leads a browser to an address, as long as the window is there."""

    def __init__(self, address: str, *, port: int) -> None:
        self.path: Path | None = home() / "window" / f"{port}.html"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _clear(self.path.parent)
            self.path.unlink(missing_ok=True)
            wanted = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(self.path, wanted, 0o600), "w", encoding="utf-8") as file:
                file.write(_leading_to(address))
        except OSError:
            self.path = None

    def close(self) -> None:
        """Take the file away."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Take away the doors of windows that ended without doing so."""
    for path in folder.glob("*.html"):
        with socket.socket() as trial:
            if path.stem.isdigit() and trial.connect_ex((HOST, int(path.stem))):
                path.unlink(missing_ok=True)


def _leading_to(address: str) -> str:
    to = escape(address)
    return (
        '<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
        f'<meta http-equiv="refresh" content="0; url={to}"><title>saescope</title>'
        f'<p><a href="{to}">To the window of saescope</a></p>\n'
    )
