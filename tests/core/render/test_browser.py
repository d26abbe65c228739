"""The feature's page and the app in a real Chromium: themes, keyboard, narrow windows, hostile
text, the protocol of MCP Apps."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.core.render.browser import MARKS, look
from tests.core.render.cards import FULL

from saescope.render import feature_app, feature_page

pytestmark = MARKS

EVIL = (
    "<script>window.pwned=1</script><img src=x onerror='parent.pwned=1'><p "
    "onclick='pwned=1'><a href='javascript:pwned=1'>x</a></p>"
)
RESULT: dict[str, Any] = {
    "content": [{"type": "text", "text": "{}"}],
    "structuredContent": {
        "feature": 1234,
        "summary": "Feature 1234 <b>fires</b> on dogs.",
        "label": {
            "text": "dogs <img src=x onerror=parent.pwned=1>",
            "source": "neuronpedia:gpt",
            "score": None,
            "verdict": "not tested",
        },
        "density": 0.00886,
        "max_activation": 22.735,
        "examples": [
            {
                "text": "a <b>young</b> \u27e6 puppy\u27e7 ran\u202e\n",
                "token": " puppy",
                "activation": 22.7,
                "band": "top",
            }
        ],
        "promotes": [" puppy", "<i>"],
        "suppresses": [],
        "url": "https://www.neuronpedia.org/gpt2-small/8-res-jb/1234",
        "page": "sae://feature/1234",
    },
}


def look_at(folder: Path, *, dark: bool) -> dict[str, Any]:
    """What the harness saw of a full card's page."""
    page = feature_page(asdict(FULL))
    given = {
        "page": page,
        "app": feature_app(),
        "hostile": page.replace("</main>", f"{EVIL}</main>"),
        "result": RESULT,
    }
    return look(
        given,
        "harness_feature.js",
        folder,
        dark=dark,
        whole=lambda seen: "size" in seen.get("app", {}),
    )


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return look_at(tmp_path_factory.mktemp("light"), dark=False)


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return look_at(tmp_path_factory.mktemp("dark"), dark=True)


def test_nothing_went_wrong_inside(light: dict[str, Any], dark: dict[str, Any]) -> None:
    assert light["errors"] == dark["errors"] == []


def test_the_page_follows_the_user_s_theme_and_its_button(
    light: dict[str, Any], dark: dict[str, Any]
) -> None:
    assert light["page"]["preferred"] > 0.8 and dark["page"]["preferred"] < 0.1
    for seen in (light, dark):
        (automatic, own), (bright, high), (dim, low) = seen["page"]["themes"]
        assert [automatic, bright, dim] == ["Theme: automatic", "Theme: light", "Theme: dark"]
        assert own == seen["page"]["preferred"] and high > 0.8 and low < 0.1


def test_every_text_can_be_read(light: dict[str, Any]) -> None:
    for worst in light["page"]["contrast"]:
        assert worst["ratio"] >= 4.5, worst  # WCAG 2.2, AA


def test_hostile_text_runs_nothing_makes_nothing_and_asks_for_nothing(
    light: dict[str, Any],
) -> None:
    page = light["page"]
    assert (
        page["pwned"] == [None, None, "Feature 1234 of smollm2-135m/14.resid_post"]
        and page["fetched"] == []
    )
    assert page["elements"] == [0, 0, 1, 2 * len(FULL.examples)] and page["peak"] == " puppy"


def test_a_script_that_is_not_the_page_s_own_does_not_run(light: dict[str, Any]) -> None:
    assert "injected" not in light["page"]


def test_no_window_is_too_narrow(light: dict[str, Any]) -> None:
    assert light["page"]["overflow"] == {"wide": 0, "narrow": 0}


def test_all_that_acts_takes_the_keyboard_s_focus_and_shows_it(light: dict[str, Any]) -> None:
    focusable = light["page"]["focusable"]
    assert [tag for tag, _, _ in focusable].count("SUMMARY") == len(FULL.examples) + 2
    assert {tag for tag, _, _ in focusable} == {"A", "BUTTON", "SUMMARY", "DIV"}
    assert all(focused and outline == "solid" for _, focused, outline in focusable), focusable


def test_the_app_speaks_the_protocol(light: dict[str, Any]) -> None:
    app = light["app"]
    assert app["messages"][:2] == ["ui/initialize", "ui/notifications/initialized"]
    assert app["asked"]["protocolVersion"] == "2026-01-26" and set(app["asked"]) == {
        "protocolVersion",
        "appInfo",
        "appCapabilities",
    }
    assert "answer 7: {}" in app["messages"] and "answer 8: -32601" in app["messages"]
    assert app["size"]["height"] > 300 and app["theme"] == "dark" and app["ink"] == "rgb(1, 250, 3)"


def test_the_app_shows_the_result_as_text(light: dict[str, Any]) -> None:
    short = light["app"]["short"]
    for said in (
        "Feature 1234",
        "smollm2-135m/14.resid_post",
        "dogs <img src=x",
        "not tested",
        "0.886 % of tokens",
        "22.7",
        "<i>",
    ):
        assert said in short
    assert "a <b>young</b>  puppy ran\u27e8U+202E\u27e9\u21b5" in short and light["app"][
        "marks"
    ] == [" puppy"]
    assert light["app"]["opened"] == ["https://www.neuronpedia.org/gpt2-small/8-res-jb/1234"]


def test_the_app_shows_the_whole_page_without_what_could_act(light: dict[str, Any]) -> None:
    app = light["app"]
    assert app["button"] and "resources/read" in app["messages"]
    assert "Nearest decoder directions" in app["whole"] and app["sections"] == 7
    assert app["acting"] == 0 and app["pwned"] == [None, None]


def test_a_host_that_can_only_show_is_enough(light: dict[str, Any]) -> None:
    plain = light["plain"]
    assert (
        not plain["button"]
        and plain["opened"] == []
        and "Feature 1234" in plain["whole"]
        and "resources/read" not in plain["messages"]
    )


def test_an_error_is_shown_as_text(light: dict[str, Any]) -> None:
    assert "SAE_NOT_LOADED: call load_sae <b>" in light["refused"]["short"]
