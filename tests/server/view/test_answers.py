"""What the views do with answers, in a real Chromium: late ones, warnings, spikes, addresses of
results."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.core.render.browser import MARKS
from tests.server.helpers import PROMPT
from tests.server.view.chromium import Page, chromium
from tests.server.view.conftest import Window
from tests.server.view.test_views import fill, submit

from saescope.render import training_curves
from saescope.render.pictures import span_of
from saescope.render.svg import Line

pytestmark = MARKS
FIRST_IS_LATE = """
const asks = window.fetch;
let n = 0;
window.fetch = async (...given) => {
  const mine = n++, answer = await asks(...given);
  if (mine === 0) { await new Promise((done) => setTimeout(done, 1200)); window.late = true; }
  return answer;
};
"""
PLANTED = """
const asks = window.fetch;
window.fetch = async (...given) => {
  const answer = await asks(...given);
  if (!/call|load/.test(given[0])) return answer;
  const told = await answer.json();
  told.warnings = [...(told.warnings ?? []), "a planted warning"];
  return new Response(JSON.stringify(told), { status: answer.status });
};
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        opened.look()
        yield opened


def before_scripts(page: Page, url: str, script: str, ready: str) -> None:
    """Open a page in which `script` runs before its own scripts."""
    made = page.send("Page.addScriptToEvaluateOnNewDocument", source=script)
    try:
        page.open(url)
        page.until(ready)
    finally:
        page.send("Page.removeScriptToEvaluateOnNewDocument", identifier=made["identifier"])


def test_an_earlier_answer_that_comes_late_is_not_shown_as_the_later_one_s(
    page: Page, shown: Window
) -> None:
    page.open(f"{shown.url}text")
    page.until("document.querySelector('textarea')")
    page.eval(f"(() => {{ {FIRST_IS_LATE} }})()")
    for text in ("The old man went home", "A ship at sea"):
        page.eval("document.querySelector('textarea').value = ''")
        type_in(page, text)
        page.eval("document.querySelector('form button').click()")
    page.until("window.late && document.querySelectorAll('.tokens button').length")
    page.eval("new Promise((done) => setTimeout(done, 300))")
    assert "ship" in page.eval("document.querySelector('.tokens').textContent")
    assert page.eval("document.querySelectorAll('.tokens').length") == 1


def type_in(page: Page, text: str) -> None:
    page.eval("document.querySelector('textarea').focus()")
    page.type(text)


def test_a_search_that_comes_late_does_not_replace_the_newer_one(page: Page, shown: Window) -> None:
    page.open(f"{shown.url}features")
    page.until("document.querySelectorAll('.row .what').length > 3")
    page.eval("document.querySelectorAll('select')[2].value = 'token'")
    page.eval(f"(() => {{ {FIRST_IS_LATE} }})()")
    for token in ("#210", "#97"):
        page.eval(f"document.querySelector('[type=search]').value = '{token}'")
        page.eval("document.querySelector('form button').click()")
    page.until("window.late && document.querySelector('[role=status] .summary')")
    page.eval("new Promise((done) => setTimeout(done, 500))")
    found = shown.call("find_features", sae=shown.sae, tokens=["#97"], k=50).json()["features"]
    first = "document.querySelector('[aria-posinset=\"1\"] .n').textContent"
    assert int(page.eval(first)) == found[0]["feature"]


def test_what_is_said_of_a_result_is_what_it_was_asked_with(page: Page, shown: Window) -> None:
    page.open(f"{shown.url}steering?feature=7")
    fill(page, "Prompt", PROMPT)
    fill(page, "Tokens to generate", "8")
    submit(page)
    fill(page, "Feature", "9")
    fill(page, "Strength", "3")
    page.until("document.querySelectorAll('.beside h3').length >= 4")
    said = page.eval("document.querySelector('#main section p').textContent")
    assert said.startswith("Feature 7 at strength 1"), said


@pytest.mark.parametrize(
    ("path", "ready", "act", "done"),
    [
        ("", "main section", "1", "main section:nth-of-type(3) .warnings"),
        ("features", ".row .what", "submit('sea')", "[role=status] .warnings"),
        ("text", "textarea", "submit()", ".tokens"),
        ("prediction", "textarea", "submit()", "td a"),
        ("steering?feature=7", "textarea", "submit()", ".beside h3"),
        ("ledger", "ul.rows", "1", ".warnings"),
    ],
)
def test_each_view_shows_the_warnings_of_its_results(
    page: Page, shown: Window, path: str, ready: str, act: str, done: str
) -> None:
    before_scripts(page, shown.url + path, PLANTED, f"document.querySelector({json.dumps(ready)})")
    page.eval(
        "window.submit = (text = 'The old man') => {"
        "const field = document.querySelector('textarea, [type=search]'); field.value = text;"
        "const tokens = document.querySelector('[max=\"256\"]'); if (tokens) tokens.value = 8;"
        "document.querySelector('form button:last-of-type').click(); }"
    )
    page.eval(act)
    page.until(f"document.querySelector({json.dumps(done)})")
    page.until("!document.querySelector('[aria-busy]')")
    assert "a planted warning" in page.eval("document.querySelector('main').innerText")


def test_a_spike_is_marked_at_the_edge_and_the_rest_keeps_the_height(
    page: Page, shown: Window
) -> None:
    page.open(f"{shown.url}trainings")
    page.until("document.querySelector('h2')")
    drawn = """(async () => {
      const { chart } = await import('./static/chart.js');
      const points = [...Array(200)].map((_, at) => [at, at === 90 ? 5000 : 2 + Math.sin(at)]);
      const made = chart('loss', 'Loss', [{ name: 'run', points }]);
      document.querySelector('main').append(made);
      await new Promise((done) => setTimeout(done, 200));
      const ys = [...made.querySelector('path.one:not(.spike)').getAttribute('d')
        .matchAll(/[ML][^ ]+ ([0-9.]+)/g)].map((found) => Number(found[1])).sort((a, b) => a - b);
      return [ys.at(-1) - ys[1], made.querySelector('svg').viewBox.baseVal.height,
        [...made.querySelectorAll('path.spike title')].map((each) => each.textContent),
        made.querySelector('figcaption').textContent];
    })()"""
    height, whole, spikes, said = page.eval(drawn)
    assert height > 0.8 * (whole - 42), (height, whole)
    assert spikes == ["5,000 at step 90"] and "One point lies outside" in said


STEEP = [500.0 if at == 120 else 10 * math.exp(-at / 8) + 1 for at in range(200)]
"""A steep start, and long after it a spike."""
CURVES = {
    "steep": [STEEP],
    "two": [STEEP, [2 + math.sin(at) for at in range(90)]],
    "down": [[-40.0 if at == 7 else 0.5 + at / 100 for at in range(16)]],
    "short": [[3.0, 1.0, 2.0]],
    "one": [[4.0]],
    "level": [[0.0] * 30],
    "low": [[1e-9 * at for at in range(50)]],
}


@pytest.mark.parametrize("curves", CURVES.values(), ids=CURVES)
def test_the_window_and_the_pictures_have_one_rule_for_what_an_axis_shows(
    page: Page, shown: Window, curves: list[list[float]]
) -> None:
    if page.eval("location.protocol") == "about:":
        page.open(f"{shown.url}trainings")
    series = [{"points": [[*point] for point in enumerate(values)]} for values in curves]
    lines = [Line("", [*enumerate(values)]) for values in curves]
    for name in ("loss", "explained_variance", "dead_share", "l0", "lr"):
        asks = f"spanOf({json.dumps(name)}, {json.dumps(series)})"
        drawn = page.eval(f"import('./static/chart.js').then(({{ spanOf }}) => {asks})")
        assert drawn == pytest.approx([*span_of(name, lines)], rel=1e-9), name


def test_a_spike_after_a_steep_start_is_marked_in_the_window_as_in_the_picture(
    page: Page, shown: Window
) -> None:
    page.open(f"{shown.url}trainings")
    page.until("document.querySelector('h2')")
    points = [[*point] for point in enumerate(STEEP)]
    marks, curve = page.eval(f"""(async () => {{
      const {{ chart }} = await import('./static/chart.js');
      const made = chart('loss', 'Loss', [{{ name: 'run', points: {json.dumps(points)} }}]);
      document.querySelector('main').append(made);
      await new Promise((done) => setTimeout(done, 200));
      return [[...made.querySelectorAll('path.spike title')].map((each) => each.textContent),
        made.querySelector('path.one:not(.spike)').getAttribute('d')];
    }})()""")
    picture = training_curves([{"step": step, "loss": value} for step, value in points])
    assert "500 at step 120" in marks and "<title>500 at 120</title>" in picture
    (path,) = re.findall(r'<path class="curve one" d="([^"]+)"', picture)
    for drawn, whole in ((curve, 260 - 14 - 28), (path, 118 - 24 - 32)):
        heights = [float(each) for each in re.findall(r"[ML][^ ]+ ([0-9.]+)", drawn)]
        assert max(heights[5:120]) - min(heights[5:120]) > 0.6 * whole  # the start is no line


def test_the_address_of_a_result_leads_to_it_in_a_browser_that_has_opened_the_window(
    page: Page, shown: Window, tmp_path: Path
) -> None:
    done = shown.call("encode_text", sae=shown.sae, text=PROMPT).json()
    page.open(shown.url)
    page.until("document.querySelector('h2')")
    page.open(done["url"])
    page.until(f"document.body.innerText.includes('Result {done['result_id']}')")
    assert page.eval("location.pathname").endswith("/ledger")
    with chromium(tmp_path) as stranger:
        stranger.open(done["url"])
        stranger.eval("new Promise((done) => setTimeout(done, 500))")
        assert stranger.eval("document.querySelector('h1').textContent") == "Open the window first"
        assert stranger.eval("location.pathname") == f"/r/{done['result_id']}"


def test_a_claim_shows_its_verdict_and_leads_to_what_it_was_checked_against(
    page: Page, shown: Window
) -> None:
    rests = shown.call("attribute_logit", sae=shown.sae, prompt=PROMPT).json()
    row = next(each for each in rests["features"] if each["attribution"] > 0)
    given = {
        "text": f"Feature {row['feature']} is known to cause the token.",
        "feature": row["feature"],
        "effect": rests["target"]["token"],
        "direction": "raises",
        "level": "controlled",
        "results": [rests["result_id"]],
    }
    claim = shown.call("claim", **given, response_format="detailed").json()
    found = shown.post("call/results", {"tool": "claim", "limit": 1}).json()["results"]
    kept = found[0]["result_id"]
    page.open(f"{shown.url}ledger?result={kept}")
    page.until("document.querySelector('.claim')")
    told = page.eval("document.querySelector('.claim').innerText")
    assert claim["verdict"] in told and claim["verdict"] in ("lowered", "refused")
    assert all(reason.split("'")[0] in told for reason in claim["reasons"])
    linked = page.eval("[...document.querySelectorAll('.claim td a')].map((a) => a.textContent)")
    assert linked == [each["result_id"] for each in (*claim["checks"], *claim["contradicting"])]


def test_a_claim_is_checked_from_a_result_in_the_window(page: Page, shown: Window) -> None:
    rests = shown.call("attribute_logit", sae=shown.sae, prompt=PROMPT).json()
    row = next(each for each in rests["features"] if each["attribution"] > 0)
    page.open(f"{shown.url}ledger?result={rests['result_id']}")
    page.until("document.querySelector('details')")
    page.eval("document.querySelector('details').open = true")
    fill(page, "Sentence", f"Feature {row['feature']} goes with the token.")
    fill(page, "Feature", str(row["feature"]))
    fill(page, "the token", rests["target"]["token"])
    page.eval("document.querySelector('details form button').click()")
    page.until("document.querySelector('details .claim .badge')")
    verdict = page.eval("document.querySelector('details .badge').textContent")
    assert verdict in ("stands", "lowered", "refused")
    checked = page.eval("[...document.querySelectorAll('.claim td a')].map((a) => a.textContent)")
    assert checked[0] == rests["result_id"]


def test_a_long_text_comes_in_pages(page: Page, shown: Window) -> None:
    texts = (" ".join([PROMPT] * n) for n in range(40, 1, -1))
    told = ((each, shown.call("encode_text", sae=shown.sae, text=each).json()) for each in texts)
    text, done = next((each, done) for each, done in told if "total" in done)
    total = done["total"]
    assert 100 < total < 128  # the model reads no more
    page.open(f"{shown.url}text")
    page.until("document.querySelector('textarea')")
    type_in(page, text)
    page.eval("document.querySelector('form button').click()")
    onward = "[...document.querySelectorAll('button')].find((b) => /Next/.test(b.textContent))"
    page.until(f"{onward} && !document.querySelector('[aria-busy]')")
    first = page.eval("document.querySelectorAll('.tokens button').length")
    assert 40 < first <= 100  # as many as fit a reply
    assert f"{first} of {total} tokens are shown" in page.eval("document.body.innerText")
    for _ in range(3):
        page.eval(f"{onward}?.click()")
        page.eval("new Promise((done) => setTimeout(done, 700))")
    page.until(f"document.querySelectorAll('.tokens button').length === {total}")
    assert not page.eval(f"Boolean({onward})")
    assert "Kept as" in page.eval("document.querySelector('main').innerText")


def test_a_feature_that_fires_nowhere_on_a_text_is_said_to(page: Page, shown: Window) -> None:
    asked = {"sae": shown.sae, "text": PROMPT, "response_format": "concise"}
    silent = next(
        feature
        for feature in range(256)
        if not shown.call("encode_text", **asked, features=[feature]).json().get("places")
    )
    page.open(f"{shown.url}text?feature={silent}")
    page.until("document.querySelector('textarea')")
    type_in(page, PROMPT)
    page.eval("document.querySelector('form button').click()")
    page.until("document.querySelectorAll('.tokens button').length")
    assert "it does not fire on this text" in page.eval("document.querySelector('main').innerText")
