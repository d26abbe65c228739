"""The launcher of the plugins: what a client sees before, while and after saescope is installed. uv
is a shell script here."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.types import TextContent

from saescope import __version__
from saescope_mcp.app import ALL_TOOLS, INSTRUCTIONS, build_server
from saescope_mcp.settings import Settings
from saescope_mcp.tools.offer import USE_TOOLS

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "scripts" / "launch.py"
# Makes the environment's python, and "installs" until the file `gate` says how it ends.
UV = """#!/bin/sh
if [ "$1" = venv ]; then
    for venv in "$@"; do :; done
    mkdir -p "$venv/bin"
    printf '#!/bin/sh\\nexec "{python}" "$@"\\n' > "$venv/bin/python"
    chmod +x "$venv/bin/python"
    exit
fi
echo "Downloading torch (183.2MiB)"
echo $PPID >> "{pids}"
while [ ! -f "{gate}" ]; do sleep 0.1; done
cat "{gate}"
exit "$(cut -c 1 "{gate}")"
"""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in for uv is a shell script")


class Machine:
    """A place to install to, with a uv that waits for us."""

    def __init__(self, folder: Path) -> None:
        self.data, self.gate, self.uv = folder / "data", folder / "gate", folder / "uv"
        self.pids = folder / "pids"
        """A line for each installation that began: the process of its `--setup`."""
        self.uv.write_text(
            UV.format(python=sys.executable, gate=self.gate, pids=self.pids), encoding="utf-8"
        )
        self.uv.chmod(0o755)
        self.set: dict[str, str] = {}
        """What the user has set besides."""

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "UV": str(self.uv),
            "UV_TORCH_BACKEND": "cpu",
            "SAESCOPE_OFFLINE": "1",
            **self.set,
        }

    def client(self, wait_s: float = 0.5) -> Client:
        code = (
            f"import sys; sys.path.insert(0, {str(LAUNCH.parent)!r}); import launch; "
            f"launch.WAIT_S = {wait_s}; sys.exit(launch.main())"
        )
        return Client(
            StdioServerParameters(
                command=sys.executable,
                args=["-c", code, "--data", str(self.data)],
                env=self.environment,
            )
        )

    def end(self) -> None:
        """No installation outlives its test: they go on when a client has left, as they should."""
        if not self.gate.exists():
            self.finish("1 the test is over")
        begun = self.pids.read_text(encoding="utf-8").split() if self.pids.exists() else []
        until = time.monotonic() + 20
        while still := [pid for pid in begun if _is_setup(pid)]:
            assert time.monotonic() < until, f"still installing: {still}"
            time.sleep(0.05)

    def finish(self, said: str) -> None:
        self.gate.with_suffix(".new").write_text(said)
        self.gate.with_suffix(".new").rename(self.gate)


def _is_setup(pid: str) -> bool:
    words = Path("/proc") / pid / "cmdline"
    try:
        return b"--setup" in words.read_bytes()
    except OSError:
        return False


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.end()


def text(result: Any) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


async def test_while_it_installs_the_tools_are_listed_and_a_call_says_how_far_it_is(
    machine: Machine,
) -> None:
    async with machine.client() as client:
        assert client.instructions is not None and client.instructions.startswith(INSTRUCTIONS)
        assert client.server_info is not None and client.server_info.version == __version__
        listed = {tool.name for tool in (await client.list_tools()).tools}
        asked_for = {tool.name for tool in ALL_TOOLS if tool.group and tool.group.by_default}
        assert listed == asked_for | {"use_tools"}
        assert (await client.list_prompts()).prompts == []
        status, late = (
            await client.call_tool("server_status", {}),
            await client.call_tool("find_saes", {}),
        )
        machine.finish("1 No space left on device")
    assert not status.is_error and "INSTALLING" in text(status) and "--setup" in text(status)
    assert (
        not late.is_error
        and "Downloading torch (183.2MiB)" in text(late)
        and "Next: server_status()" in text(late)
    )


@pytest.mark.slow
async def test_the_real_server_takes_over_the_same_connection_and_the_calls_that_waited(
    machine: Machine,
) -> None:
    async with machine.client(wait_s=20.0) as client:
        assert (await client.list_prompts()).prompts == []
        machine.finish("0")
        found = await client.call_tool("find_saes", {"query": "gpt2-small-res-jb", "limit": 1})
        assert (
            found.structured_content is not None
            and found.structured_content["saes"][0]["release"] == "gpt2-small-res-jb"
        )
        assert len((await client.list_prompts()).prompts) == 5
    assert (machine.data / "venv" / "saescope-ready").exists()


async def test_a_failed_installation_says_why_and_what_to_run(machine: Machine) -> None:
    machine.finish("1 No space left on device")
    async with machine.client(wait_s=20.0) as client:
        result = await client.call_tool("load_sae", {})
        status = await client.call_tool("server_status", {})
    assert (
        result.is_error
        and "SETUP_FAILED" in text(result)
        and "No space left on device" in text(result)
    )
    assert status.is_error and "launch.py" in text(status) and "--setup" in text(status)


async def test_a_certificate_that_is_not_trusted_has_a_next_step_of_its_own(
    machine: Machine,
) -> None:
    machine.finish("2 cause: invalid peer certificate: UnknownIssuer")
    async with machine.client(wait_s=20.0) as client:
        said = text(await client.call_tool("load_sae", {}))
    step = said.partition("Next: ")[2]
    assert "UnknownIssuer" in said and "set SSL_CERT_FILE" in step and "--setup" in step
    assert "run this in a terminal" not in said and "this in a terminal, then reconnect" in step


def test_uv_trusts_what_the_system_trusts_unless_the_user_says_otherwise(
    machine: Machine, tmp_path: Path
) -> None:
    machine.uv.write_text(
        machine.uv.read_text().replace(
            "echo", f'echo "$UV_SYSTEM_CERTS $UV_NATIVE_TLS $*" > {tmp_path / "said"}\necho', 1
        )
    )
    machine.finish("0")
    for given, seen in (({}, "1 1"), ({"UV_SYSTEM_CERTS": "0", "UV_NATIVE_TLS": "0"}, "0 0")):
        subprocess.run(
            [sys.executable, LAUNCH, "--setup", "--data", machine.data],
            env=machine.environment | given,
            capture_output=True,
            check=True,
        )
        said = (tmp_path / "said").read_text()
        assert said.startswith(f"{seen} pip install") and f"-e {ROOT}[all]" in said


@pytest.mark.slow
async def test_once_installed_it_is_the_server(machine: Machine) -> None:
    machine.finish("0")
    done = subprocess.run(
        [sys.executable, LAUNCH, "--setup", "--data", machine.data],
        env=machine.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "saescope is ready." in done.stdout
    machine.uv.unlink()
    async with machine.client() as client:
        assert len((await client.list_prompts()).prompts) == 5


def test_a_variable_that_the_client_did_not_fill_in_means_the_checkout_itself() -> None:
    for data in ("${PLUGIN_DATA}", ""):
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); import launch; "
            "print(launch.Place.named(sys.argv[2]).venv)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(LAUNCH.parent), data],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(ROOT / ".venv")


def test_what_it_lists_before_it_is_installed_is_what_the_server_publishes() -> None:
    published = json.loads(
        (ROOT / "server" / "saescope_mcp" / "tools.json").read_text(encoding="utf-8")
    )
    assert published.keys() == {tool.name for tool in (*ALL_TOOLS, USE_TOOLS)}


@pytest.mark.parametrize("setting", ["", "read,-unload", "all"])
async def test_it_lists_what_the_server_then_lists_in_the_same_order(
    machine: Machine, setting: str
) -> None:
    machine.set["SAESCOPE_TOOLS"] = setting
    async with machine.client(wait_s=20.0) as client:
        before, said = (await client.list_tools()).tools, client.instructions
    async with Client(build_server(Settings(tools=setting))) as client:
        after = (await client.list_tools()).tools
        assert said == client.instructions
    without = {"output_schema": None, "meta": None}  # they are of results, which come later
    assert before == [tool.model_copy(update=without) for tool in after]


def test_it_does_not_start_with_a_misspelt_group(machine: Machine) -> None:
    done = subprocess.run(
        [sys.executable, LAUNCH, "--data", machine.data],
        env=machine.environment | {"SAESCOPE_TOOLS": "raed"},
        input="",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and not done.stdout and not machine.data.exists()
    assert "SAESCOPE_TOOLS: 'raed' is neither a group nor a tool (groups: base" in done.stderr
