"""On a disk that is full, read-only or failing at any write: a coded error with its folder; nothing
half stays, nothing good is lost."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.attack.conftest import Attack

from saescope.errors import cannot_write
from saescope_mcp.replies import refusal

ROOT = Path(__file__).parents[2]
MOUNTED = 'mount -t tmpfs -o size=64m none "$1" && shift && exec "$@"'
WRITERS = {
    *("publish_sae", "label_feature", "export_report", "index_features", "train_sae"),
    *("save", "index", "train"),
}
CODES = {
    "DISK_FULL",
    "CANNOT_WRITE",
    "LABELS_UNAVAILABLE",
    "JOBS_UNAVAILABLE",
    "CHECKPOINT_NOT_WRITTEN",
}


def mounted(folder: Path) -> list[str]:
    """A command that runs another with a small file system of its own there; empty where this user
    may not mount."""
    command = ["unshare", "--mount", "sh", "-c", MOUNTED, "sh", str(folder)]
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return command if tried.returncode == 0 else []


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("full", marks=pytest.mark.slow),
        pytest.param("readonly", marks=pytest.mark.attack),
    ],
)
def test_every_write_says_folder_and_space_and_leaves_nothing_half(
    tmp_path: Path, kind: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    command = mounted(home)
    if not command and kind == "readonly":
        pytest.skip("this user may not mount a file system")
    kind = kind if command else "limit"
    temporary = tmp_path if command else home  # so that its folder is named in every message
    done = subprocess.run(
        [*command, sys.executable, "-m", "tests.attack.full_disk", str(home), kind],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    told = said["told"]
    assert told.pop("top_features")[0] == "done"
    assert set(told) == WRITERS
    for name, (code, message) in told.items():
        assert code in CODES, (kind, name, code, message)
        assert str(home) in message and "MB are free there" in message, (name, message)
    assert not said["left"], said["left"]
    assert set(said["again"].values()) == {"done"}, said["again"]
    assert said["label"] == "before"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        ("ENOSPC", "DISK_FULL"),
        ("EDQUOT", "DISK_FULL"),
        ("EROFS", "CANNOT_WRITE"),
        ("EIO", "DISK_ERROR"),
    ],
)
def test_a_disk_that_fails_anywhere_is_no_internal_error(
    tmp_path: Path, number: str, code: str
) -> None:
    import errno

    which = getattr(errno, number)
    error = OSError(which, os.strerror(which), str(tmp_path / "some" / "file"))
    said = refusal("top_features", error)
    assert said["code"] == code and os.strerror(which) in said["message"]
    assert str(tmp_path / "some") in said["message"]
    assert re.search(r"[\d,.]+ MB are free there", said["message"]) and said["hint"]


def test_what_cannot_be_written_names_folder_cause_and_space(tmp_path: Path) -> None:
    error = cannot_write("The index", tmp_path / "new" / "folder", OSError(28, "No space left"))
    assert error.code == "DISK_FULL"
    assert re.fullmatch(
        rf"The index cannot be written to {re.escape(str(tmp_path))}/new/folder: No space left "
        r"\([\d,]+\.\d MB are free there\)\.",
        error.message,
    )


@pytest.fixture(scope="module")
def bad_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that lets writes fail."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler: apt-get install gcc libc6-dev")
    built = tmp_path_factory.mktemp("built") / "bad_disk.so"
    source = Path(__file__).with_name("bad_disk.c")
    command = [compiler, "-shared", "-fPIC", "-o", str(built), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return built


@pytest.mark.attack
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_any_write_that_fails_is_a_coded_error_and_what_was_there_stays(
    error: str, bad_disk: Path, attack: Attack, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    seed, most = str(attack.rng.random()), "12"
    environment = {"LD_PRELOAD": str(bad_disk), "TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.attack.bad_disk", str(home), error, seed, most],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name, told in json.loads(done.stdout.splitlines()[-1]).items():
        for number in range(told["n"] - len(told["wrong"])):
            with attack.case(f"{name} {number}"):
                pass
        for moment, why in told["wrong"].items():
            with attack.case(f"{name}, operations {moment} fail with {error}"):
                pytest.fail(why)
