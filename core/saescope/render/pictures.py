"""PNG pictures of a training, an evaluation and a feature, each with a background of its own: they
read on light and dark pages."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from saescope.extras import require_extra
from saescope.records.evaluation import DensityBin, PositionBin
from saescope.render.feature_page import number, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, GRID = "#f6f5f1", "#22262b", "#c9c7bf"
BLUE, ORANGE, GREY = "#1f5fa8", "#b8501b", "#8a8880"
DPI = 150


def require_pictures() -> None:
    """Raise ConfigError where nothing can be drawn."""
    require_extra("matplotlib", "A picture", field="picture", without="leave the picture out.")


def training_curves(points: Sequence[Mapping[str, float | int]]) -> bytes:
    """Loss and L0 over the steps of a run."""
    figure, (upper, lower) = _figure(2, height=5.6, title="Training")
    from matplotlib.ticker import LogLocator

    upper.sharex(lower)
    for axes, name, colour, label in (
        (upper, "loss", BLUE, "loss"),
        (lower, "l0", ORANGE, "L0 (features a token)"),
    ):
        known = [(point["step"], point[name]) for point in points if name in point]
        axes.plot(
            [x for x, _ in known],
            [y for _, y in known],
            color=colour,
            linewidth=1.8,
            marker="o" if len(known) == 1 else "",
        )
        axes.set_ylabel(label)
    if (
        all(point["loss"] > 0 for point in points if "loss" in point)
        and _spread(points, "loss") > 10
    ):
        upper.set_yscale("log")
        upper.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        upper.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        upper.yaxis.set_minor_formatter(lambda value, _: "")
    upper.tick_params(labelbottom=False)
    lower.set_ylim(bottom=0)
    lower.set_xlabel("step")
    return _png(figure)


def density_histogram(
    bins: Sequence[DensityBin], *, n_dead: int = 0, dense_above: float = 0.1
) -> bytes:
    """How many features fire how often; those that never fired stand apart on the left."""
    figure, (axes,) = _figure(1, height=3.6, title="How often features fire")
    edges = (*(each.low for each in bins), *(each.high for each in bins[-1:]))
    labels, counts = [f"{edge:.1g}" for edge in edges], [each.n_features for each in bins]
    colours = [ORANGE if each.low >= dense_above * 0.99 else BLUE for each in bins]
    bars = axes.bar(range(len(bins)), counts, width=0.96, align="edge", color=colours)
    axes.bar_label(
        bars, labels=[str(n) if n else "" for n in counts], color=INK, fontsize=8, padding=1
    )
    if n_dead:
        axes.bar_label(
            axes.bar([-1.5], [n_dead], width=0.96, align="edge", color=GREY),
            color=INK,
            fontsize=8,
            padding=1,
        )
    axes.set_xticks(
        [*([-1.02] if n_dead else []), *range(len(labels))],
        [*(["never"] if n_dead else []), *labels],
    )
    axes.set_xlabel(f"share of tokens at which a feature fires (orange: more than {dense_above:g})")
    axes.set_ylabel("features")
    axes.margins(y=0.12)
    return _png(figure)


def variance_by_position(bins: Sequence[PositionBin], *, overall: float | None = None) -> bytes:
    """Explained variance along the context, position 0 left out."""
    figure, (axes,) = _figure(1, height=3.6, title="Explained variance by position")
    known = [
        (each.first, each.last, each.explained_variance)
        for each in bins
        if each.explained_variance is not None
    ]
    axes.plot(
        [(first + last) / 2 for first, last, _ in known],
        [ev for *_, ev in known],
        color=BLUE,
        linewidth=1.8,
        marker="o",
        markersize=4,
    )
    if overall is not None:
        axes.axhline(
            overall,
            color=ORANGE,
            linewidth=1.2,
            linestyle="--",
            label=f"all positions: {overall:.2f}",
        )
        axes.legend(loc="lower right", frameon=False, labelcolor=INK, fontsize=9)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    lowest = min((ev for *_, ev in known), default=0.0)
    axes.set_ylim(min(0.0, max(lowest, -1.0)), 1.02)
    axes.set_xlabel("position in the context")
    axes.set_ylabel("explained variance")
    return _png(figure)


def feature_picture(card: Mapping[str, Any]) -> bytes:
    """How strongly a feature fires, and the tokens it promotes (blue) and suppresses (orange);
    `card` as for the page."""
    figure, (upper, lower) = _figure(
        2, height=5.2, title=f"Feature {card['feature']}{_named(card['labels'])}"
    )
    upper.title.set_parse_math(False)
    rows = [row for row in card["histogram"] if row["count"]]
    upper.bar(
        [row["low"] for row in rows],
        [row["count"] for row in rows],
        [row["high"] - row["low"] for row in rows],
        align="edge",
        color=BLUE,
    )
    upper.set_xlabel(
        f"activation (maximum {number(card['max_activation'])})" if rows else "never seen firing"
    )
    if rows:
        upper.set(xscale="log", yscale="log", ylabel="times", ylim=(0.8, None))
        upper.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        upper.xaxis.set_minor_formatter(lambda value, _: "")
    tokens = [*card["promotes"][:8], *reversed(card["suppresses"][:4])]
    effects = [row["effect"] for row in tokens]
    lower.barh(
        range(len(tokens)), effects, color=[BLUE if effect > 0 else ORANGE for effect in effects]
    )
    lower.set_yticks(range(len(tokens)), [f"'{_drawn(row['token'])}'" for row in tokens])
    for label in lower.get_yticklabels():
        label.set_parse_math(False)
    lower.invert_yaxis()
    lower.set_xlabel(
        "change of a token's logit by one unit, before the norm's scale"
        if tokens
        else "writes to no token directly"
    )
    return _png(figure)


def _named(labels: Sequence[Mapping[str, Any]]) -> str:
    """The best label and whether it was tested."""
    if not labels:
        return ": no label"
    score = labels[0]["score"]
    tested = f"{score['balanced_accuracy']:.2f} balanced accuracy" if score else "not tested"
    return f": {_drawn(labels[0]['text'], 60)} ({tested})"


def _drawn(text: str, limit: int = 24) -> str:
    """What matplotlib's own font can draw of a text; other characters by their code points."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    drawn = "".join(
        char if ord(char) in known else f"U+{ord(char):04X}" for char in visible(text[: limit + 1])
    )
    return drawn if len(text) <= limit else f"{drawn[:limit]}\u2026"


def _spread(points: Sequence[Mapping[str, float | int]], name: str) -> float:
    values = [point[name] for point in points if name in point]
    return max(values) / min(values) if values else 1.0


def _figure(n_rows: int, *, height: float, title: str) -> "tuple[Figure, list[Axes]]":
    require_pictures()
    from matplotlib.figure import Figure  # not pyplot: no global state, and safe in any thread

    figure = Figure(figsize=(6.4, height), dpi=DPI, facecolor=PAPER, layout="constrained")
    made: Any = figure.subplots(n_rows, 1, squeeze=False)
    axes: list[Axes] = list(made[:, 0])
    for each in axes:
        each.set_facecolor(PAPER)
        each.grid(color=GRID, linewidth=0.6)
        each.set_axisbelow(True)
        each.tick_params(colors=INK, labelsize=9)
        each.xaxis.label.set_color(INK)
        each.yaxis.label.set_color(INK)
        each.spines[["top", "right"]].set_visible(False)
        each.spines[["left", "bottom"]].set_color(INK)
    axes[0].set_title(title, color=INK, fontsize=11, loc="left")
    return figure, axes


def _png(figure: "Figure") -> bytes:
    out = BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
