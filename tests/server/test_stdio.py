"""The server as a client starts it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from tests.server.helpers import PROMPT

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


def test_http_is_for_this_machine_only() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "saescope_mcp", "--http", "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2 and "loopback" in done.stderr and not done.stdout
