"""Pictures: SVG of plain data, whose marks stand where the numbers say, also of odd data."""

import math
import re
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from tests.core.render.cards import FULL, HOSTILE, NEVER_FIRED, WITHOUT_INDEX

from saescope.records.evaluation import DensityBin, PositionBin
from saescope.render import (
    density_histogram,
    feature_picture,
    training_curves,
    variance_by_position,
)
from saescope.render.pictures import distinct
from saescope.render.svg import AxisSpan, thinned, ticks, usual, wrapped

SVG = "{http://www.w3.org/2000/svg}"
POINTS = [
    {
        "step": step,
        "loss": 5 / (step + 10),
        "l0": 400 / (1 + step / 20) + 32,
        "explained_variance": 1 - 1 / (1 + step),
        "dead_share": 0.0,
        "lr": 3e-4,
    }
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

PICTURES: dict[str, Callable[[], str]] = {
    "training": lambda: training_curves(POINTS),
    "two trainings": lambda: training_curves(POINTS, over=POINTS[:9], names=("a", "<b>")),
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


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in parsed(svg).iter(f"{SVG}text")]


def paths(svg: str, kind: str) -> list[str]:
    every = parsed(svg).iter(f"{SVG}path")
    return [each.attrib["d"] for each in every if kind in each.attrib["class"].split()]


def heights(svg: str, kind: str) -> list[float]:
    """How high the bars of a kind are."""
    return [float(re.split(r"v-|h", path)[1]) for path in paths(svg, kind)]


def points(path: str) -> list[tuple[float, float]]:
    pairs = (pair.split() for pair in path.removeprefix("M").split("L"))
    return [(float(x), float(y)) for x, y in pairs]


@pytest.mark.parametrize("name", PICTURES)
def test_it_is_an_svg_within_its_bounds_that_runs_and_asks_nothing(name: str) -> None:
    svg = PICTURES[name]()
    root = parsed(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert root.tag == f"{SVG}svg" and root.findtext(f"{SVG}title") and width == 440
    assert {each.tag for each in root.iter()} <= {
        f"{SVG}{tag}" for tag in ("svg", "title", "desc", "style", "rect", "text", "g", "path")
    }
    assert "http" not in svg.replace("http://www.w3.org/", "") and "NaN" not in svg.upper()
    for group in root.iter(f"{SVG}g"):
        top = float(group.attrib["transform"].removesuffix(")").split()[-1])
        for words in group.iter(f"{SVG}text"):
            x, y = float(words.attrib["x"]), float(words.attrib["y"])
            wide = len(words.text or "") * 6.7
            side = words.attrib.get("class", "")
            left = x - (wide if "end" in side else wide / 2 if "mid" in side else 0)
            assert -14 <= left <= width and top + y <= height, words.text
    assert PICTURES[name]() == svg


def test_a_spike_does_not_squeeze_a_curve_and_is_marked_where_it_was() -> None:
    spiked = [dict(point) for point in POINTS]
    spiked[20]["loss"] = 900.0
    plain, svg = (paths(training_curves(each), "curve")[0] for each in (POINTS, spiked))
    ends = [(points(path)[5][1], points(path)[39][1]) for path in (plain, svg)]
    drawn = [abs(first - last) for first, last in ends]
    assert drawn[1] > drawn[0] / 2, "the rest of the curve keeps its height"
    (mark,) = paths(training_curves(spiked), "beyond")[-1:]
    at = float(mark.removeprefix("M").split()[0]) + 4
    assert at == pytest.approx(points(svg)[20][0], abs=0.2)
    assert any("as far as 900" in text for text in texts(training_curves(spiked)))


def test_a_point_of_a_curve_stands_where_its_number_is_on_the_ticks() -> None:
    run = [{"step": at, "explained_variance": at / 100} for at in range(0, 101, 10)]
    svg = training_curves(run)
    found = points(paths(svg, "curve")[0])
    grid = sorted(float(path.split()[1].partition("H")[0]) for path in paths(svg, "grid"))
    assert found[0][1] == pytest.approx(grid[-1], abs=0.1) and "0" in texts(svg)
    assert found[-1][1] == pytest.approx(grid[0], abs=0.1) and "1" in texts(svg)
    middle = (found[0][1] + found[-1][1]) / 2
    assert found[5][1] == pytest.approx(middle, abs=0.1)
    steps = [x for x, _ in found]
    assert [b - a for a, b in pairwise(steps)] == pytest.approx(
        [(steps[-1] - steps[0]) / 10] * 10, abs=0.11
    )


def test_two_runs_share_their_axes_and_are_named() -> None:
    svg = training_curves(POINTS, over=POINTS[:9], names=("train-1", "train-2"))
    one, two = (points(paths(svg, f"{kind}")[at]) for kind, at in (("one", 1), ("two", 1)))
    assert one[:9] == two and {"train-1", "train-2"} <= {*texts(svg)}


def test_bars_of_features_are_in_proportion_and_dense_and_dead_ones_told_apart() -> None:
    svg = density_histogram(DENSITY, n_dead=36)
    counts = [each.n_features for each in DENSITY]
    highs = [*heights(svg, "one"), *heights(svg, "two")]
    assert highs[3] == max(highs)
    for count, high in zip(counts, highs, strict=True):
        assert high == pytest.approx(max(highs) * count / 2288, abs=1.5)
    assert len(heights(svg, "grey")) == 1 and "36" in texts(svg) and "never" in texts(svg)
    said = parsed(svg).findtext(f"{SVG}desc")
    assert said == ("Of 4,608 features 36 never fired and 6 fire on more than 0.1 of the tokens.")


def test_tokens_are_coloured_as_strongly_as_they_fire() -> None:
    svg = feature_picture(asdict(FULL))
    kinds = [each.attrib["class"].split() for each in parsed(svg).iter(f"{SVG}path")]
    levels = [kind[1] for kind in kinds if "peak" in kind]
    most = FULL.max_activation
    assert most and levels == [
        f"a{math.ceil(8 * each.activation / most)}" for each in FULL.examples[:6]
    ]


def test_hostile_texts_stay_texts() -> None:
    svg = feature_picture(asdict(FULL))
    assert "<script" not in svg and "\u202e" not in svg and "\x1b" not in svg
    assert any("<b>" in text for text in texts(svg)), HOSTILE


def test_tokens_that_differ_in_case_or_space_alone_are_one() -> None:
    rows = [{"token": token, "effect": 1.0} for token in (" Sea", "sea", "SEA", " ", "  ", "see")]
    assert [row["token"] for row in distinct(rows)] == [" Sea", " ", "  ", "see"]


def test_ticks_are_round_and_within() -> None:
    assert ticks(AxisSpan(0, 1)) == [0, 0.5, 1] or ticks(AxisSpan(0, 1)) == [0, 0.25, 0.5, 0.75, 1]
    assert ticks(AxisSpan(0.0002, 0.00035)) == [0.0002, 0.00025, 0.0003, 0.00035]
    assert ticks(AxisSpan(-30, 45)) == [-20, 0, 20, 40]
    assert ticks(AxisSpan(1e6, 1e6 + 3)) == [1e6, 1e6 + 1, 1e6 + 2, 1e6 + 3]


def test_the_usual_range_holds_ordinary_values_and_the_last() -> None:
    assert usual([1, 2, 3, 4, 5], [5]) == AxisSpan(1, 5)
    assert usual([1.0] * 15 + [900.0], [1.0]).high < 2
    assert usual([1.0] * 15 + [900.0], [900.0]).high == 900
    assert usual([2.0], [2.0]) == AxisSpan(1.8, 2.2)


def test_a_long_curve_keeps_its_spikes_and_its_ends() -> None:
    long = [(float(at), math.sin(at)) for at in range(100_000)]
    long[77_777] = (77_777.0, 50.0)
    kept = thinned(long)
    assert len(kept) <= 401 and (77_777.0, 50.0) in kept and kept[-1] == long[-1]
    assert kept == sorted(kept)


def test_words_are_wrapped_without_being_lost() -> None:
    text = "a bb ccc " + "x" * 30
    assert wrapped(text, 10) == ["a bb ccc", "xxxxxxxxxx", "xxxxxxxxxx", "xxxxxxxxxx"]
    assert all(len(line) <= 10 for line in wrapped(text * 3, 10))
