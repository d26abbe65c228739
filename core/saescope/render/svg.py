"""What pictures are made of: panels with ticks, on a background that follows the reader's light or
dark; the file itself is a template's (`picture.svg.j2`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from saescope.render.feature_page import asset, environment, number, visible

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 440.0, 52.0, 12.0, 24.0, 32.0
CHAR = 6.7
"""Width of a character of the picture's font; each text is set to that width, in any font."""
SMALL = 6.1
"""The same of smaller letters."""
MOST_POINTS = 400
REACH = 3.0
"""How far beyond the middle of the values a spike begins, as a multiple of their spread."""
_LINE = 15.0


class Shape(NamedTuple):
    """A path of one kind; `said` is shown to whoever points at it."""

    kind: str
    path: str
    said: str = ""


class PlacedText(NamedTuple):
    """A text at a place; `width` is what it is set to, where shapes stand behind its letters."""

    text: str
    x: float
    y: float
    kind: str = ""
    width: float | None = None


@dataclass(slots=True)
class Panel:
    """A part of a picture with its own coordinates, from its top."""

    height: float
    shapes: list[Shape] = field(default_factory=list[Shape])
    words: list[PlacedText] = field(default_factory=list[PlacedText])


class Line(NamedTuple):
    """A curve: one or two may be drawn over each other."""

    name: str
    points: Sequence[tuple[float, float]]


class AxisSpan(NamedTuple):
    """What an axis shows."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Where a value stands, from 0 to 1; at an end if it lies beyond it."""
        return (min(self.high, max(self.low, value)) - self.low) / (self.high - self.low)


def picture(title: str, said: str, panels: Sequence[Panel]) -> str:
    """The panels below each other as the text of an SVG file, under a title and a sentence."""
    lines = wrapped(said, int((WIDTH - 16) / CHAR))
    top = 34 + _LINE * len(lines)
    tops = [top + sum(panel.height for panel in panels[:at]) for at in range(len(panels))]
    return (
        environment()
        .get_template("picture.svg.j2")
        .render(
            title=title,
            said=said,
            lines=[(34 + _LINE * at, line) for at, line in enumerate(lines)],
            panels=list(zip(tops, panels, strict=True)),
            width=WIDTH,
            height=top + sum(panel.height for panel in panels) + 8,
            style=asset("picture.css"),
        )
    )


def wrapped(text: str, room: int) -> list[str]:
    """Lines of at most `room` characters, cut at spaces where there are any."""
    lines = [""]
    for word in visible(text).split(" "):
        rest = word
        while len(rest) > room:
            lines[-1:] = [lines[-1], rest[:room]] if lines[-1] else [rest[:room]]
            rest = rest[room:]
        if lines[-1] and len(lines[-1]) + 1 + len(rest) > room:
            lines.append(rest)
        else:
            lines[-1] = f"{lines[-1]} {rest}".strip()
    return [line for line in lines if line]


def cut(text: str, most: int) -> str:
    """The text with what does not show made visible, at most so many characters."""
    shown = visible(text[: 4 * most])
    return shown if len(shown) <= most else f"{shown[: most - 1]}\u2026"


def ticks(span: AxisSpan, n: int = 4) -> list[float]:
    """Round numbers within the span."""
    rough = (span.high - span.low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough * (1 - 1e-9))
    first = math.ceil(span.low / step - 1e-9)
    last = math.floor(span.high / step + 1e-9)
    return [float(f"{at * step:.12g}") for at in range(first, last + 1)]


def usual(values: Sequence[float], last: Sequence[float]) -> AxisSpan:
    """The range of the values without spikes, which lie beyond the middle four fifths by more than
    three times their spread, so that the rest keeps the height; the last ones are always within.
    `chart.js` has the same rule."""
    ordered = sorted(values)
    tenth = max(len(ordered) // 10, 1) if len(ordered) >= 4 else 0
    low, high = ordered[tenth], ordered[len(ordered) - 1 - tenth]
    reach = REACH * (high - low)
    near = [value for value in ordered if low - reach <= value <= high + reach]
    return widened(min(near[0], *last), max(near[-1], *last))


def widened(low: float, high: float) -> AxisSpan:
    """A span of some width, also where all values are one."""
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-300):
        return AxisSpan(low, high)
    room = abs(high) / 10 or 1.0
    return AxisSpan(low - room, high + room)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about 400 points: of each stretch the lowest and the highest, so no spike is lost."""
    if len(points) <= MOST_POINTS:
        return list(points)
    n = math.ceil(2 * len(points) / MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), n):
        stretch = points[start : start + n]
        ends = {min(stretch, key=_value), max(stretch, key=_value)}
        kept += [point for point in dict.fromkeys(stretch) if point in ends]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _value(point: tuple[float, float]) -> float:
    return point[1]


def curves(
    title: str,
    lines: Sequence[Line],
    *,
    span: AxisSpan | None = None,
    height: float = 118.0,
    x_name: str = "step",
    x_scale: Literal["linear", "log2"] = "linear",
) -> Panel:
    """One or two curves over an axis of steps; without a `span` its usual range, with what lies
    beyond marked at the edge."""
    drawn = [(at, Line(line.name, thinned(line.points))) for at, line in enumerate(lines)]
    drawn = [(at, line) for at, line in drawn if line.points]
    panel = Panel(height)
    if not drawn:
        panel.words.append(PlacedText(f"{title}: no point yet", LEFT, 16, "soft"))
        return panel
    every = [value for _, line in drawn for _, value in line.points]
    span = span or usual(every, [line.points[-1][1] for _, line in drawn])
    along = _along([x for _, line in drawn for x, _ in line.points], x_scale)
    _axes(panel, span, along, x_name)
    for at, line in drawn:
        places = [(along.place(x), _up(panel, span.share(y))) for x, y in line.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        x, y = places[-1]
        panel.shapes.append(Shape(f"curve {('one', 'two')[at % 2]}", path, line.name))
        panel.shapes.append(Shape(f"dot {('one', 'two')[at % 2]}", _dot(x, y)))
        panel.shapes += _beyond(panel, line, span, along)
    panel.words.insert(0, PlacedText(title + _said_beyond(every, span), LEFT, 14, "name"))
    return panel


class _Along(NamedTuple):
    """The axis of steps or positions."""

    span: AxisSpan
    is_log: bool
    ticks: Sequence[float]

    def place(self, x: float) -> float:
        at = math.log2(max(x, 1e-9)) if self.is_log else x
        return LEFT + (WIDTH - LEFT - RIGHT) * self.span.share(at)


def _along(values: Sequence[float], scale: str) -> _Along:
    if scale == "log2":
        logs = [math.log2(max(value, 1e-9)) for value in values]
        span = widened(min(logs), max(logs))
        whole = range(math.ceil(span.low), math.floor(span.high) + 1)
        return _Along(span, True, [2.0**each for each in whole])
    span = widened(min(0.0, *values), max(values)) if max(values) > 0 else AxisSpan(0.0, 1.0)
    return _Along(span, False, ticks(span, 5))


def _axes(panel: Panel, span: AxisSpan, along: _Along, x_name: str) -> None:
    for value in ticks(span):
        y = _up(panel, span.share(value))
        panel.shapes.append(Shape("grid", f"M{LEFT:.0f} {y:.1f}H{WIDTH - RIGHT:.0f}"))
        panel.words.append(PlacedText(number(value), LEFT - 6, y + 4, "soft end"))
    base = panel.height - BOTTOM
    panel.shapes.append(Shape("axis", f"M{LEFT:.0f} {base:.1f}H{WIDTH - RIGHT:.0f}"))
    for value in along.ticks:
        x = along.place(value)
        panel.shapes.append(Shape("axis", f"M{x:.1f} {base:.1f}v4"))
        near = x > WIDTH - RIGHT - 16
        panel.words.append(
            PlacedText(number(value), x, base + 15, "soft end" if near else "soft mid")
        )
    panel.words.append(PlacedText(x_name, LEFT - 10, base + 15, "soft end"))


def _up(panel: Panel, share: float) -> float:
    return panel.height - BOTTOM - (panel.height - BOTTOM - TOP) * share


def _dot(x: float, y: float) -> str:
    return f"M{x - 2.5:.1f} {y:.1f}a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0 -5 0Z"


def _beyond(panel: Panel, line: Line, span: AxisSpan, along: _Along) -> list[Shape]:
    """A mark at the edge for each point that lies beyond it."""
    marks: list[Shape] = []
    free = -math.inf
    for x, y in line.points:
        if span.low <= y <= span.high or along.place(x) < free:
            continue
        free = along.place(x) + 5
        at, said = along.place(x), f"{number(y)} at {number(x)}"
        edge = _up(panel, 1.0) if y > span.high else _up(panel, 0.0)
        tip = -6 if y > span.high else 6
        marks.append(Shape("beyond", f"M{at - 4:.1f} {edge:.1f}h8l-4 {tip}Z", said))
    return marks


def _said_beyond(values: Sequence[float], span: AxisSpan) -> str:
    outside = [value for value in values if not span.low <= value <= span.high]
    if not outside:
        return ""
    furthest = max(outside, key=lambda value: abs(value - span.high))
    return f" (beyond the edge at \u25b2: as far as {number(furthest)})"


def key(lines: Sequence[Line]) -> Panel:
    """Which curve is which."""
    panel = Panel(20.0)
    for at, line in enumerate(lines):
        x = 8 + at * (WIDTH - 16) / 2
        panel.shapes.append(Shape(f"curve {('one', 'two')[at % 2]}", f"M{x:.0f} 10h18"))
        panel.words.append(PlacedText(cut(line.name, 26), x + 24, 14))
    return panel


class HistogramBar(NamedTuple):
    """A bar of a histogram."""

    height: float
    kind: str = "fill one"
    over: str = ""
    """What stands above it."""
    said: str = ""


def bars(title: str, rows: Sequence[HistogramBar], edges: Sequence[str], *, x_name: str) -> Panel:
    """Bars side by side with a tick at each edge between them, of as many as do not overlap."""
    panel = Panel(150.0)
    panel.words.append(PlacedText(title, LEFT - 44, 14, "name"))
    panel.words.append(PlacedText(x_name, WIDTH - RIGHT, panel.height - 4, "soft end"))
    if not rows:
        return panel
    top = max([row.height for row in rows]) or 1.0
    left, base = 12.0, panel.height - BOTTOM
    wide = (WIDTH - RIGHT - left) / len(rows)
    for at, row in enumerate(rows):
        x, high = left + at * wide, (base - TOP - 12) * row.height / top
        high = max(high, 1.5) if row.height else 0.0
        path = f"M{x + 1:.1f} {base:.1f}v{-high:.1f}h{max(wide - 2, 0.5):.1f}v{high:.1f}Z"
        panel.shapes.append(Shape(row.kind, path, row.said))
        if row.over and len(row.over) * SMALL < wide:
            panel.words.append(PlacedText(row.over, x + wide / 2, base - high - 4, "soft mid"))
    panel.shapes.append(Shape("axis", f"M{left:.0f} {base:.1f}H{WIDTH - RIGHT:.0f}"))
    widest = max([len(edge) for edge in edges], default=1) * SMALL + 8
    every = max(1, math.ceil(widest / wide))
    for at, edge in enumerate(edges):
        x = left + at * wide
        if at % every == 0 and edge:
            panel.shapes.append(Shape("axis", f"M{x:.1f} {base:.1f}v4"))
            kind = "soft" if x < 20 else "soft end" if x > WIDTH - 24 else "soft mid"
            panel.words.append(PlacedText(edge, x, base + 15, kind))
    return panel
