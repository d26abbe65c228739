"""Servers killed in the middle of a call, over stdio: the next one on the same home starts, lists
what was there, and nothing is torn."""

import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError
from tests.attack.conftest import Attack
from tests.server.helpers import PROMPT, save_random_sae

from saescope.errors import SaescopeError
from saescope.load import load_sae

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and sh")

KILLS = {"load_sae": 6, "steer_generate": 6, "label_feature": 10, "publish_sae": 10}
LONGEST_S = {"load_sae": 8.0, "steer_generate": 2.0, "label_feature": 1.0, "publish_sae": 0.5}
"""By when a call has surely begun its work, and may have ended."""


@dataclass
class Home:
    """What one user's servers were told and have answered."""

    base: Path
    model: Path
    sae: str = ""
    labels: dict[int, str] = field(default_factory=dict[int, str])
    """By feature, those that were answered."""
    published: int = 0

    @property
    def source(self) -> Path:
        return self.base / "sae"

    def arguments(self, tool: str) -> dict[str, Any]:
        match tool:
            case "load_sae":
                return {"path": str(self.source), "model": str(self.model)}
            case "steer_generate":
                edits = {"features": [{"feature": 1, "strength": 2.0}], "unit": "raw"}
                return {"sae": self.sae, "prompt": PROMPT, **edits, "max_new_tokens": 64}
            case "label_feature":
                feature = len(self.labels)
                return {"sae": self.sae, "feature": feature, "text": f"label {feature}"}
            case _:
                self.published += 1
                path = str(self.base / "published" / str(self.published))
                return {"sae": self.sae, "path": path, "dry_run": False}


@asynccontextmanager
async def serving(home: Home) -> AsyncGenerator[tuple[Client, int]]:
    """A client, and the number of its server's process; leaving is quiet where that was killed."""
    env = {**os.environ, "SAESCOPE_HOME": str(home.base / "own"), "SAESCOPE_OFFLINE": "1"}
    roots = (home.base, home.model.parent)
    env |= {"SAESCOPE_READ_ROOTS": os.pathsep.join(map(str, roots))}
    env |= {"SAESCOPE_WRITE_ROOTS": str(home.base), "OMP_NUM_THREADS": "1"}
    pid = home.base / "pid"
    run = f'echo $$ > "{pid}"; exec "{sys.executable}" -m saescope_mcp'
    async with Client(StdioServerParameters(command="sh", args=["-c", run], env=env)) as client:
        yield client, int(pid.read_text())


async def done(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    reply = await client.call_tool(tool, arguments)
    assert not reply.is_error and reply.structured_content is not None, reply
    return reply.structured_content


async def nothing_is_torn(client: Client, home: Home) -> None:
    """What was answered is there; what was under way is there whole or not at all."""
    assert (await done(client, "job_status"))["total"] >= 0
    listed = [row["name"] for row in (await done(client, "server_status"))["cached"]]
    assert not home.sae or home.sae in listed, listed
    where = home.arguments("load_sae")
    loaded = await done(client, "load_sae", **where, wait_s=55)
    assert home.sae in ("", loaded["sae"])
    home.sae = loaded["sae"]
    for feature, text in home.labels.items():
        card = await done(client, "describe_feature", sae=home.sae, feature=feature)
        assert card["label"]["text"] == text
    for folder in (home.base / "published").glob("*"):
        with suppress(SaescopeError):
            found = load_sae(folder, device="cpu")
            assert found.weights_hash == load_sae(home.source, device="cpu").weights_hash
            assert (folder / "README.md").read_text()
        reply = await client.call_tool(
            "publish_sae", {"sae": home.sae, "path": str(folder), "dry_run": False}
        )
        code = (reply.structured_content or {}).get("code")
        assert not reply.is_error or code == "ALREADY_EXISTS", reply
        assert (folder / "README.md").exists() and load_sae(folder, device="cpu")


async def calls(client: Client, home: Home, tool: str) -> None:
    """The same tool again and again, until the server is gone."""
    with suppress(MCPError, anyio.ClosedResourceError, anyio.BrokenResourceError):
        while True:
            said = await done(client, tool, **home.arguments(tool))
            if tool == "label_feature":
                home.labels[said["feature"]] = said["label"]["text"]


@pytest.mark.attack
@pytest.mark.parametrize("tool", KILLS)
async def test_a_server_that_was_killed(
    tool: str, attack: Attack, glass_dir: Path, tmp_path: Path
) -> None:
    home = Home(tmp_path, glass_dir)
    save_random_sae(home.source)
    for turn in range(KILLS[tool] + 1):
        after_s = attack.rng.uniform(0, LONGEST_S[tool])
        with attack.case(f"{tool}, kill {turn} after {after_s:.2f} s"):
            async with serving(home) as (client, pid), anyio.create_task_group() as group:
                if turn == 0 or tool != "load_sae" or turn == KILLS[tool]:
                    await nothing_is_torn(client, home)
                if turn < KILLS[tool]:
                    group.start_soon(calls, client, home, tool)
                    await anyio.sleep(after_s)
                    os.kill(pid, signal.SIGKILL)
