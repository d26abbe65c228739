"""The window by Chromium's accessibility tree: all that acts has a name, pictures have words,
headings are in order, and what changes by itself is told."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import anyio
import pytest
from tests.core.render.browser import MARKS
from tests.core.render.test_graph_browser import GRAPH
from tests.server.helpers import HOOK, PROMPT, call
from tests.server.test_train import SMALL
from tests.server.view.chromium import Page, chromium
from tests.server.view.conftest import Window
from tests.server.view.screen_reader import faults, told
from tests.server.view.test_views import fill, submit

from saescope.render import graph_page
from saescope_mcp.state import AppState

pytestmark = MARKS


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        opened.look()
        yield opened


def test_what_a_reader_could_not_name_is_found(page: Page) -> None:
    page.eval(
        "document.body.innerHTML = '<h2>a</h2><button></button><button>b</button><h4>c</h4>"
        "<div role=img></div><input><button aria-hidden=true></button>'"
    )
    assert sorted(faults(page)) == [
        "a heading of level 4 after one of 2",
        "button without a name",
        "image without a name",
        "textbox without a name",
        "the first heading has the level [2]",
    ]


def loaded(page: Page, url: str) -> None:
    page.open(url)
    page.until("!document.querySelector('[aria-busy]') && document.querySelector('main > *')")


@pytest.mark.parametrize(
    "name", ["", "features", "text", "prediction", "steering", "trainings", "ledger"]
)
def test_each_view_can_be_heard_before_anything_is_asked(
    page: Page, shown: Window, name: str
) -> None:
    loaded(page, shown.url + name)
    assert faults(page) == []
    assert any(each.live == "polite" for each in told(page))


def test_a_feature_s_page_can_be_heard_in_the_list_and_alone(page: Page, shown: Window) -> None:
    loaded(page, f"{shown.url}features?sae={shown.sae}&feature=7")
    page.until("document.querySelector('iframe').src && document.querySelector('.row .what')")
    nodes = told(page)
    assert faults(page) == [] and ("Iframe", "The page of feature 7") in {n[:2] for n in nodes}
    assert any(each.role == "option" and each.name.startswith("7 ") for each in nodes)
    page.open(f"{shown.url}page?sae={shown.sae}&feature=7")
    assert faults(page) == []


def test_the_tokens_of_a_text_and_their_features_can_be_heard(page: Page, shown: Window) -> None:
    loaded(page, f"{shown.url}text?text=The+old+man")
    page.until("document.querySelectorAll('.tokens button').length")
    page.eval("document.querySelector('.tokens button').focus()")
    page.until("document.querySelector('.panel table')")
    assert faults(page) == []


def test_a_prediction_can_be_heard(page: Page, shown: Window) -> None:
    loaded(page, f"{shown.url}prediction")
    fill(page, "Prompt", PROMPT)
    submit(page)
    page.until("document.querySelector('td a')")
    page.until("!document.querySelector('[aria-busy]')")
    assert (
        faults(page) == [] and page.eval("document.getElementById('said').textContent") == "Done."
    )


def test_a_circuit_can_be_heard(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "graph.html"
    file.write_text(graph_page(asdict(GRAPH), reading="Dogs."), encoding="utf-8")
    page.open(file.as_uri())
    page.until("document.querySelector('.node')")
    page.eval("document.querySelector('.node').dispatchEvent(new MouseEvent('click'))")
    assert faults(page) == []


@pytest.mark.parametrize("strengths", ["1", "0.5 2"])
def test_steered_texts_can_be_heard(page: Page, shown: Window, strengths: str) -> None:
    loaded(page, f"{shown.url}steering?feature=7")
    fill(page, "Prompt", PROMPT)
    fill(page, "Tokens to generate", "6")
    fill(page, "Strength, or several", strengths)
    submit(page)
    page.until("document.querySelector('.beside h3')")
    assert faults(page) == []


def test_trainings_have_their_curves_in_words_and_tell_of_a_new_state(
    page: Page, shown: Window, glass_dir: Path
) -> None:
    state = AppState(shown.state.settings)
    where = {"model": str(glass_dir), "hook_name": HOOK, "wait_s": 50.0, "name": "heard"}
    run = anyio.run(partial(call, state, "train_sae", **where, **SMALL))["job_id"]
    state.close()
    loaded(page, f"{shown.url}trainings?job={run}")
    page.until("document.querySelectorAll('svg.chart').length >= 3")
    pictures = [each.name for each in told(page) if each.role == "image"]
    assert faults(page) == []
    assert len(pictures) == 6 and pictures[0].startswith("Explained variance. heard: 0.")
    assert page.until("document.getElementById('said').textContent").startswith("heard: ")


def test_a_kept_result_can_be_heard(page: Page, shown: Window) -> None:
    done = shown.call("attribute_logit", sae=shown.sae, prompt=PROMPT).json()
    loaded(page, f"{shown.url}ledger?result={done['result_id']}")
    page.until(f"document.body.innerText.includes('Result {done['result_id']}')")
    page.eval("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert faults(page) == []


def test_what_cannot_be_done_is_told_at_once(page: Page, shown: Window) -> None:
    loaded(page, f"{shown.url}prediction")
    fill(page, "Prompt", PROMPT)
    fill(page, "Predicted token", "two words here")
    submit(page)
    page.until("document.querySelector('.refused')")
    assert any(each.role == "alert" and each.live == "assertive" for each in told(page))
    assert faults(page) == []
