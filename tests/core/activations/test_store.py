"""Batches: well mixed, each row once, exact after a resume, in bounded memory, from one forward
pass for several hooks."""

import gc
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saescope.activations import (
    ActivationStore,
    ContextConfig,
    Dataset,
    Harvester,
    RowSource,
    StoreConfig,
    TextSource,
    counted_positions,
    open_dataset,
    read_contexts,
)
from saescope.activations.slots import Slots
from saescope.cancel import cancellable
from saescope.errors import Cancelled, SaescopeError
from saescope.hooks import record_activations
from saescope.models import LanguageModel

pytestmark = pytest.mark.usefixtures("small_pool")

PRE, MID, POST = "blocks.1.hook_resid_pre", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"


class Numbered(RowSource):
    """Row i is the number i at one hook and -i at the other: where a row comes from can be read off
    it."""

    def __init__(self, max_rows: int = 100) -> None:
        self.widths = {"a": 1, "b": 2}
        self.device = torch.device("cpu")
        self.fingerprint, self.max_rows, self.memory_bytes, self.epoch, self.n = (
            "numbers",
            max_rows,
            0,
            0,
            0,
        )

    def next_rows(self) -> dict[str, Tensor]:
        rows = torch.arange(self.n, self.n + self.max_rows, dtype=torch.float32)[:, None]
        self.n += self.max_rows
        return {"a": rows, "b": -rows.expand(-1, 2)}

    def state_dict(self) -> dict[str, Tensor]:
        return {"n": torch.tensor(self.n)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.n = int(state["n"])


def _config(options: dict[str, Any]) -> StoreConfig:
    return StoreConfig(**options)


def numbered(max_rows: int = 100, **options: Any) -> ActivationStore:
    return ActivationStore(Numbered(max_rows), _config({"dtype": "float32"} | options))


def text_store(
    model: LanguageModel,
    hooks: list[str],
    *,
    n_tokens: int = 20_000,
    dataset: str = "embedded",
    **options: Any,
) -> ActivationStore:
    source = TextSource(model, hooks, open_dataset(dataset), ContextConfig(context_size=32))
    return ActivationStore(
        source, _config({"n_tokens": n_tokens, "batch_size": 256, "buffer_tokens": 4096} | options)
    )


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("buffer_tokens", [64, 1000, 5000])
def test_every_row_comes_once_and_no_more_are_made_than_wanted(buffer_tokens: int) -> None:
    store = numbered(n_tokens=3210, batch_size=64, buffer_tokens=buffer_tokens)
    batches = list(store)
    assert [len(b["a"]) for b in batches] == [64] * 50 + [10]
    assert sorted(torch.cat([b["a"] for b in batches]).flatten().tolist()) == list(range(3210))
    assert all(torch.equal(b["b"], -b["a"].expand(-1, 2)) for b in batches)
    assert isinstance(store.source, Numbered) and store.source.n == 3300


def test_slots_draw_every_row_equally_often() -> None:
    slots, counts = Slots(50, seed=0), torch.zeros(50)
    slots.claim(50)
    for _ in range(4000):
        rows = slots.draw(10)
        assert len(set(rows.tolist())) == 10
        counts[rows] += 1
        assert sorted(slots.claim(10).tolist()) == sorted(rows.tolist())
    assert float((counts - 800).abs().max()) < 5 * (4000 * 0.2 * 0.8) ** 0.5


def test_neighbours_in_a_batch_are_as_far_apart_in_the_text_as_in_a_random_permutation() -> None:
    store = numbered(n_tokens=2**17, batch_size=512, buffer_tokens=2**13)
    correlations, gaps = [], []
    for index, batch in enumerate(store):
        at = batch["a"].flatten().double()
        shuffled = at[torch.randperm(len(at), generator=torch.Generator().manual_seed(index))]
        correlations.append([_neighbours(at), _neighbours(shuffled)])
        gaps.append([float(at.diff().abs().median()), float(shuffled.diff().abs().median())])
    ours, random = torch.tensor(correlations).mean(0).tolist()
    n = len(correlations)
    assert (
        abs(ours) < 3 / (512 * n) ** 0.5 + 2 / 512
        and abs(ours - random) < 4 * (2 / (512 * n)) ** 0.5
    )
    mean_gaps = torch.tensor(gaps).mean(0)
    assert abs(float(mean_gaps[0] / mean_gaps[1]) - 1) < 0.02


def _neighbours(at: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([at[:-1], at[1:]]))[0, 1])


def test_a_batch_mixes_the_whole_buffer() -> None:
    store = numbered(n_tokens=2**16, batch_size=512, buffer_tokens=2**13)
    spans = [float(batch["a"].std()) for batch in store]
    assert min(spans) > 0.9 * 2**13 / 12**0.5


@pytest.mark.parametrize(
    "n_batches", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 74))]
)
def test_a_saved_position_gives_the_same_batches_bit_for_bit(
    glass: LanguageModel, n_batches: int
) -> None:
    store, again = (text_store(glass, [PRE]) for _ in range(2))
    for _ in range(n_batches):
        next(store)
    state = store.state_dict()
    expected = list(store)
    assert len(expected) == 79 - n_batches
    again.load_state_dict(state)
    assert all(same(a, b) for a, b in zip(again, expected, strict=True))


class StopAt(threading.Event):
    """A wish to stop that the n-th checkpoint hears."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.left = n

    def is_set(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize(
    "n_checkpoints", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 6))]
)
def test_a_stop_within_a_forward_pass_loses_no_row(
    glass: LanguageModel, n_checkpoints: int
) -> None:
    expected = list(text_store(glass, [PRE]))
    store, again = (text_store(glass, [PRE]) for _ in range(2))
    first = [next(store), next(store)]
    with pytest.raises(Cancelled), cancellable(StopAt(n_checkpoints)):
        first.extend(store)
    again.load_state_dict(store.state_dict())
    assert len(first) < len(expected)
    assert all(same(a, b) for a, b in zip([*first, *again], expected, strict=True))
    assert all(same(a, b) for a, b in zip([*first, *store], expected, strict=True))


def test_a_state_can_be_stored_without_pickle(glass: LanguageModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    store, again = (text_store(glass, [PRE, POST]) for _ in range(2))
    next(store)
    save_file(store.state_dict(), tmp_path / "buffer.safetensors")
    again.load_state_dict(load_file(tmp_path / "buffer.safetensors"))
    assert same(next(again), next(store))


@pytest.mark.parametrize("changed", ["hooks", "seed", "n_tokens", "text"])
def test_the_position_of_another_run_is_refused(
    glass: LanguageModel, changed: str, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text("Other words. " * 2000, encoding="utf-8")
    state = text_store(glass, [PRE]).state_dict()
    others = {
        "hooks": lambda: text_store(glass, [POST]),
        "seed": lambda: text_store(glass, [PRE], seed=1),
        "n_tokens": lambda: text_store(glass, [PRE], n_tokens=10_000),
        "text": lambda: text_store(glass, [PRE], dataset=str(tmp_path / "other.txt")),
    }
    with pytest.raises(SaescopeError, match="belongs to another") as caught:
        others[changed]().load_state_dict(state)
    assert caught.value.code == "CHECKPOINT_MISMATCH"


def test_rows_are_the_models_activations_at_the_positions_that_count(glass: LanguageModel) -> None:
    cfg = ContextConfig(context_size=32)
    dataset = Dataset(
        "test",
        "print",
        lambda: iter(
            [f"{i * i} times {i} Alice was tired of her sister {i * 7}. " for i in range(100)]
        ),
    )
    contexts = torch.cat(list(read_contexts(glass, dataset, cfg)))
    mask = counted_positions(contexts, glass.tokenizer.special_ids)
    expected = record_activations(glass, contexts.clamp(min=0).long(), [PRE])[PRE][mask]
    source = TextSource(glass, [PRE], dataset, cfg)
    store = ActivationStore(
        source,
        StoreConfig(n_tokens=len(expected), batch_size=50, buffer_tokens=500, dtype="float32"),
    )
    found = torch.cat(list(store.inputs(PRE)))
    assert found.shape == expected.shape and source.epoch == 0
    distances = torch.cdist(expected.double(), found.double()) / expected.double().norm(
        dim=1, keepdim=True
    )
    assert (
        float(distances.min(0).values.max()) < 1e-5 and float(distances.min(1).values.max()) < 1e-5
    )
    torch.testing.assert_close(
        found.double().sum(0), expected.double().sum(0), rtol=1e-4, atol=1e-2
    )


def test_a_transcoder_gets_what_it_reads_and_what_it_should_write_of_the_same_token(
    glass: LanguageModel,
) -> None:
    mlp = glass.bridge.original_model.model.layers[1]._original_component.mlp
    store = text_store(glass, [MID, POST, PRE], dtype="float32", n_tokens=2000)
    for x, y in store.pairs(MID, POST):
        with torch.no_grad():
            torch.testing.assert_close(mlp(x[None])[0], y, rtol=1e-4, atol=1e-5)


def test_the_buffer_rounds_to_bfloat16_and_batches_are_float32(glass: LanguageModel) -> None:
    half, full = (
        next(text_store(glass, [PRE], dtype=dtype))[PRE] for dtype in ("bfloat16", "float32")
    )
    assert half.dtype == full.dtype == torch.float32
    assert torch.equal(half, full.bfloat16().float()) and not torch.equal(half, full)


def test_several_hooks_cost_one_forward_pass(
    glass: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = text_store(glass, [PRE, MID, POST], n_tokens=4096)
    assert isinstance(store.source, TextSource) and store.source.harvester.plain is not None
    calls: list[int] = []
    plain = store.source.harvester.plain
    monkeypatch.setattr(
        store.source.harvester, "plain", lambda ids: calls.append(ids.numel()) or plain(ids)
    )
    list(store)
    assert 4096 < sum(calls) < 2 * 4096


def test_a_text_of_special_tokens_alone_is_an_error(glass: LanguageModel) -> None:
    source = TextSource(
        glass,
        [PRE],
        Dataset("test", "print", lambda: iter(["<eos><eos><eos>"] * 30)),
        ContextConfig(context_size=16),
    )
    with pytest.raises(SaescopeError, match="no text") as caught:
        next(ActivationStore(source, StoreConfig(n_tokens=10, batch_size=5)))
    assert caught.value.code == "DATASET_EMPTY"


def test_activations_that_are_not_finite_are_an_error(
    glass: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = text_store(glass, [PRE])
    assert isinstance(store.source, TextSource)
    monkeypatch.setattr(store.source, "harvester", _Broken(store.source.harvester))
    with pytest.raises(SaescopeError, match="not finite") as caught:
        next(store)
    assert caught.value.code == "NON_FINITE_RESULT"


class _Broken(Harvester):
    def __init__(self, harvester: Harvester) -> None:
        self.model = harvester.model
        self.harvester = harvester

    def __call__(self, ids: Tensor) -> dict[str, Tensor]:
        return {
            name: x.index_fill(1, torch.tensor([3]), float("inf"))
            for name, x in self.harvester(ids).items()
        }


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_size": 300}, {"batch_size": 200, "buffer_tokens": 100}]
)
def test_a_batch_that_does_not_fit_is_an_error(options: dict[str, int]) -> None:
    with pytest.raises(SaescopeError, match="does not fit"):
        _config({"n_tokens": 256} | options)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_below_what_is_stated(glass: LanguageModel) -> None:
    store = text_store(glass, [PRE, POST], n_tokens=2**18, buffer_tokens=2**16, dtype="float32")
    stated = store.memory_bytes
    assert stated == pytest.approx(2**16 * 2 * 128 * 4, rel=0.2)
    before = _resident()
    for _ in range(50):
        next(store)
    full = _resident()
    for _ in range(250):
        next(store)
    assert full - before < stated + 64 * 2**20
    assert _resident() - full < 16 * 2**20


def _resident() -> int:
    gc.collect()
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.model
def test_no_row_of_a_real_model_has_the_outlying_norm_of_a_first_position(
    smollm: LanguageModel,
) -> None:
    hook = "blocks.14.hook_resid_post"
    dataset = Dataset(
        "test",
        "print",
        lambda: iter(
            [f"{'0' * 40} is the number {i} of many. Alice was tired of it. " for i in range(60)]
        ),
    )
    source = TextSource(smollm, [hook], dataset, ContextConfig(context_size=64))
    rows = torch.cat([source.next_rows()[hook] for _ in range(2)])
    norms = rows.norm(dim=1)
    assert source.harvester.plain is not None and float(norms.max() / norms.median()) < 10
