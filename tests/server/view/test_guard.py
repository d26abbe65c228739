"""Who may look at the window, over a real port: whoever has the token, from this machine, from a
page of ours."""

import secrets
import socket
from pathlib import Path

import httpx
import pytest
from tests.server.view.conftest import Window

from saescope_mcp.view.app import ASKED, PAGES, SCRIPTS


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


def test_a_token_is_long_and_never_the_same(shown: Window) -> None:
    token = shown.url.split("/")[3]
    assert len(token) == 32 and len({token[:n] for n in (4, 8)}) == 2


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


def test_only_tools_of_the_views_can_be_asked(shown: Window) -> None:
    for tool in ("publish_sae", "train_sae", "use_tools", "__init__", "evaluate_sae"):
        assert tool not in ASKED and shown.call(tool).status_code == 404


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
    folder = Path(__import__("saescope_mcp.view.app", fromlist=["x"]).__file__).parent / "static"
    assert {path.name for path in folder.glob("*.js")} == set(SCRIPTS)
    for path in folder.glob("*.js"):
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
