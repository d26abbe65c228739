"""What several displays are made of: shares, marked tokens, bars, curves, lines of a heading and
what it says."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from saescope_mcp.cli.cells import is_label, table, text_of
from saescope_mcp.cli.tables import Column, Rows, pairs

Document = Mapping[str, Any]
_SPARKS = "▁▂▃▄▅▆▇█"
_DARKEST, _HOTTEST = (38, 38, 46), (214, 90, 24)
_FAINT = 0.04
"""Activations below this share of the strongest are shown as none."""


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g}%"


def signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3g}"


def size(n_bytes: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


def tokens(listed: Iterable[str], most: int = 6) -> str:
    """Tokens in quotes, since spaces matter."""
    return ", ".join(repr(token) for token in list(listed)[:most])


def label_of(label: Any) -> str | None:
    """A name beside how it did in its test; None without one, so that no column is made for it."""
    return text_of(label) if is_label(label) else None


def facts(console: Console, values: Mapping[str, str | None]) -> None:
    """Names and what is known of them, in two columns; what is not known is left out."""
    if shown := {name: value for name, value in values.items() if value not in (None, "")}:
        console.print(pairs({name: str(value) for name, value in shown.items()}))


def rows(
    console: Console, listed: Sequence[Mapping[str, Any]], *, title: str = "", note: str = ""
) -> None:
    if not listed:
        return
    if title:
        console.print()
    console.print(table(listed, title=title))
    if note:
        console.print(f"[dim]{escape(note)}[/]")


def excerpts(console: Console, found: Sequence[tuple[float, str]], *names: Sequence[str]) -> None:
    """Texts in which something fires, each after how strongly and, if told, what."""
    most = max((activation for activation, _ in found), default=0.0)
    if found:
        columns = [
            *(Column("", list(column), numeric=True) for column in names),
            Column("", [text_of(activation) for activation, _ in found], numeric=True),
            Column("", [bar(activation, most) for activation, _ in found]),
            Column("", [" ".join(text.split()) for _, text in found], paint=marked),
        ]
        console.print()
        console.print(Rows(columns))


def numbered(console: Console, listed: Sequence[tuple[int, str, str]]) -> None:
    """Numbered texts, each after what is said or asked of it."""
    if listed:
        columns = [
            Column("", [f"{n}." for n, _, _ in listed], numeric=True),
            Column("", [said for _, said, _ in listed]),
            Column("", [" ".join(text.split()) for _, _, text in listed], paint=marked),
        ]
        console.print(Rows(columns))


def interval(value: float | None, low: float | None, high: float | None) -> str | None:
    """A score with the ends of its interval, at the two digits that such an interval bears."""
    if value is None:
        return None
    return f"{value:.2f}" + ("" if low is None or high is None else f" ({low:.2f} to {high:.2f})")


def marked(text: str) -> Text:
    """A stretch of text whose token between ⟦ and ⟧ stands out; the brackets stay for a pipe."""
    shown = Text(text)
    start, end = shown.plain.find("⟦"), shown.plain.find("⟧")
    if 0 <= start < end:
        shown.stylize("bold yellow", start, end + 1)
    return shown


def bar(value: float, most: float, width: int = 8) -> str:
    """A bar of blocks, as long as the value's share of the most."""
    return "█" * max(1, round(width * value / most)) if most > 0 < value else ""


def spark(values: Sequence[float | None]) -> str:
    """A curve in one line of text; without height where all values are the same."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    span = (high - low) or 1.0
    top = len(_SPARKS) - 1
    return "".join(
        " " if value is None else _SPARKS[round(top * (value - low) / span)] for value in values
    )


def shaded(token: str, heat: float) -> Text:
    """A token on a ground that is the hotter the stronger something fires there."""
    shown = token.replace("\n", "↵")
    if heat < _FAINT:
        return Text(shown, style="dim")
    ground = [round(a + (b - a) * heat) for a, b in zip(_DARKEST, _HOTTEST, strict=True)]
    return Text(shown, style=f"white on rgb({','.join(map(str, ground))})")
