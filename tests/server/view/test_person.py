"""What a person wants of the window, from an empty home to last week's training, in a real
Chromium: by the mouse and the keyboard alone."""

import time
from functools import partial
from pathlib import Path

import anyio
import pytest
from tests.core.render.browser import MARKS
from tests.server.helpers import HOOK, call
from tests.server.test_train import SMALL
from tests.server.view.chromium import Page, chromium
from tests.server.view.conftest import Window, showing
from tests.server.view.test_views import fill, submit

from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

pytestmark = [*MARKS, pytest.mark.thorough, pytest.mark.model, pytest.mark.timeout(900)]
TEXT = "The old man went down to the sea, and the ship sailed away over the waves."
WEEK_S = 7 * 24 * 3600


def wait(page: Page, condition: str) -> None:
    """As `until`, for what takes long on a busy machine."""
    for _ in range(15):
        try:
            page.until(condition)
            return
        except AssertionError:
            continue
    page.until(condition)


def click(page: Page, text: str) -> None:
    """The button or the link with this text."""
    found = f"[...document.querySelectorAll('button, a')].find((e) => e.textContent === '{text}')"
    wait(page, f"{found} && !{found}.hidden")
    page.eval(f"{found}.click()")


def load_and_find_the_sea(page: Page, window: Window) -> int:
    click(page, "Load\u2026")
    click(page, "Load it")
    click(page, "browse")
    wait(page, "document.querySelectorAll('.row .what').length > 3")
    page.eval("document.querySelectorAll('select')[2].value = 'token'")
    page.press("/")
    page.type(" sea")
    page.press("Enter")
    wait(page, "document.querySelector('[role=status] .summary')")
    page.press("ArrowDown")
    assert page.eval("document.activeElement.getAttribute('role')") == "listbox"
    page.until("document.querySelector('[aria-posinset=\"1\"] .what')")
    page.press("Enter")
    wait(page, "document.querySelector('iframe').src.includes('feature=')")
    shown = int(
        page.eval("new URL(document.querySelector('iframe').src).searchParams.get('feature')")
    )
    kept = window.post("call/results", {"tool": "find_features", "limit": 1}).json()["results"]
    whole = {"result_id": kept[0]["result_id"], "response_format": "detailed"}
    found = window.call("results", **whole).json()["document"]["features"]
    assert shown == found[0]["feature"]
    return shown


def see_it_on_my_text(page: Page, window: Window, feature: int) -> None:
    click(page, "see it on a text")
    fill(page, "Text", TEXT)
    submit(page)
    wait(page, "document.querySelectorAll('.tokens button').length")
    sae = next(iter(window.state.saes))
    asked = {"sae": sae, "text": TEXT, "features": [feature]}
    places = window.call("encode_text", **asked).json().get("places", [])
    coloured = page.eval("document.querySelectorAll('.tokens button[class^=a]').length")
    assert coloured == len(places)


def steer_with_it(page: Page, feature: int) -> None:
    click(page, "steer with it")
    fill(page, "Prompt", "I went to the")
    fill(page, "Tokens to generate", "6")
    fill(page, "Tokens of the concept", " sea")
    submit(page)
    wait(page, "document.querySelectorAll('.beside h3').length >= 4")
    said = page.eval("document.querySelector('#main section p').textContent")
    assert said.startswith(f"Feature {feature} at strength 1: ") and "no verdict" not in said
    assert "Kept as" in page.eval("document.querySelector('main').innerText")


def see_last_week_s_training(page: Page, job_id: str, day: str) -> None:
    click(page, "Trainings")
    wait(page, f"[...document.querySelectorAll('option')].some((o) => o.text.startsWith('{day}'))")
    page.eval(
        "(() => { const select = document.querySelector('select');"
        f"select.value = [...select.options].find((o) => o.text.startsWith('{day}')).value;"
        "select.dispatchEvent(new Event('change')); })()"
    )
    wait(page, "document.querySelectorAll('svg.chart path.one').length >= 3")
    assert page.eval("document.querySelector('select').value") == job_id


def test_a_person_finds_the_sea_sees_it_steers_with_it_and_sees_last_week_s_training(
    own_home: Path, tmp_path: Path, glass_dir: Path, embedded_sae: object
) -> None:
    state = AppState(Settings(offline=True, read_roots=(glass_dir.parent,)))
    train = {**SMALL, "model": str(glass_dir), "hook_name": HOOK, "wait_s": 50.0, "name": "old"}
    job_id = anyio.run(partial(call, AppState(state.settings), "train_sae", **train))["job_id"]
    state.runs.table.update(job_id, created=time.time() - WEEK_S)
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - WEEK_S))
    with showing(state) as window, chromium(tmp_path) as page:
        page.look()
        page.open(window.url)
        feature = load_and_find_the_sea(page, window)
        see_it_on_my_text(page, window, feature)
        page.eval("history.back()")
        steer_with_it(page, feature)
        see_last_week_s_training(page, job_id, day)
        assert page.complaints() == []
        assert page.asked_hosts() <= {window.origin, "about:blank"}
    state.close()
