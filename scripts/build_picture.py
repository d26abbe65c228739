"""The README's picture: the explanation, its check and the steering of a real `saescope demo`,
drawn by rich, once light and once dark."""

import io
import re
from pathlib import Path

import anyio
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from saescope_mcp.cli.calls import FOREVER_S
from saescope_mcp.cli.demo import Demo

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
WIDTH = 100
ANSI = [
    (110, 118, 129),
    (207, 34, 46),
    (26, 127, 55),
    (154, 103, 0),
    (9, 105, 218),
    (130, 80, 223),
    (27, 124, 131),
    (87, 96, 106),
]
BRIGHT = [
    (139, 148, 158),
    (255, 123, 114),
    (63, 185, 80),
    (210, 153, 34),
    (88, 166, 255),
    (188, 140, 255),
    (57, 197, 207),
    (177, 186, 196),
]
THEMES = {
    "light": TerminalTheme((255, 255, 255), (36, 41, 47), ANSI, ANSI),
    "dark": TerminalTheme((13, 17, 23), (230, 237, 243), BRIGHT, BRIGHT),
}


class Sitting(Demo):
    """The same story without its beginning and its end."""

    async def tell(self) -> None:
        sae = (await self._call("load_sae", "loading", wait_s=FOREVER_S))["sae"]
        feature = await self._explanation(sae)
        await self._check(sae, feature)
        await self._steering(sae, feature)

    def _progress(self, status: object, message: str) -> None:
        pass


def main() -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    anyio.run(Sitting(console).tell)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, theme in THEMES.items():
        drawn = console.export_svg(
            title="saescope demo", theme=theme, clear=False, unique_id=f"demo-{name}"
        )
        drawn = re.sub(
            r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL
        )  # a picture fetches nothing
        drawn = drawn.replace(
            "Fira Code, monospace", "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
        )
        (PICTURES / f"demo-{name}.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
