"""The server as a client starts it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from tests.server.helpers import PROMPT

from saescope.ledger import KeptEntry, Ledger
from saescope_mcp.app import ALL_TOOLS


def parameters(*roots: Path) -> StdioServerParameters:
    env = {
        **os.environ,
        "SAESCOPE_READ_ROOTS": os.pathsep.join(map(str, roots)),
        "SAESCOPE_OFFLINE": "1",
    }
    return StdioServerParameters(command=sys.executable, args=["-m", "saescope_mcp"], env=env)


@pytest.mark.slow
async def test_a_client_loads_reads_and_is_refused(sae_dir: Path, glass_dir: Path) -> None:
    async with Client(parameters(sae_dir.parent, glass_dir.parent)) as client:
        listed = [tool.name for tool in (await client.list_tools()).tools]
        by_default = [tool.name for tool in ALL_TOOLS if tool.group and tool.group.by_default]
        assert listed == [*by_default, "use_tools"]
        loaded = await client.call_tool("load_sae", {"path": str(sae_dir), "model": str(glass_dir)})
        assert not loaded.is_error and loaded.structured_content is not None
        read = await client.call_tool(
            "top_features", {"sae": loaded.structured_content["sae"], "text": PROMPT}
        )
        refused = await client.call_tool("top_features", {"sae": "zz", "txt": "a"})
    assert not read.is_error
    assert refused.is_error and refused.structured_content is not None
    assert refused.structured_content["code"] == "UNKNOWN_ARGUMENT"


def test_stdout_carries_only_the_protocol_and_the_server_ends_with_its_input() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "saescope_mcp"],
        input="no json\n",
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert not [line for line in done.stdout.splitlines() if not line.startswith('{"jsonrpc"')]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["its input ends", "SIGTERM", "SIGINT"])
def test_a_server_that_ends_writes_its_last_result_first(end: str, own_home: Path) -> None:
    """A table that another program keeps locked holds the writer up; when the server is told to end
    it waits for that, not for ever."""
    if os.name == "nt" and end != "its input ends":
        pytest.skip("a process there gets no signal of another one")
    ledger = Ledger()
    ledger.keep(KeptEntry(tool="t", arguments={}, document={"summary": "first"}))
    server = subprocess.Popen(
        [sys.executable, "-m", "saescope_mcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdin and server.stdout
    with server, closing(sqlite3.connect(ledger.folder / "ledger.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        for message in _HANDSHAKE:
            server.stdin.write(json.dumps(message).encode() + b"\n")
        server.stdin.flush()
        answers = [json.loads(server.stdout.readline()) for _ in range(2)]
        assert answers[1]["result"]["structuredContent"]["saes"]
        if end == "its input ends":
            server.stdin.close()
        else:
            server.send_signal(getattr(signal, end))
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(0.2)
        other.rollback()
        assert server.wait(10) == {"SIGTERM": -15, "SIGINT": -2}.get(end, 0)
    assert [row.tool for row in ledger.find()[0]] == ["find_saes", "t"]


_ASKED = {"name": "find_saes", "arguments": {"query": "gemma", "limit": 1}}
_HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "t", "version": "1"},
}
_HANDSHAKE = (
    {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": _HELLO},
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": _ASKED},
)
