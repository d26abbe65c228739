"""Pictures of a training, an evaluation and a feature as SVG: the numbers that the results have,
light or dark as the reader prefers. No package beside the templates' is needed."""

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from saescope.records.evaluation import DensityBin, PositionBin
from saescope.render.feature_page import card_sentence, number, pieces
from saescope.render.svg import (
    CHAR,
    LEFT,
    RIGHT,
    WIDTH,
    AxisSpan,
    HistogramBar,
    Line,
    Panel,
    PlacedText,
    Shape,
    bars,
    curves,
    cut,
    key,
    picture,
    usual,
    widened,
)

Point = Mapping[str, float | int]
_CURVES = {
    "loss": "loss",
    "explained_variance": "explained variance",
    "dead_share": "share of dead features",
    "l0": "L0, features a token",
    "lr": "learning rate",
}
N_TEXTS, N_PROMOTED, N_SUPPRESSED = 6, 8, 4
_ROOM = int((WIDTH - 16) / CHAR)
"""Characters of a line."""


def training_curves(
    points: Sequence[Point],
    *,
    over: Sequence[Point] = (),
    names: tuple[str, str] = ("this run", "the other"),
) -> str:
    """Loss, explained variance, dead share, L0 and learning rate over the steps of a run; a second
    run may lie `over` it."""
    runs = [points, over] if over else [points]
    panels = [key([Line(name, ()) for name in names])] if over else []
    for name, title in _CURVES.items():
        lines = [
            Line(called, [(point["step"], point[name]) for point in run if name in point])
            for called, run in zip(names, runs, strict=False)
        ]
        if any(line.points for line in lines):
            panels.append(curves(title, lines, span=span_of(name, lines)))
    said = " ".join(
        _last(run, called if over else "") for called, run in zip(names, runs, strict=False)
    )
    return picture("Training", said, panels)


def span_of(name: str, lines: Sequence[Line]) -> AxisSpan:
    """What the axis of a number of a training shows: shares and rates from 0, a loss in its usual
    range. `chart.js` has the same rule."""
    values = [value for line in lines for _, value in line.points]
    if name in ("dead_share", "lr"):
        return widened(0.0, max([0.0, *values]))
    if name == "explained_variance":
        return widened(max(min([0.0, *values]), -0.25), max([0.0, *values]))
    span = usual(values, [line.points[-1][1] for line in lines if line.points])
    return widened(0.0, span.high) if name == "l0" else span


def _last(points: Sequence[Point], called: str) -> str:
    """What the last point says."""
    if not points:
        return "No point yet."
    last = points[-1]
    said = [f"{_CURVES[name]} {number(last[name])}" for name in _CURVES if name in last]
    whose = f"{called}, step" if called else "Step"
    return f"{whose} {number(last['step'])}: {'; '.join(said)}."


def density_histogram(
    bins: Sequence[DensityBin], *, n_dead: int = 0, dense_above: float = 0.1
) -> str:
    """How many features fire how often; those that never fired stand apart on the left."""
    edges = [f"{edge:.1g}" for edge in (*(b.low for b in bins), *(b.high for b in bins[-1:]))]
    dead = (
        [HistogramBar(n_dead, "fill grey", number(n_dead), f"never: {n_dead:,}")] if n_dead else []
    )
    rows = [
        HistogramBar(
            each.n_features,
            "fill two" if each.low >= dense_above * 0.99 else "fill one",
            number(each.n_features) if each.n_features else "",
            f"{each.low:.1g} to {each.high:.1g}: {each.n_features:,}",
        )
        for each in bins
    ]
    total = n_dead + sum(each.n_features for each in bins)
    dense = sum(each.n_features for each in bins if each.low >= dense_above * 0.99)
    said = f"Of {total:,} features {n_dead:,} never fired and {dense:,} fire on more than "
    panel = bars(
        "features",
        [*dead, *rows],
        [*(["never"] if dead else []), *edges],
        x_name="share of tokens",
    )
    return picture("How often features fire", f"{said}{dense_above:g} of the tokens.", [panel])


def variance_by_position(bins: Sequence[PositionBin], *, overall: float | None = None) -> str:
    """Explained variance along the context, position 0 left out."""
    known = [
        ((each.first + each.last) / 2, each.explained_variance)
        for each in bins
        if each.explained_variance is not None
    ]
    lowest = min((value for _, value in known), default=0.0)
    lines = [Line("explained variance", known)]
    said = "Each point is the variance explained at some positions, without the first."
    if overall is not None and known:
        lines.append(Line("all positions", [(known[0][0], overall), (known[-1][0], overall)]))
        said += f" Over all positions (second line) it is {overall:.2f}."
    panel = curves(
        "explained variance",
        lines,
        span=AxisSpan(min(0.0, max(lowest, -1.0)), 1.0),
        height=170.0,
        x_name="pos",
        x_scale="log2",
    )
    return picture("Explained variance by position", said, [panel])


def feature_picture(card: Mapping[str, Any]) -> str:
    """Where a feature fires, how strongly, and which tokens it promotes and suppresses; `card` as
    for the page."""
    panels = [_texts(card), _strengths(card), _written(card)]
    return picture(f"Feature {card['feature']}", card_sentence(card), panels)


def _texts(card: Mapping[str, Any]) -> Panel:
    """Texts in which it fires, a line each, with each token's activation behind it."""
    shown = card["examples"][:N_TEXTS]
    panel = Panel(24.0 + 20 * len(shown) + 10 * bool(shown))
    name = "Where it fires" if shown else "Where it fires is unknown, or it never fired."
    panel.words.append(PlacedText(name, 8, 14, "name"))
    for n, each in enumerate(shown):
        y, tokens = 36.0 + 20 * n, pieces(each, card["max_activation"], whole=False)
        peak = next(at for at, piece in enumerate(tokens) if piece.is_peak)
        before = 0
        first = peak
        while first > 0 and before + len(cut(tokens[first - 1].text, 24)) < _ROOM // 2:
            first -= 1
            before += len(cut(tokens[first].text, 24))
        x = 8.0
        for piece in tokens[first:]:
            text = cut(piece.text, 24)
            wide = CHAR * len(text)
            if x + wide > WIDTH - 8:
                break
            if piece.level:
                box = f"M{x:.1f} {y - 11:.1f}h{wide:.1f}v15h{-wide:.1f}Z"
                kind = f"glow a{piece.level}" + (" peak" if piece.is_peak else "")
                panel.shapes.append(Shape(kind, box, number(piece.activation)))
            panel.words.append(PlacedText(text, x, y, "", wide))
            x += wide
    return panel


def _strengths(card: Mapping[str, Any]) -> Panel:
    """How often it fires how strongly; heights are logarithms, counts stand above."""
    filled = [at for at, row in enumerate(card["histogram"]) if row["count"]]
    rows = card["histogram"][filled[0] : filled[-1] + 1] if filled else []
    made = [
        HistogramBar(
            log10(row["count"]) + 0.3 if row["count"] else 0.0,
            "fill one",
            number(row["count"]) if row["count"] else "",
            f"{number(row['low'])} to {number(row['high'])}: {row['count']:,}",
        )
        for row in rows
    ]
    edges = [number(row["low"]) for row in rows] + [number(row["high"]) for row in rows[-1:]]
    title = "How often, by activation (bars: logarithm)" if rows else "No histogram"
    panel = bars(title, made, edges, x_name="activation")
    if not rows:
        panel.height = 24.0
        del panel.words[1:]
    return panel


def _written(card: Mapping[str, Any]) -> Panel:
    """The distinct tokens that it promotes and suppresses."""
    tokens = [
        *distinct(card["promotes"])[:N_PROMOTED],
        *reversed(distinct(card["suppresses"])[:N_SUPPRESSED]),
    ]
    panel = Panel(26.0 + 18 * len(tokens))
    name = "What one unit adds to tokens' logits" if tokens else "It writes to no token directly."
    panel.words.append(PlacedText(name, 8, 14, "name"))
    effects = [row["effect"] for row in tokens]
    low, high = min([0.0, *effects]), max([0.0, *effects])
    left, room = LEFT + 100.0, WIDTH - LEFT - 100 - RIGHT - 44
    zero = left + room * (-low / (high - low) if high > low else 0.0)
    for n, row in enumerate(tokens):
        y, effect = 34.0 + 18 * n, row["effect"]
        wide = room * effect / (high - low) if high > low else 0.0
        panel.words.append(
            PlacedText(cut(row["token"], 18).replace(" ", "\u2423"), left - 8, y, "end")
        )
        kind = "fill one" if effect > 0 else "fill two"
        panel.shapes.append(Shape(kind, f"M{zero:.1f} {y - 10:.1f}h{wide:.1f}v12h{-wide:.1f}Z"))
        panel.words.append(PlacedText(number(effect), WIDTH - RIGHT, y, "soft end"))
    return panel


def distinct(tokens: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first of those that differ in case or spaces alone."""
    first: dict[str, Mapping[str, Any]] = {}
    for row in tokens:
        first.setdefault(row["token"].strip().casefold() or row["token"], row)
    return list(first.values())
