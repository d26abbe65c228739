"""Bars as an SVG picture: text alone, light or dark as the reader prefers."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from saescope.render.feature_page import number, visible

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP = 640, 20, 210, 70, 34
MOST_LABEL = 28
STYLE = """
svg{color-scheme:light dark;--paper:#fbfaf7;--ink:#1d2126;--soft:#5a5f66;--line:#d8d5cb;
--blue:#1f5fa8;--orange:#a84813;--span:#8d877a}
@media(prefers-color-scheme:dark){svg{--paper:#16181c;--ink:#e9e7e1;--soft:#a8adb5;--line:#3a3f47;
--blue:#7db4f0;--orange:#f0a06a;--span:#8b919a}}
text{font:12px system-ui,"DejaVu Sans",sans-serif;fill:var(--ink)}
.paper{fill:var(--paper)}.zero-line{stroke:var(--soft)}.soft-text{fill:var(--soft)}
.plus{fill:var(--blue)}.minus{fill:var(--orange)}.control-span{fill:var(--span);fill-opacity:.3}
.end-text{text-anchor:end}
"""


def bar_picture(
    title: str,
    labels: Sequence[str],
    values: Sequence[float],
    *,
    span: tuple[float, float] | None = None,
    inline: bool = False,
) -> str:
    """A bar for each value, to the right of zero or to the left; `span` is where controls lie.
    `inline`: without its style, which the page has."""
    low = min(0.0, *values, *(span or ()))
    high = max(0.0, *values, *(span or ()))
    scale = (_WIDTH - _LEFT - _RIGHT) / ((high - low) or 1.0)
    height = _TOP + _ROW * len(values) + (26 if span else 10)
    zero = _LEFT - low * scale
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" role="img" aria-label="{_text(title)}">'
        + ("" if inline else f"<style>{STYLE}</style>"),
        f'<rect class="paper" width="{_WIDTH}" height="{height}"/>',
        f'<text x="8" y="20">{_text(title)}</text>',
    ]
    if span:
        width = max(1.0, (span[1] - span[0]) * scale)
        parts.append(
            f'<rect class="control-span" x="{zero + span[0] * scale:.1f}" y="{_TOP - 4}" '
            f'width="{width:.1f}" height="{_ROW * len(values) + 6}"/>'
            f'<text class="soft-text" x="8" y="{height - 8}">grey: controls, two standard '
            "deviations about their mean</text>"
        )
    for n, (label, value) in enumerate(zip(labels, values, strict=True)):
        parts.append(_bar(n, label, value, zero=zero, scale=scale))
    parts.append(
        f'<line class="zero-line" x1="{zero:.1f}" x2="{zero:.1f}" y1="{_TOP - 4}" '
        f'y2="{_TOP + _ROW * len(values) + 2}"/></svg>'
    )
    return "".join(parts)


def _bar(n: int, label: str, value: float, *, zero: float, scale: float) -> str:
    y, length = _TOP + n * _ROW, abs(value) * scale
    x = zero if value >= 0 else zero - length
    cut = label if len(label) <= MOST_LABEL else f"{label[: MOST_LABEL - 1]}…"
    return (
        f'<text class="end-text" x="{_LEFT - 10}" y="{y + 12}">{_text(cut)}</text>'
        f'<rect class="{"plus" if value >= 0 else "minus"}" x="{x:.1f}" y="{y}" '
        f'width="{max(1.0, length):.1f}" height="{_ROW - 6}"><title>{_text(label)}: '
        f"{number(value)}</title></rect>"
        f'<text x="{max(x + length, zero) + 6:.1f}" y="{y + 12}">{number(value)}</text>'
    )


def _text(text: str) -> str:
    return escape(visible(text), {'"': "&quot;"})
