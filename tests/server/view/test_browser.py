"""The window in a real Chromium: what a person does there, hostile texts, long lists."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.core.render.browser import MARKS
from tests.server.view.chromium import Page, chromium
from tests.server.view.conftest import Window

pytestmark = MARKS
HOSTILE = "<img src=x onerror=window.pwned=1><script>window.pwned=1</script>\u202e </div>"
ROWS = "document.querySelectorAll('.row .what').length > 3"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        opened.look()
        yield opened


def unharmed(page: Page, shown: Window) -> bool:
    """Whether nothing failed, nothing ran that is not ours, and nothing left this window."""
    assert page.complaints() == [] and page.eval("window.pwned") is None
    return page.asked_hosts() <= {shown.origin, "about:blank"}


def test_home_shows_what_is_loaded_and_leads_to_its_features(page: Page, shown: Window) -> None:
    page.open(shown.url)
    page.until("document.body.innerText.includes('features at blocks.2')")
    page.until("!document.querySelector('[aria-busy]')")
    page.eval("document.querySelector('.links a').click()")
    page.until(ROWS)
    assert page.eval("location.pathname").endswith("/features") and unharmed(page, shown)


def test_the_first_paint_comes_within_300_ms(page: Page, shown: Window) -> None:
    page.open(shown.url)
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    times = list[float]()
    for _ in range(3):
        page.open(shown.url)
        times.append(page.until(paint))
    assert min(times) < 300, times


def test_the_list_goes_by_keys_and_opens_a_feature_s_page(page: Page, shown: Window) -> None:
    page.open(f"{shown.url}features")
    page.until(ROWS)
    page.eval("document.querySelector('.list').focus()")
    for key in ("ArrowDown", "ArrowDown", "ArrowUp"):
        page.press(key)
    assert page.eval("document.querySelector('[aria-selected=true]').ariaPosInSet") == "2"
    page.press("End")
    page.until("document.querySelector('[aria-selected=true] .what')")
    assert page.eval("document.querySelector('[aria-selected=true] .n').textContent") == "255"
    assert page.eval(
        "document.querySelector('.list').getAttribute('aria-activedescendant')"
        " === document.querySelector('[aria-selected=true]').id"
    )
    page.press("Enter")
    assert page.until("document.querySelector('iframe').src").endswith("feature=255")
    page.press("/")
    assert page.eval("document.activeElement.type") == "search" and unharmed(page, shown)


def test_a_search_shows_what_the_tool_finds(page: Page, shown: Window) -> None:
    page.open(f"{shown.url}features")
    page.until(ROWS)
    page.eval("document.querySelectorAll('select')[2].value = 'token'")
    page.eval("document.querySelector('[type=search]').focus()")
    page.type("#210")
    page.press("Enter")
    page.until("document.body.innerText.includes('features by tokens')")
    page.until(ROWS)
    found = shown.call("find_features", sae=shown.sae, tokens=["#210"], k=50).json()["features"]
    first = page.eval("document.querySelector('[aria-posinset=\"1\"] .n').textContent")
    assert int(first) == found[0]["feature"]


def test_a_feature_s_neighbour_is_a_link_to_its_page(page: Page, shown: Window) -> None:
    page.open(f"{shown.url}page?sae={shown.sae}&feature=7")
    page.eval("document.querySelector('td a').click()")
    page.until("location.pathname.endsWith('/features') && document.querySelector('.row .what')")
    assert page.eval("document.querySelector('iframe').src").startswith(shown.url)


def test_a_text_is_coloured_by_a_feature_as_the_tool_says(page: Page, shown: Window) -> None:
    text = "The old man went to the sea"
    rows = shown.call("encode_text", sae=shown.sae, text=text, top_k=10).json()["tokens"]
    feature = rows[-1]["features"][0]["feature"]
    page.open(f"{shown.url}text")
    page.until("document.querySelector('textarea')")
    page.eval("document.querySelector('textarea').focus()")
    page.type(text)
    page.eval(f"document.querySelector('[type=number]').value = '{feature}'")
    page.eval("document.querySelector('form button').click()")
    page.until("document.querySelectorAll('.tokens button').length")
    assert page.eval("document.querySelectorAll('.tokens button').length") == len(rows)
    fires = [row for row in rows if any(each["feature"] == feature for each in row["features"])]
    assert page.eval("document.querySelectorAll('.tokens button[class^=a]').length") == len(fires)
    page.eval("[...document.querySelectorAll('.tokens button')].at(-1).focus()")
    listed = page.eval("[...document.querySelectorAll('.panel td a')].map((a) => +a.textContent)")
    assert listed == [each["feature"] for each in rows[-1]["features"]] and unharmed(page, shown)


def test_hostile_texts_are_shown_as_text(page: Page, shown: Window) -> None:
    page.open(f"{shown.url}text")
    page.until("document.querySelector('textarea')")
    page.eval("document.querySelector('textarea').focus()")
    page.type(HOSTILE)
    page.eval("document.querySelector('form button').click()")
    page.until("document.querySelectorAll('.tokens button').length")
    assert page.eval("document.querySelectorAll('main img, main script').length") == 0
    assert unharmed(page, shown)


def test_a_hostile_label_is_shown_as_text(page: Page, shown: Window) -> None:
    from saescope.features import LabelStore

    LabelStore().add(shown.state.saes[shown.sae].weights_hash, 2, HOSTILE, source="you")
    page.open(f"{shown.url}features?sae={shown.sae}&feature=2")
    page.until("document.body.innerText.includes('img src=x onerror=window.pwned=1')")
    page.until("document.querySelector('iframe').src.endsWith('feature=2')")
    assert page.eval("document.querySelectorAll('main img, main script').length") == 0
    shows = "(await import('./static/window.js')).visible('a\\u202eb\\n')"
    assert page.eval(f"(async () => {shows})()") == "a\u27e8U+202E\u27e9b\u21b5"
    assert unharmed(page, shown)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    "name", ["", "features", "text", "prediction", "steering", "trainings", "ledger"]
)
def test_each_view_is_readable_and_fits_a_narrow_window(
    page: Page, shown: Window, name: str, dark: bool
) -> None:
    try:
        page.look(dark=dark, width=340)
        page.open(shown.url + name)
        page.until("!document.querySelector('[aria-busy]') && document.querySelector('main > *')")
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.eval(wide) == 0
        unnamed = (
            "[...document.querySelectorAll('input, select, textarea')]"
            ".filter((each) => !each.labels.length).length"
        )
        assert page.eval(unnamed) == 0
        harness = Path(__file__).parents[2] / "core" / "render" / "harness.js"
        page.eval(f"(() => {{ {harness.read_text('utf-8')}; window.worst = worstContrast; }})()")
        worst = page.eval("window.worst(document)")
        assert worst["ratio"] >= 4.5, worst
    finally:
        page.look()
