"""`saescope view` as a process of its own: what it says, how fast it is there, how it ends."""

import errno
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from tests.server.helpers import call

from saescope_mcp.cli.window import window_of
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState
from saescope_mcp.view import beside, listening, opened_view

COMMAND = [sys.executable, "-m", "saescope_mcp.cli"]
WITHOUT_TORCH = """
import sys
import anyio
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState
from saescope_mcp.view import opened_view
from saescope_mcp.view.known import known_saes
state = AppState(Settings(offline=True))
opened_view(state).door.close()
assert anyio.run(known_saes, state) == {"loaded": [], "known": [], "sets": []}
assert not {"torch", "transformers", "huggingface_hub"} & set(sys.modules)
"""


@contextmanager
def viewing(home: Path, *flags: str, **more: str) -> Generator[tuple["subprocess.Popen[str]", str]]:
    env = {**os.environ, "SAESCOPE_HOME": str(home), "SAESCOPE_OFFLINE": "1", **more}
    words = [*COMMAND, "view", *flags, "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", said)
        try:
            assert found, said
            yield process, found[0]
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_within_a_second_without_a_word_while_live_pages_are_open(
    tmp_path: Path, sig: signal.Signals
) -> None:
    with viewing(tmp_path, "--no-open") as (process, url), ExitStack() as pages:
        for _ in range(3):
            events = pages.enter_context(httpx.stream("GET", f"{url}events", timeout=20))
            assert next(events.iter_lines()).startswith("data: ")
        asked = time.monotonic()
        process.send_signal(sig)
        assert process.wait(timeout=10) == 0
        assert time.monotonic() - asked < 1.0
        assert process.stderr is not None and process.stderr.read() == ""
    assert not [*tmp_path.glob("window/*")]


@pytest.mark.slow
def test_ctrl_c_ends_it_while_a_slow_call_is_open(tmp_path: Path) -> None:
    with viewing(tmp_path, "--no-open") as (process, url):
        host, path = url.split("/")[2], f"/{url.split('/')[3]}/machine"
        with socket.create_connection(("127.0.0.1", int(host.split(":")[1]))) as wire:
            wire.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            time.sleep(0.3)  # the request is there; it imports torch
            asked = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=10) == 0
            # the import of torch lets go of the event loop only now and then
            assert time.monotonic() - asked < 5.0
        assert process.stderr is not None and process.stderr.read() == ""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_command_line_holds_the_token_and_only_its_user_can_read_the_door(
    tmp_path: Path,
) -> None:
    seen = tmp_path / "seen"
    for name in ("xdg-open", "open", "www-browser"):
        opener = tmp_path / "bin" / name
        opener.parent.mkdir(exist_ok=True)
        opener.write_text(f'#!/bin/sh\ncp "$1" {seen}.html; stat -c %a "$1" > {seen}; sleep 2\n')
        opener.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    with viewing(tmp_path / "home", PATH=path) as (_, url):
        end = time.monotonic() + 10
        while not (seen.exists() and seen.read_text()):
            assert time.monotonic() < end, "nothing was opened"
            time.sleep(0.05)
        token = url.split("/")[3].encode()
        lines = [read_if_there(each) for each in Path("/proc").glob("[0-9]*/cmdline")]
        assert any(b"xdg-open" in line for line in lines), "the browser is not running"
        assert not any(token in line for line in lines)
        assert seen.read_text().strip() == "600" and url in seen.with_suffix(".html").read_text()


def read_if_there(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # that process is gone
        return b""


def test_a_bound_port_is_nobody_else_s(tmp_path: Path) -> None:
    with listening() as first, pytest.raises(OSError):
        listening(first.getsockname()[1])


async def test_a_server_that_gets_no_socket_goes_on_without_a_window_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_home: Path
) -> None:
    def refused(*given: object) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    state = AppState(Settings(offline=True))
    monkeypatch.setattr(socket.socket, "bind", refused)
    assert window_of(state) is None
    monkeypatch.undo()
    assert "There is no window: Cannot assign requested address." in capsys.readouterr().err
    status = await call(state, "server_status")
    assert "There is no window: Cannot assign requested address." in status["summary"]


async def test_a_window_that_breaks_leaves_the_server_alone(own_home: Path) -> None:
    view = opened_view(AppState(Settings(offline=True)))
    view.served.listener.close()  # nothing can be served there
    done: list[str] = []

    async def main() -> None:
        await anyio.sleep(0.2)
        done.append("served")

    await beside(main, view.served)
    view.door.close()
    assert done == ["served"]


async def test_the_status_names_a_file_that_opens_the_window_and_no_token(own_home: Path) -> None:
    state = AppState(Settings(offline=True))
    with_window = window_of(state)
    assert with_window is not None
    (door,) = (own_home / "window").glob("*.html")

    async def main() -> None:
        told = await call(state, "server_status", response_format="detailed")
        found = re.search(r"http://127\.0\.0\.1:\d+/([\w-]{32})/", door.read_text())
        assert f"For people, the window: open {door.as_uri()}" in told["summary"]
        assert found and found[1] not in json.dumps(told)
        assert stat.S_IMODE(door.stat().st_mode) == 0o600
        async with httpx.AsyncClient() as browser:
            assert (await browser.get(found[0])).status_code == 200

    await with_window(main)()
    assert not door.exists()


def test_doors_of_windows_that_are_gone_are_taken_away(own_home: Path) -> None:
    with listening() as gone:
        old = own_home / "window" / f"{gone.getsockname()[1]}.html"
    old.parent.mkdir(parents=True)
    old.write_text("x")
    view = opened_view(AppState(Settings(offline=True)))
    assert not old.exists() and view.door.path is not None and view.door.path.exists()
    view.door.close()
    view.served.listener.close()


@pytest.mark.slow
def test_a_page_is_there_without_torch() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True, timeout=60)


@pytest.mark.slow
def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    with viewing(tmp_path, "--no-open") as (_, url):
        words = [*COMMAND, "view", "--no-open", "--port", url.split(":")[2].split("/")[0]]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "--port" in done.stderr and len(done.stderr.splitlines()) == 1
