"""Pictures: PNG bytes of plain data, on a background of their own, also of odd data."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict

import pytest
from tests.core.render.cards import FULL, NEVER_FIRED, WITHOUT_INDEX

from saescope.records.evaluation import DensityBin, PositionBin
from saescope.render import (
    density_histogram,
    feature_picture,
    training_curves,
    variance_by_position,
)

POINTS = [
    {"step": step, "loss": 5000 / (step + 10), "l0": 400 / (1 + step / 20) + 32, "dead_share": 0.0}
    for step in range(0, 200, 5)
]
DENSITY = [
    DensityBin(1e-4, 3e-4, 73),
    DensityBin(3e-4, 1e-3, 305),
    DensityBin(1e-3, 3e-3, 1122),
    DensityBin(3e-3, 1e-2, 2288),
    DensityBin(1e-2, 3e-2, 682),
    DensityBin(3e-2, 0.1, 96),
    DensityBin(0.1, 0.3, 6),
]
POSITIONS = [
    PositionBin(1, 1, 16, 0.87),
    PositionBin(2, 3, 32, 0.85),
    PositionBin(4, 7, 64, 0.8),
    PositionBin(8, 15, 127, 0.79),
    PositionBin(16, 31, 256, None),
    PositionBin(32, 63, 511, 0.8),
]

PICTURES: dict[str, Callable[[], bytes]] = {
    "training": lambda: training_curves(POINTS),
    "one point": lambda: training_curves(POINTS[:1]),
    "no point": lambda: training_curves([]),
    "points without a loss": lambda: training_curves(
        [{"step": 1, "l0": 3.0}, {"step": 2, "l0": 2.0, "loss": -1.0}]
    ),
    "density": lambda: density_histogram(DENSITY, n_dead=36),
    "nothing fired": lambda: density_histogram([], n_dead=64),
    "positions": lambda: variance_by_position(POSITIONS, overall=0.8),
    "one position": lambda: variance_by_position([PositionBin(1, 1, 4, -3.0)]),
    "no position": lambda: variance_by_position([]),
    "feature": lambda: feature_picture(asdict(FULL)),
    "feature that never fired": lambda: feature_picture(asdict(NEVER_FIRED)),
    "feature without an index": lambda: feature_picture(asdict(WITHOUT_INDEX)),
}


def pixels(png: bytes) -> tuple[int, int, bytes]:
    """Width, height and the first pixel's bytes of an 8-bit RGBA picture."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, colour = struct.unpack(">IIBB", png[16:26])
    assert (depth, colour) == (8, 6)
    start = png.index(b"IDAT") - 4
    data = b""
    while png[start + 4 : start + 8] == b"IDAT":
        length = int.from_bytes(png[start : start + 4])
        data += png[start + 8 : start + 8 + length]
        start += 12 + length
    return width, height, zlib.decompress(data)[1:5]


@pytest.mark.parametrize("name", PICTURES)
def test_it_is_a_png_with_an_opaque_light_background(name: str) -> None:
    width, height, corner = pixels(PICTURES[name]())
    assert 600 <= width <= 1200 and 400 <= height <= 1000
    assert min(corner[:3]) > 200 and corner[3] == 255


@pytest.mark.slow
def test_the_same_data_give_the_same_bytes_and_others_others() -> None:
    assert training_curves(POINTS) == training_curves(POINTS)
    assert training_curves(POINTS) != training_curves(POINTS[:20])
