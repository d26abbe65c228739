"""Activations that many processes write and read, on a disk and on what fsspec reaches: the rows of
one process, each once, and nothing that is half there."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from tests.core.processes import run_on_ranks
from torch import Tensor

from saescope.activations import (
    ContextConfig,
    ContextStream,
    ShardSource,
    counted_positions,
    open_dataset,
    store_activations,
)
from saescope.activations.places import Disk, place_of
from saescope.activations.shards import MANIFEST
from saescope.errors import SaescopeError
from saescope.hooks import record_activations
from saescope.models import LanguageModel
from saescope.ranks import Ranks
from saescope.sinks import find_sinks

HOOKS = ["blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"]
N = 4000
CPU = torch.device("cpu")
WRITE = """
import json, sys
from pathlib import Path
from saescope.activations import open_dataset, store_activations, writing
from saescope.models import load_model
from saescope.ranks import Ranks, joined
model_dir, folder, hooks, n, rank, size = sys.argv[1:]
writing.SHARD_ROWS = 512
model = load_model(model_dir, device="cpu")
def write(ranks):
    part = open_dataset("embedded").part(ranks)
    whole = store_activations(model, json.loads(hooks), part, folder=folder, n_tokens=int(n),
        context_size=32, dtype="float32", batch_size=128, save_every_s=0.0)
    print(json.dumps(whole))
if size == "0":
    with joined() as ranks:
        write(ranks)
else:
    write(Ranks(int(rank), int(size)))
"""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saescope.activations.writing.SHARD_ROWS", 512)
    monkeypatch.setattr("saescope.activations.shards.READ_ROWS", 200)


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> str:
    """A folder of fsspec's memory, which is one for the whole process."""
    return f"memory://{request.node.name}/acts"


def write(model: LanguageModel, folder: str | Path, rank: int, size: int, **changed: Any) -> bool:
    part = open_dataset("embedded").part(Ranks(rank, size))
    settings: dict[str, Any] = {"n_tokens": N, "context_size": 32, "dtype": "float32"}
    settings |= {"batch_size": 128} | changed
    return store_activations(model, HOOKS, part, folder=folder, **settings)


def rows_of(*sources: ShardSource) -> Tensor:
    """Every row of one epoch, all hooks beside each other."""
    parts = list[Tensor]()
    for source in sources:
        n_read = 0
        while n_read < source.n_rows:
            rows = source.next_rows()
            parts.append(torch.cat([rows[hook].float() for hook in HOOKS], dim=1))
            n_read += len(parts[-1])
    return torch.cat(parts)


def are_same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether they are the same rows in any order, to rounding (passes of other sizes round
    differently): along a few random directions, the sorted values agree."""
    directions = torch.randn(ours.shape[1], 4, generator=torch.Generator().manual_seed(0))
    a, b = ((rows @ directions).sort(dim=0).values for rows in (ours, theirs))
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=2e-3)


def naive_rows(model: LanguageModel) -> Tensor:
    """The rows of the contexts that one process draws, from the bridge, one context at a time."""
    cfg = ContextConfig(context_size=32)
    stream = ContextStream(model, open_dataset("embedded"), cfg, pool_tokens=4 * N + 32)
    parts, n_counted = list[Tensor](), 0
    while n_counted < N:
        for ids in stream.take(min(2048 // 32, -(-(N - n_counted) // 31))).split(1):
            mask = counted_positions(ids, model.tokenizer.special_ids)
            n_counted += int(mask.sum())
            acts = record_activations(model, ids.clamp(min=0).long(), HOOKS)
            kept = (mask & ~find_sinks(model, acts))[0]
            parts.append(torch.cat([acts[hook][0][kept] for hook in HOOKS], dim=1))
    return torch.cat(parts)


@pytest.mark.parametrize("size", [1, 3])
def test_the_rows_of_all_ranks_are_those_of_a_loop_over_the_text(
    glass: LanguageModel, tmp_path: Path, size: int
) -> None:
    ended = [write(glass, tmp_path / "x", rank, size) for rank in reversed(range(size))]
    assert ended == [False] * (size - 1) + [True]
    source = ShardSource(tmp_path / "x", device=CPU)
    assert source.n_rows >= N
    assert are_same(rows_of(source), naive_rows(glass))


def test_a_store_behind_a_url_is_the_store_on_a_disk(
    glass: LanguageModel, tmp_path: Path, bucket: str
) -> None:
    for folder in (bucket, f"file://{tmp_path}/x"):
        assert not write(glass, folder, 0, 2)
        assert write(glass, folder, 1, 2)
    remote, local = ShardSource(bucket, device=CPU), ShardSource(tmp_path / "x", device=CPU)
    assert remote.shards == local.shards and len(local.shards) > 4
    assert are_same(rows_of(remote), rows_of(local))
    assert 0 < remote.memory_bytes < sum(shard["bytes"] for shard in local.shards)


def test_a_shard_behind_a_url_is_fetched_once_an_epoch(
    glass: LanguageModel, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(glass, bucket, 0, 1)
    source = ShardSource(bucket, device=CPU)
    fetched = list[str]()
    memory = fsspec.filesystem("memory")
    real = type(memory).cat_file

    def cat_file(fs: Any, path: str, *args: Any, **named: Any) -> bytes:
        fetched.append(path.rpartition("/")[2])
        return real(fs, path, *args, **named)

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    rows_of(source)
    assert sorted(fetched) == sorted(shard["file"] for shard in source.shards)
    first = fetched.copy()
    rows_of(source)
    assert sorted(fetched[len(first) :]) == sorted(first)
    assert fetched[len(first) :] != first


def test_readers_share_the_shards_and_read_each_row_once(
    glass: LanguageModel, tmp_path: Path
) -> None:
    write(glass, tmp_path / "x", 0, 1)
    sources = [ShardSource(tmp_path / "x", device=CPU, ranks=Ranks(rank, 3)) for rank in range(3)]
    whole = ShardSource(tmp_path / "x", device=CPU)
    assert are_same(rows_of(*sources), rows_of(whole))
    with pytest.raises(SaescopeError, match="cannot share") as caught:
        ShardSource(tmp_path / "x", device=CPU, ranks=Ranks(0, 99))
    assert caught.value.code == "OUT_OF_RANGE"


def test_before_the_last_one_ends_there_is_nothing_to_read(
    glass: LanguageModel, bucket: str
) -> None:
    write(glass, bucket, 1, 2)
    with pytest.raises(SaescopeError) as caught:
        ShardSource(bucket, device=CPU)
    assert caught.value.code == "FILE_MISSING"
    assert MANIFEST not in place_of(bucket).sizes()


def test_when_all_have_ended_only_what_the_manifest_lists_is_left(
    glass: LanguageModel, tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    others = (".part-00000-of-00002.json.9-ab.part", "shard-00000-of-00004-00000-ab.safetensors")
    for name in (*others, "notes.txt"):
        (folder / name).write_bytes(b"half")
    write(glass, folder, 0, 2)
    write(glass, folder, 0, 2)  # a scheduler that started it again, though it had ended
    write(glass, folder, 1, 2)
    listed = {shard["file"] for shard in json.loads((folder / MANIFEST).read_text())["shards"]}
    assert {path.name for path in folder.iterdir()} == listed | {MANIFEST, "notes.txt"}


def test_a_part_of_a_text_is_not_read_as_the_whole(glass: LanguageModel) -> None:
    part = open_dataset("embedded").part(Ranks(0, 2))
    with pytest.raises(SaescopeError, match="as a whole") as caught:
        ContextStream(glass, part, ContextConfig(context_size=32))
    assert caught.value.code == "DATASET_IN_PARTS"


def test_what_is_whole_is_not_written_again(
    glass: LanguageModel, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(glass, bucket, 0, 1)
    monkeypatch.setattr("saescope.activations.corpus.CorpusSource.next_rows", None)
    assert write(glass, bucket, 0, 1)
    assert write(glass, bucket, 2, 5)


@pytest.mark.parametrize("whole", [True, False])
def test_activations_of_another_text_are_not_mixed_in(
    glass: LanguageModel, bucket: str, whole: bool
) -> None:
    write(glass, bucket, 0, 1 if whole else 2)
    with pytest.raises(SaescopeError, match="another model, text") as caught:
        write(glass, bucket, 1, 2, seed=1)
    assert caught.value.code == "CACHE_MISMATCH"


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_writer_that_is_cut_off_goes_on_to_the_same_files(
    glass: LanguageModel, bucket: str, tmp_path: Path, where: str
) -> None:
    folder = bucket if where == "memory" else str(tmp_path / "x")
    n_seen = list[int]()

    def stop(done: int, total: int) -> None:
        n_seen.append(done)
        if done > 1200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(glass, folder, 0, 2, progress=stop, save_every_s=0.0)
    n_seen.clear()
    write(glass, folder, 0, 2, progress=lambda done, total: n_seen.append(done))
    assert n_seen[0] == 1024 + 128  # two shards were there
    write(glass, folder, 1, 2)
    for rank in range(2):
        write(glass, tmp_path / "straight", rank, 2)
    assert (
        ShardSource(folder, device=CPU).shards
        == ShardSource(tmp_path / "straight", device=CPU).shards
    )


def test_what_strangers_changed_behind_a_url_is_found(glass: LanguageModel, bucket: str) -> None:
    write(glass, bucket, 0, 1)
    place = place_of(bucket)
    manifest = json.loads(place.read(MANIFEST))
    name = manifest["shards"][1]["file"]
    data = bytearray(place.read(name))
    data[len(data) // 2] ^= 1
    place.put(name, bytes(data))
    with pytest.raises(SaescopeError, match="changed") as caught:
        rows_of(ShardSource(bucket, device=CPU))
    assert caught.value.code == "HASH_MISMATCH"
    place.put(name, bytes(data[:-1]))
    with pytest.raises(SaescopeError, match="cut off"):
        ShardSource(bucket, device=CPU)
    manifest["shards"][1]["file"] = "../secret.safetensors"
    place.put(MANIFEST, json.dumps(manifest).encode())
    with pytest.raises(SaescopeError, match="no manifest"):
        ShardSource(bucket, device=CPU)


def test_shards_of_other_widths_than_their_manifest_says_are_found(
    glass: LanguageModel, bucket: str
) -> None:
    write(glass, bucket, 0, 1)
    place = place_of(bucket)
    manifest = json.loads(place.read(MANIFEST))
    manifest["widths"][HOOKS[0]] += 1
    place.put(MANIFEST, json.dumps(manifest).encode())
    with pytest.raises(SaescopeError, match="its rows are others"):
        rows_of(ShardSource(bucket, device=CPU))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://me:hunter2@host/x",
        "https://host/x?X-Amz-Signature=hunter2",
        "simplecache::s3://hunter2/x",
    ],
)
def test_a_url_that_carries_a_secret_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SaescopeError) as caught:
        place_of(url)
    assert caught.value.code in ("SECRET_IN_URL", "INVALID_ARGUMENT")
    assert "hunter2" not in f"{caught.value.message} {caught.value.got} {caught.value.hint}"


@pytest.mark.parametrize(
    ("url", "code"), [("dvc://x/y", "EXTRA_MISSING"), ("nonsense://x", "UNKNOWN_FORMAT")]
)
def test_a_store_that_cannot_be_reached_says_what_is_missing(url: str, code: str) -> None:
    with pytest.raises(SaescopeError) as caught:
        place_of(url)
    assert caught.value.code == code and "s3fs" in caught.value.hint


@pytest.mark.parametrize("folder", ["x/y", "C:/x", "C:\\x", "file:///x/y", "local:///x"])
def test_paths_and_file_urls_are_folders_on_a_disk(folder: str) -> None:
    assert isinstance(place_of(folder), Disk)


@pytest.mark.slow
def test_two_processes_write_at_once(glass: LanguageModel, glass_dir: Path, tmp_path: Path) -> None:
    told = run_on_ranks(
        2, WRITE, glass_dir, f"file://{tmp_path}/x", json.dumps(HOOKS), N, 0, 0, cwd=tmp_path
    )
    assert "true" in "".join(told)
    write(glass, tmp_path / "alone", 0, 1)
    together, alone = (ShardSource(tmp_path / name, device=CPU) for name in ("x", "alone"))
    assert are_same(rows_of(together), rows_of(alone))


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_half_and_another_one_goes_on(
    glass: LanguageModel, glass_dir: Path, tmp_path: Path
) -> None:
    folder, n = tmp_path / "x", 20_000
    words = [str(glass_dir), str(folder), json.dumps(HOOKS), str(n), "0", "2"]
    process = subprocess.Popen([sys.executable, "-c", WRITE, *words])
    while not list(folder.glob("position-*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    place = Disk(folder)
    left = place.sizes()
    assert MANIFEST not in left and not any(name.startswith("part-") for name in left)
    position = json.loads(place.read("position-00000-of-00002.json"))
    for entry in (*position["shards"], position["state"]):
        assert place.holds(entry["file"], n_bytes=entry["bytes"], sha256=entry["sha256"])
    n_seen = list[int]()
    write(glass, folder, 0, 2, n_tokens=n, progress=lambda done, total: n_seen.append(done))
    assert n_seen[0] > 512
    assert write(glass, folder, 1, 2, n_tokens=n)
    source = ShardSource(folder, device=CPU)
    listed = {shard["file"] for shard in source.shards}
    assert place.sizes().keys() == listed | {MANIFEST}
    assert source.n_rows >= n
