"""What the window answers: the documents of the tools, lists, embedded pages."""

import socket

import anyio
import httpx
import pytest
from tests.server.view.conftest import Window

from saescope_mcp.state import AppState
from saescope_mcp.view.app import PAGES
from saescope_mcp.view.known import known_saes


def test_a_call_is_the_tool_s_own_document(shown: Window) -> None:
    given = {"sae": shown.sae, "text": "The old man went to the sea"}
    asked = shown.call("encode_text", **given)
    assert asked.status_code == 200
    document = asked.json()
    kept = shown.call("results", result_id=document["result_id"], response_format="detailed")
    assert kept.json()["document"]["summary"] == document["summary"]
    assert document["tokens"] and document["evidence"] == "observed"


def test_an_error_is_the_tool_s_own_with_the_next_step(shown: Window) -> None:
    refused = shown.call("encode_text", sae=shown.sae, text="x", top_k=0)
    assert refused.status_code == 400 and refused.json()["field"] == "top_k"
    unknown = shown.call("encode_text", sae="zz", text="x").json()
    assert unknown["code"] == "SAE_NOT_LOADED" and unknown["hint"]


def test_what_is_loaded_is_listed_with_what_loads_the_rest(shown: Window) -> None:
    here = httpx.get(f"{shown.url}saes").json()
    assert here["sets"] == []
    assert [row["handle"] for row in here["loaded"]] == [shown.sae]
    assert here["loaded"][0]["n_features"] == 256 and here["known"] == []


async def test_what_is_loaded_is_told_while_it_changes(shown: Window) -> None:
    (entry,) = shown.state.saes.values()
    state = AppState(shown.state.settings)
    state.saes |= {f"sae-{at}": entry for at in range(3000)}

    async def change() -> None:
        while True:
            for at in range(3000):
                state.saes[f"new-{at}"] = entry
                if at % 100 == 0:
                    await anyio.sleep(0)
            for at in range(3000):
                del state.saes[f"new-{at}"]

    async with anyio.create_task_group() as group:
        group.start_soon(change)
        for _ in range(40):
            assert len((await known_saes(state))["loaded"]) >= 3000
        group.cancel_scope.cancel()


def test_looking_asks_no_other_machine(shown: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refused(self: socket.socket, address: object) -> None:
        if str(address).find(str(shown.port)) < 0:
            asked.append(address)
        raise ConnectionRefusedError

    with httpx.Client() as browser:
        browser.get(f"{shown.url}saes")  # the connection is there, and stays
        open_ = AppState(shown.state.settings.model_copy(update={"offline": False}))
        monkeypatch.setattr(shown.state, "settings", open_.settings)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: asked.append(given) or [])
        monkeypatch.setattr(socket.socket, "connect", refused)
        given = {"sae": shown.sae, "feature": "1", "limit": "3"}
        for path in ("", *PAGES, "saes", "machine", "list", "densities", "page"):
            answer = browser.get(shown.url + path.replace("home", ""), params=given, timeout=60)
            assert answer.status_code == 200, path
    assert asked == []


def test_a_list_of_features_comes_in_parts(shown: Window) -> None:
    given = {"sae": shown.sae, "by": "density", "limit": 10, "offset": 250}
    part = httpx.get(f"{shown.url}list", params=given).json()
    assert part["total"] == 256 and [row["feature"] for row in part["features"]] == [
        *range(250, 256)
    ]
    assert part["corpus"] is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("by", "x"), ("limit", "-1"), ("limit", "201"), ("offset", "1e3"), ("offset", "\u0661")],
)
def test_a_list_refuses_what_no_page_asks(shown: Window, name: str, value: str) -> None:
    asked = httpx.get(f"{shown.url}list", params={"sae": shown.sae, name: value})
    assert asked.status_code == 400 and asked.json()["field"] == name


def test_a_feature_s_page_is_embedded_with_its_own_policy_and_links(shown: Window) -> None:
    page = httpx.get(f"{shown.url}page", params={"sae": shown.sae, "feature": 7}, timeout=60)
    policy = page.headers["content-security-policy"]
    assert page.status_code == 200 and "<h1>Feature 7</h1>" in page.text
    assert "sha256-" in policy and policy.endswith("frame-ancestors 'self'")
    assert policy.startswith("default-src 'none'")
    assert 'target="_top">' in page.text and "features?sae=" in page.text


@pytest.mark.parametrize("feature", ["256", "-1", "x", "", "99999999999999999999", "\u0667"])
def test_a_feature_that_is_not_there_has_a_page_that_says_so(shown: Window, feature: str) -> None:
    page = httpx.get(f"{shown.url}page", params={"sae": shown.sae, "feature": feature}, timeout=60)
    assert page.status_code == 404 and "FEATURE_OUT_OF_RANGE" in page.text


def test_a_hostile_handle_is_text(shown: Window) -> None:
    page = httpx.get(f"{shown.url}page", params={"sae": "<script>x</script>", "feature": "1"})
    assert page.status_code == 404 and "<script>" not in page.text and "&lt;script&gt;" in page.text


def test_a_report_is_the_one_that_is_written_and_stands_by_itself(shown: Window) -> None:
    done = shown.call("encode_text", sae=shown.sae, text="The old <b>man").json()
    put = {"investigation": "a-report", "add": [done["result_id"]], "note": "<i>mine"}
    assert shown.call("results", **put).status_code == 200
    for asked in ({"result": done["result_id"]}, {"investigation": "a-report"}):
        page = httpx.get(f"{shown.url}report", params=asked, timeout=60)
        policy = page.headers["content-security-policy"]
        assert page.status_code == 200 and done["result_id"] in page.text
        assert "old <b>man" not in page.text and "<i>mine" not in page.text
        assert policy.startswith("default-src 'none'") and "frame-ancestors 'self'" in policy
    for asked in ({}, {"result": "<script>x"}, {"investigation": "no-such"}):
        page = httpx.get(f"{shown.url}report", params=asked)
        assert page.status_code == 404 and "<script>" not in page.text


def test_a_circuit_that_was_not_traced_here_is_not_read(shown: Window) -> None:
    for name in ("../x", "0123456789ab", ""):
        page = httpx.get(f"{shown.url}graph", params={"name": name})
        assert page.status_code == 404 and "GRAPH_NOT_FOUND" in page.text


def test_a_live_page_hears_of_jobs(shown: Window) -> None:
    with httpx.stream("GET", f"{shown.url}events", timeout=20) as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        first = next(line for line in events.iter_lines() if line)
    assert first.startswith('data: {"jobs": [')
