"""The one way to a person's terminal: whatever models, datasets, labels or the hub wrote is text
there, never a command to the terminal."""

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from saescope.untrusted import clean_output, is_hidden


class Terminal(Console):
    """A console that prints no control, direction or zero-width character of its texts."""

    def __init__(self, **options: Any) -> None:
        # rich takes COLUMNS=0, as some editors set it, for a terminal on which nothing fits
        sizes = ("COLUMNS", "LINES")
        environ = {k: v for k, v in os.environ.items() if not (k in sizes and v == "0")}
        options.setdefault("_environ", environ)
        super().__init__(emoji=False, **options)  # ":cat:" in a text is no cat
        # a file or a pipe takes lines of any length
        self.soft_wrap = options.get("soft_wrap", not self.is_terminal)

    def render_str(self, text: str, **how: Any) -> Text:
        """Before the layout, so that columns are as wide as what is seen."""
        return super().render_str(clean_output(text), **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What came as a finished text, such as a progress bar's, is cleaned here; cursor commands
        are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=clean_output(segment.text))


def json_line(document: Any) -> str:
    """A document as one line of JSON; what a terminal would obey, or stdout cannot write, stands
    there as an escape, so nothing is lost."""
    writes_all = "utf" in (sys.stdout.encoding or "").lower()
    written = json.dumps(document, ensure_ascii=not writes_all)
    return "".join(_escaped(char) if is_hidden(char) else char for char in written)


def _escaped(char: str) -> str:
    return json.dumps(char)[1:-1]
