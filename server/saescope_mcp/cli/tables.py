"""Rows and pairs for a terminal of any width: a number is never cut, names fold, and rows that do
not fit become blocks."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

GAP = 2
NARROW = 60
"""On a terminal narrower than this rows that do not fit become a list, a cell a line; on a wider
one the table goes on below itself."""
MOST_WORD = 12
"""Words up to this length are not broken; longer ones are where there is no room."""
ROOMY = 40
"""What a column of text gets, if it can, where a table is continued below itself."""
_NUMBER = re.compile(r"[(\[]*[+-]?\d[\d.,:%e+-]*[)\],;%]*")


@dataclass(frozen=True, slots=True)
class Column:
    """The cells of a column as they are shown."""

    heading: str
    cells: list[str]
    numeric: bool = False
    paint: Callable[[str], str | Text] = escape
    """What a cell is shown as; as wide as the cell."""

    @property
    def natural(self) -> int:
        return max(map(_width, (self.heading, *self.cells)))

    @property
    def longest_word(self) -> int:
        """The narrowest width that breaks no word, such as an id that a person will copy."""
        return max(
            cell_len(word) for text in (self.heading, *self.cells) for word in text.split() or [""]
        )

    @property
    def least(self) -> int:
        """The narrowest width that shows every number whole."""
        heading = min(MOST_WORD, _width(self.heading))
        if self.numeric:
            return max(heading, *map(_width, self.cells))
        return max(heading, *map(_longest_unbroken, self.cells))


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns beside each other; printed with soft_wrap, for a file or a pipe, as wide as they
    are."""

    columns: Sequence[Column]
    title: str = ""

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType | Segment]:
        widths = [column.natural for column in self.columns]
        gaps = GAP * (len(widths) - 1)
        narrow = options.max_width < NARROW
        if not options.no_wrap:
            widths = _fitted(self.columns, options.max_width - gaps, whole_words=narrow)
        if self.title:
            yield f"[italic]{escape(self.title)}[/]"
        if widths:
            yield from _lines(console, options, _table(self.columns, widths))
        elif not narrow and (parts := _parts(self.columns, options.max_width)):
            for n, columns in enumerate(parts):
                yield from [Segment.line()] if n else []
                fitted = _fitted(columns, options.max_width - GAP * (len(columns) - 1))
                yield from _lines(console, options, _table(columns, fitted))
        else:
            yield from self._blocks(options.max_width)

    def _blocks(self, room: int) -> Iterator[RenderableType]:
        """A row as an item of a list: its first cell, then the others with their headings; a long
        text gets lines of its own."""
        for row in zip(*(column.cells for column in self.columns), strict=True):
            cells = zip(self.columns, row, strict=True)
            told = [self._told(column, cell) for column, cell in cells if cell not in ("", "-")]
            first, *others = told or [Text()]
            first.stylize("bold")
            yield first
            for line in _packed(others, room - GAP):
                yield Padding(line, (0, 0, 0, GAP), expand=False)

    def _told(self, column: Column, cell: str) -> Text:
        return Text(f"{column.heading} " if column.heading else "") + Text(cell)


def _packed(pieces: Sequence[Text], room: int) -> Iterator[Text]:
    """Lines of whole pieces; one that is longer than a line begins one."""
    dot, line = Text("  ·  "), Text()
    for piece in pieces:
        if line.plain and line.cell_len + dot.cell_len + piece.cell_len > room:
            yield line
            line = Text()
        line = line + dot + piece if line.plain else piece
    if line.plain:
        yield line


def listed(names: Sequence[str], most: int = 4) -> str:
    """Some names; of more the number is said."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none yet"


def pairs(values: Mapping[str, str]) -> Rows:
    """Lay names and values out in two columns."""
    return Rows([Column("", list(values)), Column("", list(values.values()))])


def _table(columns: Sequence[Column], widths: Sequence[int]) -> Table:
    made = Table(
        header_style="bold",
        pad_edge=False,
        padding=(0, GAP // 2),
        box=None,
        width=sum(widths) + GAP * (len(widths) - 1),
        show_header=any(column.heading for column in columns),
    )
    for column, width in zip(columns, widths, strict=True):
        made.add_column(
            escape(column.heading),
            justify="right" if column.numeric else "left",
            overflow="fold",
            width=width,
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        painted = (column.paint(cell) for column, cell in zip(columns, row, strict=True))
        made.add_row(*painted)
    return made


def _lines(console: Console, options: ConsoleOptions, made: Table) -> Iterator[Segment]:
    """Its lines without the spaces at their ends, with which long cells would fill a pipe."""
    whole = options.update(width=made.width or options.max_width)
    for line in console.render_lines(made, whole, pad=False):
        while line and not line[-1].text.strip():
            line.pop()
        if line:
            line[-1] = line[-1]._replace(text=line[-1].text.rstrip())
        yield from (*line, Segment.line())


def _parts(columns: Sequence[Column], room: int) -> list[list[Column]]:
    """Tables that fit below each other, each from the first column on; empty if one does not."""
    first, *others = columns
    parts: list[list[Column]] = []
    width = room
    for column in others:
        needs = GAP + max(column.least, min(column.natural, ROOMY))
        if width + needs > room:
            parts.append([first])
            width = first.least
        if width + needs > room:
            return []
        parts[-1].append(column)
        width += needs
    return parts


def _fitted(columns: Sequence[Column], room: int, *, whole_words: bool = False) -> list[int]:
    """Widths that fill no more than the room, the widest columns of text giving way; empty if there
    is none."""
    least = [
        max(column.least, column.longest_word) if whole_words else column.least
        for column in columns
    ]
    widths = [
        max(min(column.natural, room), low) for column, low in zip(columns, least, strict=True)
    ]
    while sum(widths) > room:
        slack = [width if width > low else 0 for width, low in zip(widths, least, strict=True)]
        if not any(slack):
            return []
        widths[slack.index(max(slack))] -= 1
    return widths


def _width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _longest_unbroken(text: str) -> int:
    """The longest of its words; numbers are never broken, other long words may be."""
    return max(
        (
            cell_len(word) if _NUMBER.fullmatch(word) else min(MOST_WORD, cell_len(word))
            for word in text.split()
        ),
        default=1,
    )
