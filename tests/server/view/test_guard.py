"""Who may look at the window, over a real port: whoever has the token, from this machine, from a
page of ours."""

import re
import secrets
import socket
from pathlib import Path

import httpx
import pytest
from tests.server.view.conftest import Window

import saescope_mcp.view
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.state import AppState
from saescope_mcp.view import opened_view
from saescope_mcp.view.app import PAGES, SCRIPTS
from saescope_mcp.view.asked import ASKED

STATIC = Path(saescope_mcp.view.__file__).parent / "static"


@pytest.mark.parametrize("name", [*PAGES])
def test_every_page_comes_within_a_policy_that_lets_nothing_else_in(
    shown: Window, name: str
) -> None:
    page = httpx.get(shown.url + ("" if name == "home" else name))
    policy = page.headers["content-security-policy"]
    assert page.status_code == 200 and page.headers["referrer-policy"] == "no-referrer"
    assert policy.startswith("default-src 'none'; script-src 'self'") and "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy and page.headers["cache-control"] == "no-store"
    assert "<style" not in page.text and page.text.count("<script") == 1
    assert "http://" not in page.text and "https://" not in page.text


@pytest.mark.parametrize(
    "path", ["", "/", "/saes", "/static/window.js", "/call/load_sae", "/{other}/", "/{cut}/"]
)
def test_without_the_token_there_is_nothing(shown: Window, path: str) -> None:
    token = shown.url.split("/")[3]
    path = path.format(other=secrets.token_urlsafe(24), cut=token[:-1])
    for method in ("GET", "POST", "DELETE"):
        answer = httpx.request(method, shown.origin + path, headers={"Origin": shown.origin})
        assert (answer.status_code, answer.text) == (404, "Not found.")


def test_each_window_has_a_long_token_of_its_own(shown: Window) -> None:
    views = [opened_view(AppState(shown.state.settings)) for _ in range(3)]
    tokens = [view.address.split("/")[3] for view in views]
    for view in views:
        view.served.listener.close()
        view.door.close()
    assert len({*tokens, shown.url.split("/")[3]}) == 4 and {*map(len, tokens)} == {32}
    positions = [{token[at] for token in tokens} for at in range(32)]
    assert sum(len(chars) > 1 for chars in positions) > 20, tokens


@pytest.mark.parametrize("result_id", ["0123456789abcdef", "x", "..%2f..%2f", "%3Cscript%3E", "{}"])
def test_the_address_of_a_result_tells_a_stranger_nothing(shown: Window, result_id: str) -> None:
    done = shown.call("encode_text", sae=shown.sae, text="The old man").json()
    there = httpx.get(done["url"])
    assert done["url"].endswith(done["result_id"]) and shown.url.split("/")[3] not in done["url"]
    other = httpx.get(f"{shown.origin}/r/{result_id}")
    for answer in (there, other):
        answer.headers.pop("date", None)
    if "%2f" not in result_id:
        assert (there.text, there.headers) == (other.text, other.headers)
    assert other.status_code == 404 and done["result_id"] not in other.text
    assert shown.url.split("/")[3] not in other.text and shown.sae not in other.text


@pytest.mark.parametrize("path", ["r/static/window.js", "r/static/home.js", "r/static/../saes"])
def test_only_the_page_s_own_files_are_outside(shown: Window, path: str) -> None:
    answer = httpx.get(f"{shown.origin}/{path}")
    assert answer.status_code == 404 and not answer.text.startswith("//")
    assert httpx.post(f"{shown.origin}/r/x").status_code == 404
    assert httpx.get(f"{shown.origin}/r/x", headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "", "[::1]"])
def test_a_name_that_was_turned_to_this_machine_gets_no_answer(shown: Window, host: str) -> None:
    answer = httpx.get(shown.url, headers={"Host": host.format(port=shown.port)})
    assert answer.status_code == 421 and "saescope" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "{ours}", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "{ours}", "Content-Type": "text/plain"},
        {"Origin": "{ours}", "Content-Type": "application/x-www-form-urlencoded"},
    ],
)
def test_another_site_cannot_ask_even_with_the_token(
    shown: Window, headers: dict[str, str]
) -> None:
    sent = {"Content-Type": "application/json"} | {
        name: value.format(ours=shown.origin) for name, value in headers.items()
    }
    before = len(shown.state.saes)
    answer = httpx.post(f"{shown.url}call/unload", content='{"handle": "x"}', headers=sent)
    assert answer.status_code == 403 and len(shown.state.saes) == before


@pytest.mark.slow
def test_only_tools_of_the_views_can_be_asked_and_only_with_their_arguments(
    shown: Window, tmp_path: Path
) -> None:
    for tool in ALL_TOOLS:
        for name in tool.request.model_fields:
            if name in (*ASKED.get(tool.name, ()), "response_format"):
                continue
            refused = shown.call(tool.name, **{name: str(tmp_path / "x")})
            assert refused.status_code == 400, (tool.name, name)
            assert refused.json()["code"] == "NOT_FROM_THE_WINDOW", (tool.name, name)
    assert shown.call("__init__").json()["code"] == "NOT_FROM_THE_WINDOW"
    assert not any(tmp_path.iterdir())


def test_what_may_be_asked_is_what_the_scripts_ask() -> None:
    scripts = "".join(path.read_text("utf-8") for path in STATIC.glob("*.js"))
    tools = {tool.name: tool for tool in ALL_TOOLS}
    for tool, arguments in ASKED.items():
        assert f'"{tool}"' in scripts, tool
        assert arguments <= {*tools[tool].request.model_fields}, tool
        for name in arguments:
            assert re.search(rf"\b{name}\b\s*[:,}}]", scripts), (tool, name)
        for name in ("path", "export", "texts_file", "against_file", "save", "dataset"):
            assert name not in arguments


@pytest.mark.parametrize("handle", ["zz", "../x", None, 3, "/etc/passwd"])
def test_only_an_sae_that_is_known_is_loaded(shown: Window, handle: object) -> None:
    refused = shown.post("load", {"handle": handle, "path": "/etc"})
    assert refused.status_code in (400, 404)


@pytest.mark.parametrize("body", ["", "[]", "{", "1", '"x"', "\xff"])
def test_what_is_no_call_is_not_answered(shown: Window, body: str) -> None:
    headers = {"Origin": shown.origin, "Content-Type": "application/json"}
    answer = httpx.post(f"{shown.url}call/results", content=body.encode("latin-1"), headers=headers)
    assert answer.status_code == 404


def test_more_than_a_page_sends_is_refused_unread(shown: Window) -> None:
    headers = {"Origin": shown.origin, "Content-Type": "application/json"}
    answer = httpx.post(f"{shown.url}call/results", content=b" " * (2**20 + 1), headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "path", ["static/../app.py", "static/..%2fapp.py", "static/app.py", "static/", "static/x.js"]
)
def test_no_other_file_is_given_out(shown: Window, path: str) -> None:
    with socket.create_connection(("127.0.0.1", shown.port)) as wire:  # httpx would tidy the path
        token = shown.url.split("/")[3]
        wire.sendall(
            f"GET /{token}/{path} HTTP/1.1\r\nHost: 127.0.0.1:{shown.port}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        assert wire.recv(4096).startswith(b"HTTP/1.1 404")


def test_scripts_ask_only_this_window_and_make_no_markup_of_texts() -> None:
    assert {path.name for path in STATIC.glob("*.js")} == {*SCRIPTS, "outside.js"}
    for path in STATIC.glob("*.js"):
        script = path.read_text(encoding="utf-8")
        for way in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "eval(",
            "://",
            "document.write",
        ):
            assert way not in script.replace("http://www.w3.org/2000/svg", ""), (path.name, way)
