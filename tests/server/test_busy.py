"""What keeps the event loop from answering a ping while sixteen callers are at work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MOST_S = 0.05
"""A callback takes 0.01 s at most, with imports on the loop 0.07; a round of the collector 0.03,
with all of torch 0.28."""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_nothing_keeps_the_event_loop_for_long(
    own_home: Path, sae_dir: Path, glass_dir: Path, tmp_path: Path
) -> None:
    roots = f"{sae_dir.parent}{os.pathsep}{glass_dir.parent}"
    env = {**os.environ, "SAESCOPE_READ_ROOTS": roots, "SAESCOPE_OFFLINE": "1"}
    env |= {"SAESCOPE_WRITE_ROOTS": str(tmp_path)}
    command = [sys.executable, "-m", "tests.server.busy", str(sae_dir), str(glass_dir)]
    said = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["n"] > 500
    assert found["callback_s"] < MOST_S, found
    assert found["gc_s"] < MOST_S, found


def test_no_first_call_imports_torch_where_others_wait_for_it(
    sae_dir: Path, glass_dir: Path
) -> None:
    roots = f"{sae_dir.parent}{os.pathsep}{glass_dir.parent}"
    env = {**os.environ, "SAESCOPE_READ_ROOTS": roots, "SAESCOPE_OFFLINE": "1"}
    command = [sys.executable, "-m", "tests.server.on_loop", str(sae_dir), str(glass_dir)]
    said = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout) == []
