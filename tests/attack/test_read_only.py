"""A home and a run's folder that may only be read: tools that read answer as ever, those that write
say which folder and what to do."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.attack.conftest import Attack

ROOT = Path(__file__).parents[2]
WRITE = {
    *("label_feature", "index_features", "train_sae", "publish_sae", "quiz_feature"),
    "export_report",
}
CODES = {"CANNOT_WRITE", "LABELS_UNAVAILABLE", "JOBS_UNAVAILABLE", "DISK_ERROR"}
MORE = {
    ("empty home", "quiz_feature"): {"NOT_INDEXED"},
    ("empty home", "cancel_job"): {"JOB_NOT_FOUND"},
}


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="saescope-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        for each in (Path(folder), *Path(folder).rglob("*")):
            if each.is_dir():
                each.chmod(0o755)


@pytest.mark.attack
@pytest.mark.skipif(sys.platform == "win32", reason="folders there are not closed by their mode")
@pytest.mark.parametrize("where", ["home", "empty home", "run"])
def test_what_reads_answers_and_what_writes_says_what_to_do(
    where: str, place: Path, attack: Attack
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.attack.read_only", str(place), where],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    if "this user writes everywhere" in done.stderr:
        pytest.skip("this user writes to read-only folders and may not become another")
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    label = told.pop("label", None)
    if where == "home":
        with attack.case("the label that was there"):
            assert label["text"] == "before"
    for tool, (code, text, hint) in told.items():
        with attack.case(f"{where}: {tool}"):
            assert not code or tool in WRITE | {"cancel_job"}, text
            if tool in WRITE or code:
                assert code in CODES | MORE.get((where, tool), set()), text
                assert hint and (str(place / "home") in text or code not in CODES), text
