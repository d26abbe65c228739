"""Whether a window shows this server's results, and where."""

from typing import NamedTuple


class Showing(NamedTuple):
    """The window of a server; by default there is none."""

    results: str = ""
    """What the id of a result is put behind; it does not hold the window's token."""
    door: str = ""
    """The address of a file for its user alone that opens the window."""
    trouble: str = ""
    """Why there is no window although one was asked for."""

    @property
    def said(self) -> str:
        """A sentence for people; empty where no window was asked for."""
        if self.trouble:
            return f"There is no window: {self.trouble}."
        if not self.results:
            return ""
        where = f"open {self.door}" if self.door else "its address is on the server's stderr"
        return f"For people, the window: {where}"
