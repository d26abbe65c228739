"""The feature's page as a file: what it holds, and that nothing in it can act."""

import base64
import hashlib
import math
import re
from dataclasses import asdict
from html.parser import HTMLParser
from typing import Any

import pytest
from tests.core.render.cards import CARDS, FULL, HOSTILE

from saescope.render import feature_app, feature_page
from saescope.render.feature_page import bars, density, number, pieces, visible

SAID = [
    "young dogs balanced accuracy 0.83 (0.62 to 0.94, 24 items): better than chance",
    "pets <script>window.pwned=1</script> not tested from neuronpedia:gpt-4o-mini",
    "0.886 % of tokens, 1 in 113",
    "maximum 22.7",
    "50 % are at most 3.1",
    "Decoder row through the final norm",
    "wolves (0.83: better than chance)",
    "<i>cats</i> (not tested)",
    "animals (0.46: not better than chance)",
    "200,000 in 1,563 contexts of 128",
    "0123456789abcdef",
    "The corpus is small",
]
VOID = {"meta", "link", "br", "img", "input", "hr", "base"}


class Read(HTMLParser):
    """Tags that are open and shut, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.raw: dict[str, str] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " " if tag == "dd" else ""
        if tag not in VOID and not self.rawtag(tag):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            return
        assert self.open and self.open.pop() == tag, tag

    def rawtag(self, tag: str) -> bool:
        return tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.raw[self.cdata_elem] = self.raw.get(self.cdata_elem, "") + data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page(name: str = "full") -> Read:
    return Read(feature_page(asdict(CARDS[name])))


@pytest.mark.parametrize("name", CARDS)
def test_every_card_is_a_well_formed_page(name: str) -> None:
    read = page(name)
    assert (
        read.open == []
        and len(read.all("h1")) == 1
        and len(read.all("main")) == 1
        and "1234" in read.text
    )


def test_the_page_says_what_the_card_holds() -> None:
    text = " ".join(page().text.split())
    assert [said for said in SAID if said not in text] == []


def test_hostile_text_is_text() -> None:
    read = page()
    for token in HOSTILE:
        assert visible(token) in read.text
    assert [read.all(tag) for tag in ("img", "iframe", "link", "object", "form", "base")] == [
        []
    ] * 6
    assert len(read.all("script")) == len(read.all("style")) == 1
    assert not re.search(
        r"[\x00-\x08\x0b-\x1f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", read.text
    )
    assert all(
        not name.startswith("on") and name != "style" for _, attrs in read.tags for name in attrs
    )


def test_nothing_is_fetched_and_only_the_page_s_own_script_and_style_may_run() -> None:
    read = page()
    assert [attrs for _, attrs in read.tags if "src" in attrs or "srcset" in attrs] == []
    assert [attrs["href"] for _, attrs in read.tags if "href" in attrs] == ["#main", FULL.url]
    assert "url(" not in read.raw["style"] and "@import" not in read.raw["style"]
    policy = str(next(attrs["content"] for attrs in read.all("meta") if attrs.get("http-equiv")))
    hashes = [
        base64.b64encode(hashlib.sha256(read.raw[tag].encode()).digest()).decode()
        for tag in ("script", "style")
    ]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    assert (
        f"script-src 'sha256-{hashes[0]}'" in policy and f"style-src 'sha256-{hashes[1]}'" in policy
    )


def test_the_app_is_the_page_without_data() -> None:
    read = Read(feature_app())
    assert read.open == [] and "http" not in read.text and len(read.all("main")) == 1
    for message in (
        "ui/initialize",
        "ui/notifications/initialized",
        "ui/notifications/tool-result",
        "resources/read",
        "2026-01-26",
    ):
        assert message in read.raw["script"]
    assert "innerHTML" not in read.raw["script"] and "eval(" not in read.raw["script"]


def card_example(activations: list[float], pos: int) -> dict[str, Any]:
    return {
        "tokens": [f" {n}" for n in range(len(activations))],
        "activations": activations,
        "pos": pos,
    }


def test_tokens_are_as_dark_as_their_share_of_the_maximum() -> None:
    shown = pieces(card_example([0.0, 0.1, 1.0, 4.0, 8.0, 99.0, -1.0], 4), 8.0, whole=True)
    assert [piece.level for piece in shown] == [0, 1, 1, 4, 8, 8, 0]
    assert [piece.is_peak for piece in shown] == [False] * 4 + [True] + [False] * 2
    assert [
        piece.level for piece in pieces(card_example([0.0, 2.0, 4.0], 2), None, whole=True)
    ] == [0, 4, 8]


@pytest.mark.parametrize(("pos", "first", "last"), [(0, 0, 12), (50, 30, 62), (127, 107, 127)])
def test_a_long_context_is_cut_around_the_marked_token(pos: int, first: int, last: int) -> None:
    shown = pieces(card_example([1.0] * 128, pos), 1.0, whole=False)
    assert (shown[0].text, shown[-1].text, [p.text for p in shown if p.is_peak]) == (
        f" {first}",
        f" {last}",
        [f" {pos}"],
    )
    assert len(pieces(card_example([1.0] * 128, pos), 1.0, whole=True)) == 128


def test_bars_are_as_high_as_the_logarithm_of_their_counts() -> None:
    counts = [0, 3, 0, 15, 0, 0]
    drawn = bars(
        [{"low": float(n), "high": n + 1.0, "count": count} for n, count in enumerate(counts)]
    )
    assert [round(bar.height, 6) for bar in drawn] == [
        round(100 * math.log(4) / math.log(16), 6),
        0.0,
        100.0,
    ]
    assert [bar.x for bar in drawn] == pytest.approx([5 / 3, 105 / 3, 205 / 3]) and drawn[
        0
    ].label == "1 to 2: 3"
    assert bars([]) == bars([{"low": 0.0, "high": 1.0, "count": 0}]) == []


def test_numbers_are_short() -> None:
    numbers = {
        0.008861: "0.00886",
        22.735: "22.7",
        1234.5: "1,234",
        200000: "200,000",
        0: "0",
        2.0: "2",
        -0.99: "-0.99",
    }
    assert {value: number(value) for value in numbers} == numbers and number(None) == number(
        math.nan
    ) == "unknown"
    shares = {
        0.00886: "0.886 % of tokens, 1 in 113",
        0.6: "60 % of tokens",
        0.0: "0 % of tokens",
        None: "unknown",
    }
    assert {value: density(value) for value in shares} == shares
