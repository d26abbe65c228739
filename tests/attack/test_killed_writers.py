"""Kills while labels, handles, runs or a publication are written: what was done is there, what is
half is never taken for whole."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from tests.attack.conftest import Attack
from tests.server.helpers import save_random_sae
from tests.server.test_jobs import a_run
from tests.server.workers import FORKED, prepare

from saescope.errors import SaescopeError
from saescope.features import LabelStore
from saescope.load import load_sae
from saescope.publish import publish_sae
from saescope_mcp.jobs import Runs
from saescope_mcp.state import Placement, Source
from saescope_mcp.state.sources import KnownHandles

KILLS = 30
LONGEST_S = 0.25
PUBLISHED = {"README.md", "cfg.json", "sae_weights.safetensors"}
Writing = Callable[[Path, int], Iterator[str]]


def publications(folder: Path, turn: int) -> Iterator[str]:
    sae = load_sae(folder / "sae", device="cpu")
    yield ""
    for number in range(10_000):
        publish_sae(sae, path=folder / "published" / f"{turn}-{number}", dry_run=False)
        yield f"{turn}-{number}"


def labels(folder: Path, turn: int) -> Iterator[str]:
    store = LabelStore(folder / "labels.db")
    yield ""
    for number in range(10_000):
        store.add("hash", number, f"{turn}-{number}", source="you")
        yield f"{turn}-{number}"


def handles(folder: Path, turn: int) -> Iterator[str]:
    known = KnownHandles()
    yield ""
    for number in range(10_000):
        known.remember(f"m/{turn}-{number}", Source(path=f"{turn}-{number}"), Placement())
        yield f"{turn}-{number}"


def rows(folder: Path, turn: int) -> Iterator[str]:
    runs = Runs(folder / "jobs")
    yield ""
    for number in range(10_000):
        run = a_run(f"train-{turn}-{number}", state="failed", message="as it was written")
        runs.table.add(run, most_live=1)
        runs.folder(run.id).mkdir()
        runs.keep(run)
        yield f"{turn}-{number}"


def check_publications(folder: Path, done: list[str]) -> None:
    sae, place = load_sae(folder / "sae", device="cpu"), folder / "published"
    for name in {*done, *(path.name for path in place.glob("*"))}:
        try:
            found = load_sae(place / name, device="cpu")
        except SaescopeError:
            assert name not in done
            assert publish_sae(sae, path=place / name, dry_run=False).written
            found = load_sae(place / name, device="cpu")
        assert found.weights_hash == sae.weights_hash
        assert {file.name for file in (place / name).iterdir()} == PUBLISHED
    for name in done:
        with pytest.raises(SaescopeError, match="already holds"):
            publish_sae(sae, path=place / name, dry_run=False)
    shutil.rmtree(place, ignore_errors=True)


def check_labels(folder: Path, done: list[str]) -> None:
    by_feature = LabelStore(folder / "labels.db").of_many("hash", range(10_000))
    found = {label.text for labels in by_feature.values() for label in labels}
    assert set(done) <= found, set(done) - found


def check_handles(folder: Path, done: list[str]) -> None:
    found = {source.path for source, _ in KnownHandles().all().values()}
    assert set(done) <= found, set(done) - found
    json.loads((folder / "handles.json").read_text())


def check_rows(folder: Path, done: list[str]) -> None:
    found = {run.id: run for run in Runs(folder / "jobs").all()}
    assert {f"train-{name}" for name in done} <= set(found)
    assert all(run.message == "as it was written" for run in found.values())


CASES: dict[str, tuple[Writing, Callable[[Path, list[str]], None]]] = {
    "publications": (publications, check_publications),
    "labels": (labels, check_labels),
    "handles": (handles, check_handles),
    "rows": (rows, check_rows),
}


def _write(what: str, folder: Path, turn: int, told: Connection) -> None:
    os.environ["SAESCOPE_HOME"] = str(folder)
    for done in CASES[what][0](folder, turn):
        told.send(done)


def killed(what: str, folder: Path, turn: int, after_s: float) -> list[str]:
    """What a process had told as done when it was killed, that long after it began."""
    here, there = FORKED.Pipe(duplex=False)
    process = FORKED.Process(target=_write, args=(what, folder, turn, there), daemon=True)
    process.start()
    there.close()
    assert here.recv() == ""
    time.sleep(after_s)
    assert process.pid is not None and process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    done: list[str] = []
    with suppress(EOFError):
        while True:
            done.append(here.recv())
    return done


@pytest.mark.attack
@pytest.mark.parametrize("what", CASES)
def test_what_a_kill_leaves(
    what: str, attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path))
    prepare()
    save_random_sae(tmp_path / "sae")
    done: list[str] = []
    for turn in range(KILLS):
        after_s = attack.rng.uniform(0, LONGEST_S)
        with attack.case(f"{what}, kill {turn} after {after_s:.3f} s"):
            new = killed(what, tmp_path, turn, after_s)
            CASES[what][1](tmp_path, new)
            done += new
    if what != "publications":  # whose folders are gone by now
        with attack.case(f"{what}, all at the end"):
            CASES[what][1](tmp_path, done)
