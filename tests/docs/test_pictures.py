"""The README's pictures: numbers of the SAE that ships, small, and nothing that a page would
fetch."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from saescope.embedded import landmarks

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
VIEWS = ("feature", "window", "prediction")
SESSIONS = ("session-light.svg", "session-dark.svg", "session-recording.svg")


@pytest.mark.parametrize("name", SESSIONS)
def test_a_conversation_has_the_numbers_of_the_sae_that_ships(name: str) -> None:
    text = (PICTURES / name).read_text(encoding="utf-8")
    words = "\n".join(ElementTree.fromstring(text).itertext())
    story = landmarks()["story"]
    for figure in ("she_before", "she_after", "he_before", "he_after", "effect", "control"):
        assert story[figure] in words, figure
    assert f"{landmarks()['female']} mother" in words
    assert not re.search(r"(?:href|src|url)\b", text) and len(text) < 50_000


def test_the_recording_lasts_twenty_seconds_and_stands_still_for_who_asks_for_it() -> None:
    text = (PICTURES / "session-recording.svg").read_text(encoding="utf-8")
    starts = [float(number) for number in re.findall(r'style="animation-delay:([\d.]+)s"', text)]
    assert starts == sorted(starts) and 12 < starts[-1] < 20
    assert text.count(".step{animation:") == 1
    assert "prefers-reduced-motion:no-preference){.step{animation:" in text


@pytest.mark.parametrize(
    "name",
    [*SESSIONS, *(f"{view}-{theme}.webp" for view in VIEWS for theme in ("light", "dark"))],
)
def test_a_picture_is_small(name: str) -> None:
    assert 1000 < (PICTURES / name).stat().st_size < 200_000
