"""The app of results in a real Chromium: what a server's own calls return, through the protocol of
MCP Apps."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from mcp import Client
from tests.core.render.browser import MARKS
from tests.server.helpers import HOOK, PROMPT
from tests.server.test_train import SMALL
from tests.server.view.chromium import Page, chromium
from tests.server.view.screen_reader import faults, told

from saescope_mcp.app import build_server
from saescope_mcp.state import AppState

pytestmark = MARKS
HERE = Path(__file__).parent
HOSTILE = "<img src=x onerror=parent.pwned=1><script>parent.pwned=1</script>\u202e </div>"
EDIT = [{"feature": 7, "mode": "add", "strength": 2}]
STEER = {"prompt": PROMPT, "features": [{"feature": 7}], "max_new_tokens": 6}
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("encode_text", {"text": PROMPT}),
    "texts": ("encode_text", {"texts": [PROMPT, "The sea"]}),
    "prediction": ("attribute_logit", {"prompt": PROMPT, "k": 5}),
    "edit": ("intervene", {"prompt": PROMPT, "edits": EDIT}),
    "edit of prompts": ("intervene", {"prompts": [PROMPT, "The sea"], "edits": EDIT}),
    "steering": ("steer_generate", STEER),
    "strengths": ("steer_generate", {**STEER, "strengths": [0.5, 2], "concept_tokens": ["#210"]}),
}
SAYS = {
    "text": ["Coloured by the strongest feature", "Point at a token"],
    "texts": ["text 1", "text 2"],
    "prediction": ["Predicted:", "measured by ablation", "random pairs take"],
    "edit": ["Feature 7 at strength 2", "random features edited alike", "Before", "After"],
    "edit of prompts": ["Feature 7 at strength 2", "as a bar"],
    "steering": ["Plain", "Steered", "Control 2", "perplexity"],
    "strengths": ["Strength 0.5", "Plain", "Feature 7"],
}


class Sent(NamedTuple):
    """A call's arguments and what a client gets for it."""

    given: dict[str, Any]
    result: dict[str, Any]


class Shown(NamedTuple):
    """The app and what it is shown, each as a client of this state's server has it."""

    app: str
    home: Path
    state: AppState
    calls: dict[str, Sent]


async def sent(state: AppState, tool: str, given: dict[str, Any]) -> Sent:
    async with Client(build_server(state=state)) as client:
        result = await client.call_tool(tool, given)
    return Sent(given, result.model_dump(mode="json", by_alias=True, exclude_none=True))


async def collected(state: AppState, home: Path, train: dict[str, Any]) -> Shown:
    sae = next(iter(state.saes))
    async with Client(build_server(state=state)) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        uri = (tools["attribute_logit"].meta or {})["ui"]["resourceUri"]
        (page,) = (await client.read_resource(uri)).contents
    calls = {
        name: await sent(state, tool, {"sae": sae, **given})
        for name, (tool, given) in CALLS.items()
    }
    trainer = AppState(state.settings)
    calls["training"] = await sent(trainer, "train_sae", train)
    calls["beside"] = await sent(trainer, "train_sae", {**train, "seed": 1})
    trainer.close()
    return Shown(page.model_dump()["text"], home, state, calls)


@pytest.fixture(scope="module")
def apps(tiny: AppState, glass_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    train = {**SMALL, "model": str(glass_dir), "hook_name": HOOK, "wait_s": 50.0}
    home = tmp_path_factory.mktemp("apps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAESCOPE_HOME", str(home))
        return anyio.run(partial(collected, tiny, home, train))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        opened.look()
        opened.eval((HERE / "host.js").read_text("utf-8"))
        opened.eval((HERE.parents[1] / "core" / "render" / "harness.js").read_text("utf-8"))
        yield opened


def show(page: Page, app: str, what: Sent, **more: Any) -> None:
    """Hand the app a result; without `abilities` the host can only show it."""
    shown = {**what._asdict(), "theme": "light", "abilities": {}, "width": 900, **more}
    page.eval(f"host.show({json.dumps(app)}, {json.dumps(shown)})")
    page.until("host.page().querySelector('main > *') || host.page().getElementById('status')")
    page.until("host.messages.some((each) => each.method === 'ui/notifications/initialized')")
    page.until("!host.page().body.innerText.includes('Waiting for the result')")


def text(page: Page) -> str:
    return page.eval("host.page().body.innerText")


def test_each_tool_with_a_view_names_the_app(apps: Shown) -> None:
    async def listed() -> dict[str, Any]:
        async with Client(build_server(state=apps.state)) as client:
            tools = (await client.list_tools()).tools
        return {tool.name: tool.meta for tool in tools if tool.meta}

    shown = {
        "encode_text",
        "attribute_logit",
        "intervene",
        "steer_generate",
        "train_sae",
        "job_status",
    }
    assert {*anyio.run(listed)} == shown | {"describe_feature", "trace_circuit"}


@pytest.mark.parametrize("name", CALLS)
def test_a_result_is_drawn_with_its_numbers(page: Page, apps: Shown, name: str) -> None:
    show(page, apps.app, apps.calls[name])
    said = text(page)
    assert all(each in said for each in SAYS[name]), said
    assert apps.calls[name].result["structuredContent"]["summary"][:60] in said.replace(
        "\u2423", " "
    )


def test_a_text_shows_the_features_of_a_token_and_is_coloured_by_one(
    page: Page, apps: Shown
) -> None:
    show(page, apps.app, apps.calls["text"])
    rows = apps.calls["text"].result["structuredContent"]["tokens"]
    buttons = "[...host.page().querySelectorAll('.tokens button')]"
    heats = page.eval(f"{buttons}.map((each) => each.title)")
    assert [float(heat or 0) for heat in heats] == pytest.approx(
        [row["features"][0]["activation"] if row["features"] else 0 for row in rows], rel=5e-3
    )
    last = len(rows) - 1
    page.eval(f"{buttons}[{last}].focus()")
    listed = page.eval(
        "[...host.page().querySelectorAll('.panel tbody tr')].map((r) => r.cells[0].textContent)"
    )
    assert listed == [str(each["feature"]) for each in rows[last]["features"]]
    page.eval("host.page().querySelector('.panel tbody button').click()")
    chosen = rows[last]["features"][0]["feature"]
    assert f"Coloured by feature {chosen}" in text(page)
    lit = page.eval(f"{buttons}.map((each) => each.title !== '')")
    fires = [any(each["feature"] == chosen for each in row["features"]) for row in rows]
    assert lit == fires and any(fires)


def test_a_prediction_has_a_row_for_each_pair_with_both_bars(page: Page, apps: Shown) -> None:
    show(page, apps.app, apps.calls["prediction"])
    rows = apps.calls["prediction"].result["structuredContent"]["features"]
    table = "[...host.page().querySelectorAll('tbody tr')]"
    listed = page.eval(f"{table}.map((row) => [...row.cells].slice(0, 1)[0].textContent)")
    assert listed == [str(row["feature"]) for row in rows]
    width = "(bar) => Number(bar.getAttribute('width'))"
    widths = page.eval(f"{table}.map((row) => [...row.querySelectorAll('rect')].map({width}))")
    values = [[abs(row["attribution"]), abs(row["measured_effect"])] for row in rows]
    top = max(max(each) for each in values)
    for drawn, value in zip(widths, values, strict=True):
        assert drawn == pytest.approx([100 * each / top for each in value], rel=1e-6)
    assert page.eval("host.page().querySelectorAll('a').length") == 0  # an app has no pages


def test_a_slider_goes_over_the_strengths(page: Page, apps: Shown) -> None:
    show(page, apps.app, apps.calls["strengths"])
    page.eval(
        "(() => { const s = host.page().querySelector('[type=range]');"
        "s.value = '1'; s.dispatchEvent(new Event('input')); })()"
    )
    rows = apps.calls["strengths"].result["structuredContent"]["table"]
    assert page.eval("host.page().querySelectorAll('.text-out')[1].textContent") == rows[1]["text"]
    assert "Strength 2" in text(page)


def answered(page: Page, apps: Shown) -> dict[str, Any]:
    """What the app asks of the server next, answered by the server."""
    page.until("host.wanted.length")
    asked = page.eval("host.wanted.shift()")
    params = asked["params"]
    result = anyio.run(partial(sent, apps.state, params["name"], params["arguments"])).result
    page.eval(f"host.answer({asked['id']}, {json.dumps(result)})")
    return params


def test_a_training_is_drawn_with_another_over_it(
    page: Page, apps: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAESCOPE_HOME", str(apps.home))
    one, other = (
        apps.calls[name].result["structuredContent"]["job_id"] for name in ("training", "beside")
    )
    given = {"job_id": one, "over": other, "picture": True}
    status = anyio.run(partial(sent, apps.state, "job_status", given))
    show(page, apps.app, status, abilities={"serverTools": {}})
    asked = [answered(page, apps) for _ in range(2)]
    assert [each["arguments"]["job_id"] for each in asked] == [other, one]
    page.until("host.page().querySelectorAll('svg.chart path.two').length >= 4")
    names = page.eval(
        "[...host.page().querySelectorAll('figcaption strong')].map((n) => n.textContent)"
    )
    assert names[0] == "Explained variance" and "Learning rate" in names and len(names) == 5
    latest = anyio.run(
        partial(sent, apps.state, "job_status", {"job_id": one, "response_format": "detailed"})
    ).result["structuredContent"]["metrics"]["latest"]
    said = page.eval("host.page().querySelector('svg.chart').getAttribute('aria-label')")
    value = float(f"{latest['explained_variance']:.3g}")
    assert f"{one}: {value:g} at step 16" in said
    assert page.eval("host.page().getElementById('status').textContent") == "The job is done."
    assert faults(page, framed=True) == []
    page.eval("new Promise((done) => setTimeout(done, 300))")
    assert page.eval("host.wanted.length") == 0  # nothing is asked of a run that has ended


def test_a_host_that_can_only_show_has_what_the_result_says(page: Page, apps: Shown) -> None:
    show(page, apps.app, apps.calls["training"])
    assert "is trained" in text(page) and page.eval("host.wanted.length") == 0


def test_a_refusal_is_shown_as_text(page: Page, apps: Shown) -> None:
    refused = anyio.run(
        partial(sent, apps.state, "attribute_logit", {"sae": HOSTILE, "prompt": "a"})
    )
    assert refused.result["isError"]
    show(page, apps.app, refused)
    assert "onerror=parent.pwned=1" in text(page) and page.eval("window.pwned") is None


def hostile(value: Any) -> Any:
    """The value with every text of it, but names and what a choice is made by, made hostile."""
    if isinstance(value, dict):
        return {name: hostile(item) for name, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


@pytest.mark.parametrize("name", [*CALLS, "training"])
def test_hostile_texts_are_shown_as_text(page: Page, apps: Shown, name: str) -> None:
    given, result = apps.calls[name]
    told = hostile(result["structuredContent"])
    what = Sent(hostile(given), {**result, "structuredContent": told})
    show(page, apps.app, what)
    assert "onerror=parent.pwned=1" in text(page) and page.eval("window.pwned") is None
    assert page.eval("host.page().querySelectorAll('main img, main script').length") == 0
    assert page.complaints() == []


@pytest.mark.parametrize("name", [*CALLS, "training"])
def test_each_can_be_heard(page: Page, apps: Shown, name: str) -> None:
    show(page, apps.app, apps.calls[name])
    assert faults(page, framed=True) == []
    assert any(each.live == "polite" for each in told(page, framed=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", CALLS)
def test_each_is_readable_and_fits_a_narrow_place(
    page: Page, apps: Shown, name: str, theme: str
) -> None:
    show(page, apps.app, apps.calls[name], theme=theme, width=340)
    root = "host.page().documentElement"
    assert page.eval(f"{root}.scrollWidth - {root}.clientWidth") == 0
    worst = page.eval("worstContrast(host.page())")
    assert worst["ratio"] >= 4.5, worst
