"""Draw the icon: a grid of features of which a few fire. server/saescope_mcp/icon.svg and
assets/icon.png come from the same numbers."""

from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
SIDE, GRID, PIXELS = 64, 5, 512
BACKGROUND, QUIET, FIRING = "#14213d", "#33466e", "#fca311"
FIRES = {(1, 0): 5.0, (3, 2): 6.0, (0, 3): 4.0, (2, 4): 5.0}
"""Column and row of each feature that fires, and its radius."""
SMOOTH = 4
"""The PNG is drawn this many times too large and scaled down, for round edges."""


def dots() -> list[tuple[float, float, float, str]]:
    """x, y, radius and colour of each feature, in units of the SVG."""
    places = [(column, row) for row in range(GRID) for column in range(GRID)]
    return [
        (8 + 12 * x, 8 + 12 * y, FIRES.get((x, y), 2.0), FIRING if (x, y) in FIRES else QUIET)
        for x, y in places
    ]


def svg() -> str:
    """Quiet features are the dots of dashed lines, with those that fire drawn over them: the icon
    goes out with every list of tools."""
    ends = [8 + 12 * n for n in range(GRID)]
    lines = "".join(f"M8 {y}H{ends[-1] + 1}" for y in ends)
    circles = "".join(
        f'<circle cx="{x}" cy="{y}" r="{radius:g}"/>'
        for x, y, radius, colour in dots()
        if colour == FIRING
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}">'
        f'<rect width="{SIDE}" height="{SIDE}" rx="12" fill="{BACKGROUND}"/>'
        f'<path d="{lines}" stroke="{QUIET}" stroke-width="4" stroke-linecap="round" '
        f'stroke-dasharray="0 12"/><g fill="{FIRING}">{circles}</g></svg>\n'
    )


def png() -> Image.Image:
    scale = PIXELS * SMOOTH / SIDE
    picture = Image.new("RGBA", (PIXELS * SMOOTH, PIXELS * SMOOTH))
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle(
        (0, 0, PIXELS * SMOOTH - 1, PIXELS * SMOOTH - 1), 12 * scale, fill=BACKGROUND
    )
    for x, y, radius, colour in dots():
        draw.ellipse(
            [scale * edge for edge in (x - radius, y - radius, x + radius, y + radius)], fill=colour
        )
    return picture.resize((PIXELS, PIXELS), Image.Resampling.LANCZOS).quantize(32)


if __name__ == "__main__":
    (ROOT / "server" / "saescope_mcp" / "icon.svg").write_text(svg(), encoding="utf-8")
    (ROOT / "assets").mkdir(exist_ok=True)
    png().save(ROOT / "assets" / "icon.png", optimize=True)
