"""`saescope serve --http`: one endpoint for both protocol eras, for this machine only."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client

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


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    env = {
        **os.environ,
        "SAESCOPE_HOME": str(tmp_path_factory.mktemp("home")),
        "SAESCOPE_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "saescope_mcp", "--http", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as server:
        assert server.stderr is not None
        announced = server.stderr.readline()
        address = f"http://127.0.0.1:{port}/mcp"
        assert address in announced
        with httpx.Client(
            transport=httpx.HTTPTransport(retries=6)
        ) as client:  # it listens a moment later
            client.get(address)
        yield address
        server.terminate()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_both_protocol_eras_are_served_at_one_address(url: str, mode: Any) -> None:
    async with Client(url, mode=mode) as client:
        found = await client.call_tool("find_saes", {"query": "gpt2-small-res-jb", "limit": 1})
        assert not found.is_error and len((await client.list_prompts()).prompts) == 4


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


@pytest.mark.parametrize("port", ["70000", "taken"])
def test_a_port_that_cannot_be_used_is_said_in_one_line(port: str, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        wanted = str(other.getsockname()[1]) if port == "taken" else port
        command = [sys.executable, "-m", "saescope_mcp", "--http", "--port", wanted]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2 and "--port" in done.stderr and len(done.stderr.splitlines()) == 1
