"""The server on another machine: over ssh, and over HTTP with a token."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from tests.server.test_http import ACCEPT, ASK, free_port, serving

TOKEN = "a-secret-of-this-test-9f27"
STAND_IN = """#!/bin/sh
# As ssh does: the words after the host are one line for a shell there, without our variables.
shift
exec env -i HOME="$HOME" PATH="$PATH" SAESCOPE_HOME="$SAESCOPE_HOME" sh -c "$*"
"""


def of_root(*words: str) -> bool:
    return os.getuid() == 0 and all(map(shutil.which, words))


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[list[str]]:
    """The command that reaches a "GPU box": through a real sshd on loopback where there is one,
    else through a script that does what ssh does with its words."""
    if not of_root("sshd", "ssh", "ssh-keygen"):
        script = tmp_path / "ssh"
        script.write_text(STAND_IN)
        script.chmod(0o755)
        yield [str(script), "gpu-box"]
        return
    for name in ("host", "user"):
        key = str(tmp_path / name)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    port, sshd = free_port(), str(shutil.which("sshd"))
    Path("/run/sshd").mkdir(exist_ok=True)
    options = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "user.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
        "PasswordAuthentication": "no",
        "SetEnv": f"SAESCOPE_HOME={os.environ['SAESCOPE_HOME']}",
    }
    said = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    server = subprocess.Popen(
        [sshd, "-D", "-e", "-f", "/dev/null", *said], stderr=subprocess.DEVNULL
    )
    ours = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
    words = [word for option in ours for word in ("-o", option)]
    _await(port)
    yield ["ssh", *words, "-i", str(tmp_path / "user"), "-p", str(port), "root@127.0.0.1"]
    server.kill()
    server.wait()


def _await(port: int) -> None:
    while True:
        with socket.socket() as trial, suppress(OSError):
            trial.connect(("127.0.0.1", port))
            return


@pytest.mark.slow
async def test_an_agent_uses_the_server_of_another_machine_through_ssh(ssh: list[str]) -> None:
    command, *words = [*ssh, sys.executable, "-m", "saescope_mcp"]
    async with Client(stdio_client(StdioServerParameters(command=command, args=words))) as client:
        found: Any = await client.call_tool("find_saes", {"query": "gpt2-small-res-jb", "limit": 1})
        assert not found.is_error and "gpt2-small-res-jb" in str(found.structured_content)


@pytest.mark.slow
def test_a_server_reached_through_ssh_ends_with_the_connection(ssh: list[str]) -> None:
    command = [*ssh, "echo $$; exec", sys.executable, "-m", "saescope_mcp"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reached:
        assert reached.stdout and reached.stdin
        there = int(reached.stdout.readline())
        os.kill(there, 0)
        reached.send_signal(signal.SIGKILL)
        reached.stdin.close()
        reached.wait()
    for _ in range(100):
        try:
            os.kill(there, 0)
        except ProcessLookupError:
            return
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(["sleep", "0.1"], timeout=1, check=False)
    raise AssertionError("it still runs")


def test_another_address_is_refused_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "saescope_mcp", "--http", "--host", "0.0.0.0"]
    for token, said in (("", "refused without a token"), ("short", "at least 16")):
        env = os.environ | {"SAESCOPE_TOKEN": token}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False, env=env
        )
        assert done.returncode == 2 and said in done.stderr and not done.stdout
        assert token not in done.stderr or not token


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_who_bears_the_token_is_served_and_nobody_else(host: str, tmp_path: Path) -> None:
    with serving(tmp_path, token=TOKEN, host=host) as (_, address):
        for given in ("", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer é"):
            bears = {"Authorization": given.encode("latin-1")} if given else {}
            refused = httpx.post(address, json=ASK, headers={**ACCEPT, **bears})  # pyright: ignore
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
            assert TOKEN not in refused.text
        assert httpx.get(address.replace("/mcp", "/")).status_code == 401
        bears = {"Authorization": f"bearer {TOKEN}"}
        assert httpx.post(address, json=ASK, headers={**ACCEPT, **bears}).status_code == 200
        said = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            create_mcp_http_client(headers=said) as http,
            Client(streamable_http_client(address, http_client=http)) as client,
        ):
            status: Any = await client.call_tool("server_status", {})
            assert not status.is_error and TOKEN not in str(status)


@pytest.mark.slow
def test_with_a_token_any_name_of_the_machine_reaches_it(tmp_path: Path) -> None:
    bears = {**ACCEPT, "Authorization": f"Bearer {TOKEN}", "Host": "gpu-box:8000"}
    with serving(tmp_path, token=TOKEN, host="0.0.0.0") as (_, address):
        assert httpx.post(address, json=ASK, headers=bears).status_code == 200
    with serving(tmp_path, token=TOKEN) as (_, address):  # a page of another site may guess names
        assert httpx.post(address, json=ASK, headers=bears).status_code == 421
