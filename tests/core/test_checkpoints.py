"""Checkpoints are complete or not there, whatever happens while they are written."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from saescope import checkpoints as disk
from saescope.errors import FormatError, ResourceError

ROOT = Path(__file__).parents[3]


def some(step: int) -> disk.Checkpoint:
    return disk.Checkpoint(
        {"sae": {"W": torch.full((300, 20), float(step))}, "empty": {}}, {"step": step}
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    disk.save(tmp_path, 7, some(7), keep=2)
    loaded = disk.load_latest(tmp_path)
    assert loaded.state == {"step": 7}
    assert torch.equal(loaded.tensors["sae"]["W"], torch.full((300, 20), 7.0))
    assert loaded.tensors["empty"] == {}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 30, 4):
        disk.save(tmp_path, step, some(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt-00000004", "ckpt-00000030"]


@pytest.mark.parametrize("file", ["sae.safetensors", "state.json", "MANIFEST.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_never_used(file: str, harm: str, tmp_path: Path) -> None:
    disk.save(tmp_path, 1, some(1), keep=3)
    newest = disk.save(tmp_path, 2, some(2), keep=3)
    content = bytearray((newest / file).read_bytes())
    if harm == "remove":
        (newest / file).unlink()
    else:
        content[len(content) // 2] ^= 0x40
        (newest / file).write_bytes(content if harm == "flip" else content[: len(content) // 2])
    assert disk.load_latest(tmp_path).state == {"step": 1}
    with pytest.raises(FormatError) as caught:
        disk.load(newest)
    assert caught.value.code == "HASH_MISMATCH"


def fail_at(k: int, real: Callable[..., Any], seen: list[int]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        seen[0] += 1
        if seen[0] == k:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    return wrapped


@pytest.mark.parametrize("k", range(1, 12))
def test_a_full_disk_at_any_write_is_one_clear_error_and_harms_nothing(
    k: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.save(tmp_path, 1, some(1), keep=1)
    seen = [0]
    monkeypatch.setattr(disk, "save_file", fail_at(k, disk.save_file, seen))
    monkeypatch.setattr(os, "fsync", fail_at(k, os.fsync, seen))
    monkeypatch.setattr(Path, "write_text", fail_at(k, Path.write_text, seen))
    monkeypatch.setattr(Path, "rename", fail_at(k, Path.rename, seen))
    if k <= 10:
        with pytest.raises(ResourceError, match="disk is full") as caught:
            disk.save(tmp_path, 2, some(2), keep=1)
        assert caught.value.code == "DISK_FULL"
    assert not list(tmp_path.glob(".tmp-*"))
    assert disk.load_latest(tmp_path).state["step"] in (1, 2)


def test_too_little_space_is_seen_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage._replace(free=1000))
    with pytest.raises(ResourceError, match="1000 free"):
        disk.save(tmp_path, 2, some(2), keep=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
def test_a_file_size_limit_is_a_full_disk_too(tmp_path: Path) -> None:
    script = (
        "import resource, signal, torch\nfrom pathlib import Path\n"
        "from saescope.errors import ResourceError\nfrom saescope import checkpoints as disk\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "disk.save(folder, 1, disk.Checkpoint({'sae': {'W': torch.zeros(10)}}, "
        "{'step': 1}), keep=1)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try:\n    disk.save(folder, 2, disk.Checkpoint({'sae': {'W': "
        "torch.zeros(100000)}}, {'step': 2}), keep=1)\n"
        "except ResourceError as error:\n    print(error.code)\n"
    )
    assert run(script).split() == ["DISK_FULL"]
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt-00000001"]
    assert disk.load_latest(tmp_path).state == {"step": 1}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_kill_9_at_any_moment_leaves_a_complete_checkpoint(tmp_path: Path) -> None:
    script = (
        "import os, random, signal, time, torch\nfrom pathlib import Path\nfrom "
        "saescope import checkpoints as disk\n"
        "torch.set_num_threads(1)\nrandom.seed(0)\nbad = 0\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "disk.save(folder, 1, disk.Checkpoint({'sae': {'W': torch.ones(200000)}}, "
        "{'step': 1.0}), keep=2)\n"
        "for turn in range(25):\n"
        "    first = 1 + max((int(p.name[5:]) for p in folder.glob('ckpt-*')), default=0)\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        for step in range(first, first + 1000):\n"
        "            disk.save(folder, step, disk.Checkpoint({'sae': {'W': "
        "torch.full((200000,), float(step))}}, {'step': step}), keep=2)\n"
        "    time.sleep(0.01 + random.random() * 0.06)\n"
        "    os.kill(child, signal.SIGKILL)\n    os.waitpid(child, 0)\n"
        "    newest = disk.latest(folder)\n"
        "    names = sorted(p for p in folder.glob('ckpt-*'))\n"
        "    if names:\n"
        "        loaded = disk.load(newest)\n"
        "        bad += newest != names[-1] or bool((loaded.tensors['sae']['W'] != "
        "loaded.state['step']).any())\n"
        "disk.clean(folder)\n"
        "disk.save(folder, 10**6, disk.Checkpoint({}, {}), keep=2)\n"
        "names = list(folder.glob('ckpt-*'))\n"
        "print(bad, len(names), len(list(folder.glob('.tmp-*'))))\n"
    )
    bad, n_left, n_aside = map(int, run(script).split())
    assert bad == 0
    assert n_left == 2  # kills before the oldest was dropped left more; the next save drops them
    assert n_aside == 0


def run(script: str) -> str:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "core"), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=env,
        timeout=50,
    ).stdout


def test_nested_state_survives_the_split_into_tensors_and_json() -> None:
    state = {
        "position": 3,
        "ring": {"rows": torch.arange(4), "inner": {"rng": torch.zeros(2), "name": "x"}},
        "files": ["a"],
    }
    tensors, plain = disk.split_state(state)
    assert set(tensors) == {"ring.rows", "ring.inner.rng"}
    joined = disk.join_state(tensors, plain)
    assert joined["position"] == 3
    assert joined["files"] == ["a"]
    assert torch.equal(joined["ring"]["rows"], torch.arange(4))
    assert joined["ring"]["inner"]["name"] == "x"


@pytest.mark.parametrize(
    ("every_s", "expected"),
    [(600.0, [60, 180, 420, 900, 1500, 2100]), (100.0, [60, 160, 260]), (10.0, [10, 20, 30])],
)
def test_the_first_checkpoint_comes_after_a_minute_and_the_next_ones_space_out(
    every_s: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("saescope.checkpoints.time.monotonic", lambda: now[0])
    schedule, saved = disk.Schedule(every_s), list[int]()
    while len(saved) < len(expected):
        now[0] += 1.0
        if schedule.due:
            saved.append(int(now[0]))
            schedule.saved()
    assert saved == expected


def test_a_folder_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    disk.require_writable(tmp_path / "new")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ResourceError) as raised:
        disk.require_writable(tmp_path / "file")
    assert raised.value.code == "CANNOT_WRITE"
