"""`saescope serve --http`: one endpoint for both protocol eras, for this machine only."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client

from saescope_mcp.cli.http import within

ASK = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


@contextmanager
def serving(
    home: Path, *, token: str = "", host: str = "127.0.0.1"
) -> Generator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    env = {**os.environ, "SAESCOPE_HOME": str(home), "SAESCOPE_OFFLINE": "1"}
    env |= {"SAESCOPE_TOKEN": token} if token else {}
    command = [sys.executable, "-m", "saescope_mcp", "--http", "--host", host, "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as server:
        assert server.stderr is not None
        announced = server.stderr.readline()
        address = f"http://127.0.0.1:{port}/mcp"
        assert f"http://{host}:{port}/mcp" in announced
        assert not token or token not in announced
        with httpx.Client(
            transport=httpx.HTTPTransport(retries=6)
        ) as client:  # it listens a moment later
            client.get(address)
        try:
            yield server, address
        finally:
            server.kill()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_both_protocol_eras_are_served_at_one_address(url: str, mode: Any) -> None:
    async with Client(url, mode=mode) as client:
        found = await client.call_tool("find_saes", {"query": "gpt2-small-res-jb", "limit": 1})
        assert not found.is_error and len((await client.list_prompts()).prompts) == 5


def test_a_page_of_another_site_gets_no_answer(url: str) -> None:
    assert httpx.post(url, json=ASK, headers=ACCEPT).status_code == 200
    assert httpx.post(url, json=ASK, headers={**ACCEPT, "Host": "evil.example"}).status_code == 421
    assert (
        httpx.post(url, json=ASK, headers={**ACCEPT, "Origin": "http://evil.example"}).status_code
        == 403
    )
    assert (
        httpx.post(url, json=ASK, headers={**ACCEPT, "Origin": "http://localhost:5173"}).status_code
        == 200
    )


HELD = {
    "a body that never comes": "Content-Length: 100\r\n\r\n{",
    "a chunk that never comes": "Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    "a header that never ends": "X-Slow: ",
    "an answer that nobody reads": None,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "sig", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "held",
    [pytest.param(held, marks=[pytest.mark.slow] if i > 0 else []) for i, held in enumerate(HELD)],
)
def test_no_client_keeps_the_server_from_ending(
    held: str, sig: signal.Signals, tmp_path: Path
) -> None:
    with serving(tmp_path) as (server, address), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", httpx.URL(address).port))
        _hold(client, HELD[held])
        assert httpx.post(address, json=ASK, headers=ACCEPT).status_code == 200
        server.send_signal(sig)
        server.wait(timeout=10)


def _hold(client: socket.socket, rest: str | None) -> None:
    head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    if rest is not None:
        client.sendall((head + rest).encode())
        return
    body = json.dumps(ASK)
    client.setblocking(False)
    with suppress(BlockingIOError):
        for _ in range(500):
            accept = f"Accept: {ACCEPT['Accept']}\r\nContent-Length: {len(body)}\r\n\r\n"
            client.send((head + accept + body).encode())


async def test_a_body_that_does_not_come_is_answered_in_the_end() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        raise AssertionError("the body never came")

    parts = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> dict[str, Any]:
        if not parts:
            await anyio.sleep_forever()
        return parts.pop()

    sent = list[Any]()

    async def send(message: Any) -> None:
        sent.append(message)

    await within(app, body_s=0.05)({"type": "http"}, receive, send)
    assert sent[0]["status"] == 408


@pytest.mark.slow
@pytest.mark.parametrize("port", ["70000", "taken"])
def test_a_port_that_cannot_be_used_is_said_in_one_line(port: str, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        wanted = str(other.getsockname()[1]) if port == "taken" else port
        command = [sys.executable, "-m", "saescope_mcp", "--http", "--port", wanted]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2 and "--port" in done.stderr and len(done.stderr.splitlines()) == 1
