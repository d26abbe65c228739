"""The views on predictions, steering, trainings and kept results, and a list of 100,000 features,
in a real Chromium."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import httpx
import pytest
from tests.core.render.browser import MARKS
from tests.server.helpers import HOOK, PROMPT, call
from tests.server.test_train import SMALL
from tests.server.view.chromium import Page, chromium
from tests.server.view.conftest import Window, remember, showing
from tests.server.workers import installed

from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

pytestmark = MARKS
N_MANY = 100_000
FRAMES = """window.frames_ = []; (() => {
  let last = performance.now();
  const next = (now) => {
    window.frames_.push(now - last);
    last = now;
    requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        opened.look()
        yield opened


def fill(page: Page, label: str, text: str) -> None:
    """Type into the field of this label."""
    fields = "[...document.querySelectorAll('.field')]"
    field = f"{fields}.find((each) => each.textContent.includes('{label}'))"
    page.until(field)
    page.eval(f"{field}.lastElementChild.focus(), {field}.lastElementChild.select()")
    page.type(text)


def submit(page: Page) -> None:
    page.eval("document.querySelector('form button:last-of-type').click()")


def test_a_prediction_is_explained_with_measured_effects_beside_controls(
    page: Page, shown: Window
) -> None:
    done = shown.call("attribute_logit", sae=shown.sae, prompt=PROMPT).json()
    page.open(f"{shown.url}prediction")
    fill(page, "Prompt", PROMPT)
    submit(page)
    page.until("document.querySelector('td a')")
    listed = page.eval("[...document.querySelectorAll('td a')].map((a) => +a.textContent)")
    assert listed == [row["feature"] for row in done["features"]]
    bars = page.eval("document.querySelectorAll('.bar .measured').length")
    assert bars == len(listed) and "random pairs take" in page.eval("document.body.innerText")
    assert page.complaints() == []


def test_a_steered_text_stands_beside_the_plain_one_and_controls(page: Page, shown: Window) -> None:
    page.open(f"{shown.url}steering?feature=7")
    fill(page, "Prompt", PROMPT)
    fill(page, "Tokens to generate", "8")
    submit(page)
    page.until("document.querySelectorAll('.beside h3').length >= 4")
    heads = page.eval("[...document.querySelectorAll('.beside h3')].map((h) => h.textContent)")
    assert [head.split(" ")[0] for head in heads] == ["Plain", "Steered", "Control", "Control"]
    edit = [{"feature": 7, "strength": 1}]
    given = {"sae": shown.sae, "prompt": PROMPT, "max_new_tokens": 8, "features": edit}
    done = shown.call("steer_generate", **given).json()
    texts = page.eval("[...document.querySelectorAll('.text-out')].map((p) => p.textContent)")
    assert texts[:2] == [done["baseline"]["text"], done["steered"][0]["text"]]


def test_a_slider_goes_over_strengths(page: Page, shown: Window) -> None:
    page.open(f"{shown.url}steering?feature=7")
    fill(page, "Prompt", PROMPT)
    fill(page, "Tokens to generate", "8")
    fill(page, "Strength", "0.5 2")
    submit(page)
    page.until("document.querySelector('[type=range]')")
    assert "Strength 0.5" in page.eval("document.querySelector('.beside').textContent")
    slide = "(s) => { s.value = '1'; s.dispatchEvent(new Event('input')); }"
    page.eval(f"({slide})(document.querySelector('[type=range]'))")
    assert "Strength 2" in page.eval("document.querySelector('.beside').textContent")


def test_two_trainings_are_drawn_over_each_other(
    page: Page, shown: Window, glass_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch)
    state = AppState(shown.state.settings)
    where = {"model": str(glass_dir), "hook_name": HOOK, "wait_s": 50.0}
    names = ("one", "two")
    runs = [
        anyio.run(partial(call, state, "train_sae", **where, **SMALL, name=name))["job_id"]
        for name in names
    ]
    state.close()
    page.open(f"{shown.url}trainings?job={runs[0]}&beside={runs[1]}")
    page.until("document.querySelectorAll('svg.chart').length >= 3")
    page.until("document.querySelectorAll('svg.chart path.two').length >= 3")
    said = page.eval("document.querySelector('svg.chart').getAttribute('aria-label')")
    assert said.startswith("Explained variance.") and all(f"{name}: " in said for name in names)
    latest = shown.call("job_status", job_id=runs[0], response_format="detailed").json()
    drawn = re.search(rf"{names[0]}: (-?[\d.]+) at step 16", said)
    value = latest["metrics"]["latest"]["explained_variance"]
    assert drawn and abs(float(drawn[1]) - value) < 1e-3, (said, value)
    assert page.complaints() == []


def test_a_kept_result_is_found_shown_and_put_into_an_investigation(
    page: Page, shown: Window
) -> None:
    done = shown.call("encode_text", sae=shown.sae, text=PROMPT).json()
    page.open(f"{shown.url}ledger")
    row = f"""document.querySelector('ul.rows li a[href*="{done["result_id"]}"]')"""
    page.until(row)
    page.eval(f"{row}.click()")
    page.until(f"document.body.innerText.includes('Result {done['result_id']}')")
    page.until("document.querySelectorAll('pre').length === 2")
    page.until("!document.querySelector('[aria-busy]')")
    assert PROMPT in page.eval("document.querySelector('pre').textContent")
    fill(page, "Put it into the investigation", "the-sea")
    page.eval("document.querySelector('section form button').click()")
    page.until("document.body.innerText.includes('Investigation the-sea: 1 result')")
    kept = shown.call("results", investigation="the-sea").json()
    assert [row["result_id"] for row in kept["results"]] == [done["result_id"]]


@pytest.fixture(scope="module")
def many(
    glass_dir: Path, glass: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Window]:
    """A window on an SAE of 100,000 features."""
    import torch

    from saescope.saes import SAEMetadata, TopKConfig, TopKSAE

    folder = tmp_path_factory.mktemp("many")
    W_dec = torch.nn.functional.normalize(torch.randn(N_MANY, 128), dim=-1)
    zeros = {"b_enc": torch.zeros(N_MANY), "b_dec": torch.zeros(128)}
    tensors = {"W_enc": W_dec.T.contiguous(), "W_dec": W_dec, **zeros}
    cfg = TopKConfig(d_in=128, d_sae=N_MANY, k=8, metadata=SAEMetadata(hook_name=HOOK))
    path = TopKSAE(cfg, tensors).save(folder / "sae")
    state = AppState(Settings(read_roots=(folder, glass_dir.parent), offline=True))
    with showing(state) as window:
        yield window._replace(sae=window.load(remember(path, glass_dir, HOOK)))
    state.close()


def test_in_a_list_of_a_hundred_thousand_features_no_frame_takes_long(
    page: Page, many: Window
) -> None:
    assert httpx.get(f"{many.url}list", params={"sae": many.sae}).json()["total"] == N_MANY
    page.open(f"{many.url}features")
    page.until("document.querySelectorAll('.row .what').length > 3")
    page.eval(FRAMES)
    box = page.eval("document.querySelector('.list').getBoundingClientRect().toJSON()")
    at = {"x": box["x"] + 50, "y": box["y"] + 50}
    wheel = {"type": "mouseWheel", **at, "deltaX": 0, "deltaY": 900}
    rounds = list[float]()
    for _ in range(3):
        page.eval("window.frames_ = []")
        for _ in range(25):
            page.send("Input.dispatchMouseEvent", **wheel)
        for share in (0.1, 0.9, 0.3):
            page.eval(f"document.querySelector('.list').scrollTop = {share * 44 * N_MANY}")
            page.eval("new Promise((done) => setTimeout(done, 150))")
        rounds.append(max(page.eval("window.frames_")))
    assert page.eval("window.frames_.length") > 10
    assert min(rounds) < 100, rounds
    assert page.eval("document.querySelectorAll('.row').length") < 100
    page.eval("document.querySelector('.list').focus()")
    page.press("End")
    page.until("document.querySelector('[aria-selected=true] .what')")
    last = page.eval("document.querySelector('[aria-selected=true] .n').textContent")
    assert last == str(N_MANY - 1)


def test_the_first_paint_of_a_list_of_a_hundred_thousand_comes_within_300_ms(
    page: Page, many: Window
) -> None:
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    times = list[float]()
    for _ in range(3):
        page.open(f"{many.url}features")
        times.append(page.until(paint))
    assert min(times) < 300, times
