"""A feature's page: one HTML file that asks nothing of the network, and the same as an MCP App that
is given its data by messages.

Every text is escaped; characters that would not show, or would turn others around, are shown by
their code points.
"""

import base64
import hashlib
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jinja2 import Environment

N_LEVELS = 8
_APP_SCRIPTS = ("dom.js", "app_feature.js", "app_host.js")
BEFORE, AFTER = 20, 12
"""Tokens around the marked one that an example shows before it is opened."""
_MODULES = re.compile(r"^(import .*\n|export (?=const |function |class ))", re.MULTILINE)
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_SHOWN_AS = {"\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d"}


class Piece(NamedTuple):
    """A token of an example."""

    text: str
    level: int
    """0 to N_LEVELS, in proportion to the feature's maximum."""
    activation: float
    is_peak: bool


class Bar(NamedTuple):
    """A bar of the histogram, in percent of the picture."""

    x: float
    width: float
    height: float
    label: str


def feature_page(
    card: Mapping[str, Any], *, link: str = "", pages: Mapping[int, str] | None = None
) -> str:
    """`dataclasses.asdict` of a FeatureCard as a page of its own. Where `link` is given, it and the
    number of a related feature are the address of that one's page; `pages` are those of some."""
    script = asset("page.js")
    policy = (
        f"default-src 'none'; script-src {content_hash(script)}; style-src "
        f"{content_hash(asset('page.css'))}; base-uri 'none'; form-action 'none'"
    )
    return (
        environment()
        .get_template("feature.html.j2")
        .render(
            card=card,
            link=link,
            pages=pages or {},
            policy=policy,
            style=asset("page.css"),
            script=script,
        )
    )


def feature_app() -> str:
    """The page without data, for the `ui://` resource of MCP Apps (2026-01-26): mime type
    `text/html;profile=mcp-app`.

    The host hands it the tool's result (`ui/notifications/tool-result`): it shows
    `structuredContent`, and on request the whole page, which it reads through the host
    (`resources/read` of `structuredContent.page`, else of the first link to `text/html` in the
    result).
    """
    return app_page("Feature of an SAE", _APP_SCRIPTS, ("page.css",), has_page=True)


def app_page(
    title: str, scripts: Sequence[str], styles: Sequence[str], *, has_page: bool = False
) -> str:
    """The file of an MCP App: its scripts as one, without what joins them as modules. `has_page`:
    it can show a whole page of the server's in place of the result."""
    script = "\n".join(_MODULES.sub("", asset(name)) for name in scripts)
    style = "".join(map(asset, styles))
    template = environment().get_template("app.html.j2")
    return template.render(title=title, style=style, script=script, has_page=has_page)


def visible(text: str) -> str:
    """`text` with line ends as arrows and other characters that do not show by their code
    points."""
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    hidden = unicodedata.category(char) in _HIDDEN
    return _SHOWN_AS.get(char) or (f"\u27e8U+{ord(char):04X}\u27e9" if hidden else char)


def number(value: int | float | None, digits: int = 3) -> str:
    """Write a number short: `0.00886`, `22.7`, `1,234`."""
    if value is None or not math.isfinite(value):
        return "unknown"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def lines(text: str) -> str:
    """`visible` of each line; the ends of lines stay."""
    return "\n".join(map(visible, text.split("\n")))


def density(value: int | float | None) -> str:
    """Write a density in words: `0.89 % of tokens, 1 in 113`."""
    if value is None:
        return "unknown"
    return f"{number(100 * value)} % of tokens" + (
        f", 1 in {1 / value:,.0f}" if 0 < value < 0.5 else ""
    )


def card_sentence(card: Mapping[str, Any]) -> str:
    """What a feature is, in one or two sentences."""
    label = card["labels"][0] if card["labels"] else None
    called = "It has no label."
    if label:
        score = label["score"]
        tested = (
            f"balanced accuracy {score['balanced_accuracy']:.2f} of {score['n']} items"
            if score
            else "not tested"
        )
        called = f"Called \u201c{visible(label['text'])}\u201d ({tested})."
    if card["density"] is None:
        return f"{called} Without an index, where it fires is unknown."
    if not card["density"]:
        return f"{called} It never fired."
    fires = f"It fires on {density(card['density'])}"
    top = card["examples"][0]["token"] if card["examples"] else ""
    most = f", most of all on {visible(top).strip() or visible(top)!r}" if top else ""
    return f"{called} {fires}{most}; at most {number(card['max_activation'])}."


def pieces(example: Mapping[str, Any], maximum: int | float | None, *, whole: bool) -> list[Piece]:
    """The tokens of an example; with `whole` all of them, else those around the marked one."""
    pos, tokens, values = example["pos"], example["tokens"], example["activations"]
    shown = (
        range(len(tokens))
        if whole
        else range(max(0, pos - BEFORE), min(len(tokens), pos + AFTER + 1))
    )
    top = maximum or max([*values, 0.0]) or 1.0
    levels = [min(N_LEVELS, math.ceil(N_LEVELS * max(values[at], 0.0) / top)) for at in shown]
    return [
        Piece(visible(tokens[at]), level, values[at], at == pos)
        for at, level in zip(shown, levels, strict=True)
    ]


def bands(examples: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Examples by the part of the range that they stand for, in the order given."""
    by_band: dict[str, list[Mapping[str, Any]]] = {}
    for example in examples:
        by_band.setdefault(example["band"], []).append(example)
    return by_band


def bars(histogram: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """Bars as high as the logarithm of the count, empty ones at both ends left out."""
    counts = [row["count"] for row in histogram]
    filled = [at for at, count in enumerate(counts) if count]
    if not filled:
        return []
    rows, top = histogram[filled[0] : filled[-1] + 1], math.log1p(max(counts))
    width = 100 / len(rows)
    made: list[Bar] = []
    for at, row in enumerate(rows):
        label = f"{number(row['low'])} to {number(row['high'])}: {row['count']:,}"
        made.append(
            Bar((at + 0.05) * width, 0.9 * width, 100 * math.log1p(row["count"]) / top, label)
        )
    return made


def asset(name: str) -> str:
    """A template, script or style by its file name."""
    return files("saescope.render").joinpath("templates", name).read_text(encoding="utf-8")


def content_hash(content: str) -> str:
    """What a content security policy calls this script or style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@cache
def environment() -> "Environment":
    """The templates, with what they write numbers and texts by."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    made = Environment(
        loader=FunctionLoader(asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "visible": visible,
        "number": number,
        "lines": lines,
        "density": density,
        "pieces": pieces,
        "bars": bars,
        "sentence": card_sentence,
        "bands": bands,
    }
    made.filters.update(filters)
    return made
