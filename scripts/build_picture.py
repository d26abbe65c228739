"""The README's pictures: an agent's conversation, drawn light and dark and as a recording that
plays for 20 seconds, and a feature's page as Chromium shows it.

Calls and results are those of the tools on the embedded SAE; only the sentences of user and agent
are written here.
"""

import io
import os
import shutil
import subprocess
import tempfile
from dataclasses import asdict
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import anyio
from PIL import Image

from saescope.names import home

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
PROMPT = "My sister lost her keys and called our mother because"
WIDTH, PAD, LINE = 400, 16, 20
SANS = "system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"
LIGHT = {
    "page": "#ffffff",
    "line": "#d0d7de",
    "text": "#1f2328",
    "soft": "#59636e",
    "tool": "#0f766e",
    "user": "#ddf4ff",
    "card": "#f6f8fa",
    "bar": "#14b8a6",
}
DARK = {
    "page": "#0d1117",
    "line": "#30363d",
    "text": "#e6edf3",
    "soft": "#9198a1",
    "tool": "#2dd4bf",
    "user": "#12304a",
    "card": "#161b22",
    "bar": "#0d9488",
}


class Row(NamedTuple):
    """A line of a card: words, or a label with a bar of `share` and a number after it."""

    text: str
    kind: str = "text"
    share: float | None = None
    value: str = ""


class Block(NamedTuple):
    """One step of the conversation and when it appears in the recording."""

    who: str
    title: str
    rows: list[Row]
    at_s: float


async def session() -> tuple[list[Block], str]:
    """The conversation, from the tools' own documents, and the page of the feature."""
    from saescope_mcp.app import ALL_TOOLS
    from saescope_mcp.settings import Settings
    from saescope_mcp.state import AppState

    tools = {tool.name: tool for tool in ALL_TOOLS}
    state = AppState(Settings())

    async def call(name: str, **arguments: Any) -> dict[str, Any]:
        outcome = await tools[name].call(state, arguments)
        if outcome.is_error:
            raise SystemExit(outcome.text)
        return outcome.document

    loaded = await call("load_sae", wait_s=0)
    while loaded["state"] != "done":
        await call("job_status", job_id=loaded["job_id"], wait_s=50)
        loaded = await call("load_sae", wait_s=50)
    asked = {"prompt": PROMPT, "target": " she", "against": " he"}
    why = await call("attribute_logit", sae=loaded["sae"], k=5, sign="positive", **asked)
    feature = max(why["features"], key=lambda row: row["measured_effect"])["feature"]
    edits = [{"feature": feature, "mode": "ablate"}]
    done = await call("intervene", sae=loaded["sae"], edits=edits, **asked)
    card = await call("describe_feature", sae=loaded["sae"], feature=feature, n_examples=5)
    return conversation(why, done, card), await page_of(state, loaded["sae"], feature)


async def page_of(state: Any, sae: str, feature: int) -> str:
    """The page that `describe_feature` gives its users."""
    from saescope.features import feature_card
    from saescope.render import feature_page

    async with state.use(sae) as loaded:
        index = (await loaded.indexed()).best
        card = feature_card(loaded.model, loaded.sae, feature, index=index, n_examples=5)
    return feature_page(asdict(card) | {"sae": sae})


def conversation(why: dict[str, Any], done: dict[str, Any], card: dict[str, Any]) -> list[Block]:
    """What user, tools and agent say, in order."""
    question = f"Why does the model continue “{PROMPT}” with “she”, not “he”? Check it."
    own = card["feature"]
    she, he = (_before_after(done, side) for side in ("target", "against"))
    control = done["control"]
    largest = max(row["measured_effect"] for row in why["features"])
    pairs = [
        Row(
            f"{row['feature']}{row['token']}",
            "bar",
            max(0.0, row["measured_effect"] / largest),
            f"{row['measured_effect']:+.1f}",
        )
        for row in why["features"][:4]
    ]
    answer = (
        f"Removing feature {own}, which fires on words for women, turns it around: “she” falls "
        f"from {she[0]} to {she[1]}, “he” rises from {he[0]} to {he[1]}. {control['n']} random "
        f"features change almost nothing (p {control['p']:.2f}). The SAE does not see "
        f"{why['error_share']:.0%} of the story, and this is one prompt."
    )
    return [
        Block("user", "", [Row(question)], 0.5),
        Block("tool", "attribute_logit", [Row("measured effect of", "soft"), *pairs], 3.5),
        Block("tool", "intervene", [Row(f"feature {own} ablated", "soft"), *_effects(done)], 7.5),
        Block(
            "tool",
            "describe_feature",
            [
                Row(f"fires on {card['density']:.1%} of {card['corpus']['n_tokens']:,} tokens"),
                Row(
                    "promotes"
                    + ",".join(token for token in card["promotes"][:6] if token[0] == " ")
                ),
            ],
            12.5,
        ),
        Block("agent", "", [Row(answer)], 15.5),
    ]


def _effects(done: dict[str, Any]) -> list[Row]:
    """The prediction before and after, and the control."""
    bars = [
        Row(f"{name}, {when}", "bar", *_bar(done[when][side]))
        for name, side in (("she", "target"), ("he", "against"))
        for when in ("before", "after")
    ]
    control = done["control"]
    random = f"{control['mean']:+.2f} ± {control['sd']:.2f}"
    return [
        *bars,
        Row(f"effect {done['effect']:+.1f}"),
        Row(f"{control['n']} random features: {random}"),
    ]


def _before_after(done: dict[str, Any], side: str) -> tuple[str, str]:
    return _bar(done["before"][side])[1], _bar(done["after"][side])[1]


def _bar(token: dict[str, Any]) -> tuple[float, str]:
    return (token["prob"], f"{100 * token['prob']:.2g} %")


def drawn(blocks: list[Block], style: str, *, moving: bool) -> str:
    """The conversation as an SVG whose colours are the classes of `style`."""
    parts: list[str] = []
    top = PAD
    for block in blocks:
        body, height = _block(block, top)
        delay = f' style="animation-delay:{block.at_s}s"' if moving else ""
        parts.append(f'<g class="step"{delay}>{body}</g>')
        top += height + 14
    height = top - 14 + PAD
    motion = MOTION if moving else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">\n'
        f"<title>An agent asks saescope why a model says she, and checks the answer</title>\n"
        f"<style>{style}{TYPE}{motion}</style>\n"
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="12"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


TYPE = (
    f"text{{font:15px {SANS}}}.code,.head{{font:13px {MONO}}}.head{{font-weight:700}}"
    ".soft{font-size:13px}.num{font-weight:600}"
)
MOTION = (
    "@media (prefers-reduced-motion:no-preference){"
    ".step{animation:show .6s ease-out both}.fill{transform-box:fill-box;transform-origin:left;"
    "animation:grow 1.2s ease-out both;animation-delay:inherit}}"
    "@keyframes show{from{opacity:0;transform:translateY(8px)}}"
    "@keyframes grow{from{transform:scaleX(0)}}"
)


def colours(theme: dict[str, str]) -> str:
    """The classes of a theme."""
    fills = {"text": "text", "soft": "soft", "num": "text", "code": "soft", "head": "tool"}
    fills |= {"page": "page", "fill": "bar", "rest": "line", "user": "user"}
    rules = [f".{name}{{fill:{theme[colour]}}}" for name, colour in fills.items()]
    return "".join([*rules, f".card{{fill:{theme['card']};stroke:{theme['line']}}}"])


def _block(block: Block, top: int) -> tuple[str, int]:
    """A block as SVG, and its height."""
    tool, inner = block.who == "tool", WIDTH - 4 * PAD
    lines = [line for row in block.rows for line in _lines(row)]
    height = LINE * (len(lines) + tool) + 20
    left = PAD if tool else 2 * PAD if block.who == "user" else PAD
    box = {"tool": "card", "user": "user", "agent": "page"}[block.who]
    width = WIDTH - left - PAD
    parts = [
        f'<rect class="{box}" x="{left}" y="{top}" width="{width}" height="{height}" rx="10"/>'
    ]
    x, y = left + (12 if block.who != "agent" else 0), top + 24
    if tool:
        parts.append(f'<text class="head" x="{x}" y="{y}">saescope: {block.title}</text>')
        y += LINE
    for line in lines:
        parts.append(_line(line, x, y, inner))
        y += LINE
    return "".join(parts), height


def _lines(row: Row) -> list[Row]:
    """A row, or the lines that it fills."""
    return [row] if row.kind != "text" else [Row(line) for line in wrap(row.text, 42)]


def _line(row: Row, x: int, y: int, inner: int) -> str:
    """One line as SVG."""
    if row.share is None:
        return f'<text class="{row.kind}" x="{x}" y="{y}">{escape(row.text)}</text>'
    start, room = x + 104, inner - 104 - 56
    filled = max(1.5, room * row.share)
    return (
        f'<text class="text" x="{x}" y="{y}">{escape(row.text)}</text>'
        f'<rect class="rest" x="{start}" y="{y - 11}" width="{room}" height="12" rx="3"/>'
        f'<rect class="fill" x="{start}" y="{y - 11}" width="{filled:.1f}" height="12" rx="3"/>'
        f'<text class="num" x="{start + room + 8}" y="{y}">{escape(row.value)}</text>'
    )


def photographed(page: str, folder: Path, *, dark: bool) -> Image.Image:
    """The page in a window as wide as a phone, at twice its pixels."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("Chromium is needed for the picture of a feature's page.")
    file, shot = folder / "page.html", folder / "page.png"
    file.write_text(page, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    options += ["--window-size=500,1160", "--force-device-scale-factor=1.6"]
    options += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    options += [f"--screenshot={shot}", "--virtual-time-budget=5000", file.as_uri()]
    subprocess.run([browser, *options], check=True, capture_output=True, timeout=120)
    return Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").symlink_to(home() / "models")
        os.environ["SAESCOPE_HOME"] = name  # no labels of ours
        blocks, page = anyio.run(session)
        PICTURES.mkdir(parents=True, exist_ok=True)
        for scheme, theme in (("light", LIGHT), ("dark", DARK)):
            text = drawn(blocks, colours(theme), moving=False)
            (PICTURES / f"session-{scheme}.svg").write_text(text, encoding="utf-8")
            picture = photographed(page, folder, dark=scheme == "dark")
            picture.save(PICTURES / f"feature-{scheme}.webp", quality=80, method=6)
        both = f"{colours(LIGHT)}@media (prefers-color-scheme:dark){{{colours(DARK)}}}"
        moving = drawn(blocks, both, moving=True)
        (PICTURES / "session-recording.svg").write_text(moving, encoding="utf-8")


if __name__ == "__main__":
    main()
