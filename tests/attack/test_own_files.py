"""Damaged files of our own (labels, jobs, indexes, checkpoints): what was written is shown, or that
it is damaged, never anything else."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.attack.conftest import Attack
from tests.attack.damage import damage
from tests.server.helpers import call
from tests.server.knowing import Bench
from tests.server.test_jobs import DONE, a_run
from tests.server.workers import Ended

from saescope import checkpoints as disk
from saescope.errors import SaescopeError
from saescope.features import LabelStore
from saescope.features.index import FeatureIndex, find_index
from saescope.load import load_sae
from saescope.notices import collected
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.jobs import Runs
from saescope_mcp.state import AppState

TIERS = [8, pytest.param(400, marks=pytest.mark.attack)]


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def attacked(
    attack: Attack, whole: Path, work: Path, *, n: int, read: Callable[[Path], Any]
) -> None:
    """Damage one file of a copy, `n` times: what is read is as written, or nothing, or a coded
    error."""
    shutil.copytree(whole, work)
    expected = read(work)
    for i in range(n):
        shutil.rmtree(work)
        shutil.copytree(whole, work)
        with attack.case(f"{i} {damage(attack.rng, attack.rng.choice(files_of(work)))}"):
            try:
                with collected():
                    found = read(work)
            except SaescopeError as error:
                assert error.code != "INTERNAL"
                continue
            assert found == expected or found in (None, [], {}), f"{found!r:.300}"


@pytest.mark.parametrize("n", TIERS)
def test_checkpoints(n: int, attack: Attack, tmp_path: Path) -> None:
    tensors = {"sae": {"W": torch.arange(600.0).reshape(30, 20)}, "optim": {"m": torch.ones(9)}}
    disk.save(tmp_path / "whole", 7, disk.Checkpoint(tensors, {"step": 7, "lr": 0.1}), keep=1)

    def read(folder: Path) -> Any:
        newest = disk.latest(folder)
        if newest is None:
            return None
        found = disk.load(newest)
        said = {
            file: {key: tensor.tolist() for key, tensor in inner.items()}
            for file, inner in found.tensors.items()
        }
        return said, found.state

    attacked(attack, tmp_path / "whole", tmp_path / "work", n=n, read=read)


@pytest.mark.parametrize("n", TIERS)
def test_indexes(n: int, attack: Attack, bench: Bench, tmp_path: Path) -> None:
    whole = next(file.parent for file in files_of(bench.folder / "indexes") if "json" in file.name)

    def read(folder: Path) -> Any:
        index = FeatureIndex.open(folder)
        return [
            (index.statistics(feature), index.examples(feature, 3), index.cofiring(feature, 3))
            for feature in range(4)
        ]

    attacked(attack, whole, tmp_path / whole.name, n=n, read=read)


def test_an_index_that_was_moved_aside_when_a_process_was_killed_comes_back(
    bench: Bench, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(bench.folder / "indexes", tmp_path / "indexes"))
    sae = load_sae(bench.sae, device="cpu")
    found = find_index(sae, root=root)
    assert found is not None
    found.folder.rename(found.folder.with_name(f".tmp-old-{found.folder.name}-77"))
    again = find_index(sae, root=root)
    assert again is not None and again.manifest == found.manifest


@pytest.mark.parametrize("n", TIERS)
def test_labels(n: int, attack: Attack, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    store = LabelStore(tmp_path / "whole" / "labels.db")
    for feature in range(40):
        store.add("hash", feature, f"what feature {feature} means", source="you")

    def damaged_store(folder: Path) -> dict[int, str]:
        best = LabelStore(folder / "labels.db").best("hash", range(40))
        return {feature: label.text for feature, label in best.items()}

    shutil.copytree(tmp_path / "whole", tmp_path / "work")
    expected = damaged_store(tmp_path / "work")
    assert len(expected) == 40
    for i in range(n):
        shutil.rmtree(tmp_path / "work")
        shutil.copytree(tmp_path / "whole", tmp_path / "work")
        with attack.case(f"{i} {damage(attack.rng, tmp_path / 'work' / 'labels.db')}"):
            try:
                with collected():
                    found = damaged_store(tmp_path / "work")
            except SaescopeError as error:
                assert error.code != "INTERNAL"
                continue
            assert found.items() <= expected.items(), "another label than was written"


@pytest.mark.parametrize("n", TIERS)
async def test_jobs(
    n: int, attack: Attack, state_at: Callable[[Path], AppState], tmp_path: Path
) -> None:
    runs = Runs(tmp_path / "whole" / "jobs")
    made = [a_run(f"train-{i:06}", state="failed", created=float(i), **DONE) for i in range(12)]
    runs.table.restore(made)
    for run in made[::2]:
        runs.folder(run.id).mkdir()
        runs.keep(run)
    expected = {run.id: run for run in runs.all()}
    work = tmp_path / "work"
    for i in range(n):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", work)
        with attack.case(f"{i} {damage(attack.rng, attack.rng.choice(files_of(work)))}"):
            state = state_at(work)
            for name in ("job_status", "server_status"):
                tool = next(each for each in ALL_TOOLS if each.name == name)
                outcome = await tool.call(state, {})
                assert outcome.document.get("code") != "INTERNAL", outcome.text
            try:
                found = {run.id: run for run in state.runs.all()}
            except SaescopeError:
                continue
            assert found.items() <= expected.items()


@pytest.fixture
def state_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], AppState]:
    from saescope_mcp.settings import Settings

    def made(home: Path) -> AppState:
        monkeypatch.setenv("SAESCOPE_HOME", str(home))
        return AppState(Settings(offline=True))

    return made


PLACES = (
    "jobs",
    "saes",
    "indexes",
    "labels.db",
    "evaluations",
    "pictures",
    "neuronpedia",
    "handles.json",
    "converted",
    "verified",
)
WAYS: dict[str, Callable[[Path], object]] = {
    "a file": lambda place: place.write_text("not what you expect"),
    "a folder": lambda place: place.mkdir(),
    "an input error": lambda place: place.symlink_to("/proc/self/mem"),
    "a full disk": lambda place: place.symlink_to("/dev/full"),
    "a loop": lambda place: place.symlink_to(place),
    "nothing": lambda place: place.symlink_to("/nowhere/at/all"),
}
CALLS: dict[str, dict[str, Any]] = {
    "server_status": {},
    "job_status": {},
    "top_features": {"text": " King of the sea"},
    "describe_feature": {"feature": 1},
    "find_features": {"query": "King"},
    "label_feature": {"feature": 1, "text": "kings"},
    "quiz_feature": {"feature": 1},
    "evaluate_sae": {"n_tokens": 500, "picture": True, "wait_s": 20.0},
    "index_features": {"n_tokens": 1000, "wait_s": 0.0},
}


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs Linux's special files")
@pytest.mark.attack
@pytest.mark.parametrize("way", WAYS)
async def test_places_that_cannot_be_used(
    way: str,
    attack: Attack,
    bench: Bench,
    glass_dir: Path,
    own_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from saescope_mcp.jobs import runs as runs_module

    monkeypatch.setattr(runs_module, "start_worker", lambda run_id, folder: Ended())
    state, sae = await bench.loaded(glass_dir, indexed=False)
    await call(state, "server_status")
    for place in PLACES:
        there = own_home / place
        if there.is_dir() and not there.is_symlink():
            shutil.rmtree(there)
        there.unlink(missing_ok=True)
        WAYS[way](there)
        for name, arguments in CALLS.items():
            tool = next(each for each in ALL_TOOLS if each.name == name)
            said = arguments | ({"sae": sae} if "sae" in tool.request.model_fields else {})
            with attack.case(f"{place} is {way}: {name}"):
                outcome = await tool.call(state, said)
                assert outcome.document.get("code") != "INTERNAL", outcome.text
        if there.is_dir() and not there.is_symlink():
            there.rmdir() if not list(there.iterdir()) else shutil.rmtree(there)
        else:
            there.unlink(missing_ok=True)
