"""Activations on disk: the same rows, written once, and never used when they are not as they were
written."""

import errno
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from saescope.activations import (
    ActivationStore,
    ContextConfig,
    ShardSource,
    StoreConfig,
    TextSource,
    cached,
    open_dataset,
)
from saescope.activations.shards import MANIFEST
from saescope.errors import SaescopeError
from saescope.models import LanguageModel

HOOKS = ["blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"]
N = 5000
SECOND_SHARD = "shard-*-of-*-00001-*.safetensors"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch, small_pool: None) -> None:
    monkeypatch.setattr("saescope.activations.writing.SHARD_ROWS", 2048)
    monkeypatch.setattr("saescope.activations.shards.READ_ROWS", 500)


def store(model: LanguageModel, *, seed: int = 0) -> ActivationStore:
    source = TextSource(
        model, HOOKS, open_dataset("embedded"), ContextConfig(context_size=32, seed=seed)
    )
    return ActivationStore(source, StoreConfig(n_tokens=N, batch_size=512, buffer_tokens=2048))


def the_one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def all_rows(batches: Iterable[dict[str, Tensor]]) -> Counter[bytes]:
    """Every row, all hooks beside each other."""
    rows = torch.cat(
        [torch.cat([batch[name].float() for name in HOOKS], dim=1) for batch in batches]
    )
    return Counter(row.tobytes() for row in rows.numpy())


def read_back(source: ShardSource, n_tokens: int = N) -> ActivationStore:
    return ActivationStore(
        source, StoreConfig(n_tokens=n_tokens, batch_size=512, buffer_tokens=2048)
    )


def test_what_is_read_is_what_was_harvested(glass: LanguageModel) -> None:
    source = cached(store(glass))
    assert source.n_rows == N and source.widths == dict.fromkeys(HOOKS, 128)
    assert all_rows(read_back(source)) == all_rows(store(glass))


def test_a_second_epoch_is_the_same_rows_in_another_order(glass: LanguageModel) -> None:
    source = cached(store(glass))
    first, second = ([source.next_rows() for _ in range(12)] for _ in range(2))
    assert source.epoch == 1 and all_rows(first) == all_rows(second) and len(all_rows(first)) > 4000
    assert not all(
        torch.equal(a[HOOKS[0]], b[HOOKS[0]])
        for a, b in zip(first, second, strict=True)
        if len(a[HOOKS[0]]) == len(b[HOOKS[0]])
    )


def test_it_is_written_once_and_reused(
    glass: LanguageModel, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[int, int]] = []
    cached(store(glass), progress=lambda done, total: said.append((done, total)))
    assert said[-1] == (N, N) and len(list((own_home / "activations").iterdir())) == 1
    monkeypatch.setattr(TextSource, "next_rows", None)
    assert cached(store(glass)).n_rows == N


def test_other_activations_have_another_folder(
    glass: LanguageModel, own_home: Path, tmp_path: Path
) -> None:
    cached(store(glass))
    cached(store(glass, seed=1))
    assert len(list((own_home / "activations").iterdir())) == 2
    cached(store(glass), folder=tmp_path / "x")
    with pytest.raises(SaescopeError, match="another model") as caught:
        cached(store(glass, seed=1), folder=tmp_path / "x")
    assert caught.value.code == "CACHE_MISMATCH"


def test_a_saved_position_goes_on_exactly(glass: LanguageModel, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    source = cached(store(glass), folder=folder)
    batches, again = (
        read_back(source, 12_000),
        read_back(ShardSource(folder, device=source.device), 12_000),
    )
    for _ in range(9):
        next(batches)
    again.load_state_dict(batches.state_dict())
    for ours, theirs in zip(batches, again, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in HOOKS)


def test_a_flipped_bit_is_found(glass: LanguageModel, tmp_path: Path) -> None:
    cached(store(glass), folder=tmp_path / "x")
    shard = the_one(tmp_path / "x", SECOND_SHARD)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(SaescopeError, match="changed") as caught:
        all_rows(read_back(ShardSource(tmp_path / "x", device=torch.device("cpu"))))
    assert caught.value.code == "HASH_MISMATCH"


@pytest.mark.parametrize("name", [SECOND_SHARD, MANIFEST])
def test_a_file_that_is_cut_off_is_found_at_once(
    glass: LanguageModel, tmp_path: Path, name: str
) -> None:
    cached(store(glass), folder=tmp_path / "x")
    path = the_one(tmp_path / "x", name)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(SaescopeError) as caught:
        ShardSource(tmp_path / "x", device=torch.device("cpu"))
    assert caught.value.code == "FILE_CORRUPT"


def test_a_manifest_cannot_name_files_elsewhere(glass: LanguageModel, tmp_path: Path) -> None:
    cached(store(glass), folder=tmp_path / "x")
    manifest = json.loads((tmp_path / "x" / MANIFEST).read_text())
    manifest["shards"][0]["file"] = "../y.safetensors"
    (tmp_path / "x" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(SaescopeError, match="no manifest"):
        ShardSource(tmp_path / "x", device=torch.device("cpu"))


def test_an_interrupted_write_is_no_cache_and_is_done_again(
    glass: LanguageModel, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done > 3000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(store(glass), folder=tmp_path / "x", progress=stop)
    with pytest.raises(SaescopeError) as caught:
        ShardSource(tmp_path / "x", device=torch.device("cpu"))
    assert caught.value.code == "FILE_MISSING"
    assert all_rows(read_back(cached(store(glass), folder=tmp_path / "x"))) == all_rows(
        store(glass)
    )


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_that_is_too_small_is_said_before_the_work(
    glass: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: _Usage(10**9, 10**9, 10**6))
    monkeypatch.setattr(TextSource, "next_rows", None)
    with pytest.raises(SaescopeError, match="are needed") as caught:
        cached(store(glass), folder=tmp_path / "x")
    assert caught.value.code == "DISK_FULL"


def test_a_disk_that_fills_up_leaves_nothing_half_written(
    glass: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SaescopeError, match="No space left") as caught:
        cached(store(glass), folder=tmp_path / "x")
    assert caught.value.code == "DISK_FULL" and list((tmp_path / "x").iterdir()) == []


class Killed(Exception):
    """In the middle of the writing."""


def cut_off(model: LanguageModel, folder: Path, *, at: int) -> None:
    """Write until so many rows are done, with a position after each shard."""

    def progress(done: int, total: int) -> None:
        if done >= at:
            raise Killed

    with pytest.raises(Killed):
        cached(store(model), folder=folder, progress=progress, save_every_s=0.0)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    "at",
    [pytest.param(512, marks=pytest.mark.slow), 2560, pytest.param(4608, marks=pytest.mark.slow)],
)
def test_writing_that_was_cut_off_goes_on_to_the_same_files(
    glass: LanguageModel, tmp_path: Path, at: int
) -> None:
    cached(store(glass), folder=tmp_path / "straight")
    cut_off(glass, tmp_path / "cut", at=at)
    n_rows: list[int] = []
    cached(store(glass), folder=tmp_path / "cut", progress=lambda done, total: n_rows.append(done))
    assert n_rows[0] == at // 2048 * 2048 + 512  # no shard is harvested again
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "straight")


@pytest.mark.parametrize(
    "damaged",
    [
        "position-*-of-*-00001-*.safetensors",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("position-*.json", "shard-*-of-*-00000-*.safetensors")
        ),
    ],
)
def test_a_damaged_position_is_not_gone_on_from(
    glass: LanguageModel, tmp_path: Path, damaged: str
) -> None:
    cached(store(glass), folder=tmp_path / "straight")
    cut_off(glass, tmp_path / "cut", at=2560)
    path = the_one(tmp_path / "cut", damaged)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    cached(store(glass), folder=tmp_path / "cut")
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "straight")
