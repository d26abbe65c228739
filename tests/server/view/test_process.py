"""`saescope view` as a process of its own: what it says, how fast it is there, how it ends."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from saescope_mcp.view import free_port

COMMAND = [sys.executable, "-m", "saescope_mcp.cli"]
WITHOUT_TORCH = """
import sys
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState
from saescope_mcp.view import view_app
from saescope_mcp.view.known import known_saes
state = AppState(Settings(offline=True))
view_app(state, token="t", port=1)
assert known_saes(state) == {"loaded": [], "known": [], "sets": []}
assert not {"torch", "transformers", "huggingface_hub"} & set(sys.modules)
"""


@contextmanager
def viewing(home: Path) -> Generator[tuple["subprocess.Popen[str]", str]]:
    env = {**os.environ, "SAESCOPE_HOME": str(home), "SAESCOPE_OFFLINE": "1"}
    words = [*COMMAND, "view", "--no-open", "--port", str(free_port())]
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
def test_ctrl_c_ends_it_while_a_live_page_is_open(tmp_path: Path) -> None:
    with viewing(tmp_path) as (process, url):
        with httpx.stream("GET", f"{url}events", timeout=20) as events:
            assert next(events.iter_lines()).startswith("data: ")
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=10) == 0
        assert process.stderr is not None and process.stderr.read() == ""


@pytest.mark.slow
def test_a_page_is_there_without_torch() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True, timeout=60)


@pytest.mark.slow
def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    with viewing(tmp_path) as (_, url):
        words = [*COMMAND, "view", "--no-open", "--port", url.split(":")[2].split("/")[0]]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "--port" in done.stderr and len(done.stderr.splitlines()) == 1
