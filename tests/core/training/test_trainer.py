"""Runs: same seed same weights, resume bit for bit, stopping, failing, and what comes out."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from tests.core.training.helpers import BATCH, D_IN, D_SAE, KNOBS, batches, config, true_features
from torch import Tensor

from saescope import checkpoints as disk
from saescope.errors import ConfigError, NotFoundError, NumericError
from saescope.training import (
    ListBatches,
    TrainConfig,
    Trainer,
    TrainingProgress,
    stop_on_signals,
)
from saescope.training.history import History
from saescope.training.losses import output
from saescope.training.objective import Batch


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    return {**trainer.params, **trainer.adam.state(), "idle": trainer.deadness.idle}


def same(a: Trainer, b: Trainer) -> bool:
    mine, other = state_of(a), state_of(b)
    return mine.keys() == other.keys() and all(
        torch.equal(tensor, other[name]) for name, tensor in mine.items()
    )


def stopped_after(
    cfg: TrainConfig, folder: Path, step: int, data: list[Tensor]
) -> TrainingProgress:
    stop = threading.Event()
    return Trainer(cfg, ListBatches(data), folder=folder).run(
        stop=stop, report=lambda at: stop.set() if at.step >= step else None
    )


@pytest.mark.parametrize("architecture", KNOBS)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(architecture: str) -> None:
    data = batches(30)
    runs = [Trainer(config(architecture, seed=seed), ListBatches(data)) for seed in (3, 3, 4)]
    for trainer in runs:
        assert trainer.run().state == "done"
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize("step", [2, 17])
@pytest.mark.parametrize("architecture", KNOBS)
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(
    architecture: str, step: int, tmp_path: Path
) -> None:
    data, cfg = (
        batches(30),
        config(architecture, log_every=1, revival="auto", dead_feature_window=5),
    )
    straight = Trainer(cfg, ListBatches(data))
    straight.run()
    assert stopped_after(cfg, tmp_path, step, data)[:2] == ("stopped", step)
    resumed = Trainer.resume(tmp_path, ListBatches(data), cfg=cfg)
    assert resumed.step == step
    assert resumed.run().state == "done"
    assert same(straight, resumed)
    assert straight.history.points == resumed.history.points
    assert straight.result().weights_hash == resumed.result().weights_hash


@pytest.mark.parametrize(
    "knobs",
    [
        {"normalize_activations": "covariance_whitening"},
        {"decoder_norm": "unit"},
        {"revival": "resample"},
    ],
)
def test_resuming_is_bit_equal_with_rarer_knobs(knobs: dict[str, Any], tmp_path: Path) -> None:
    data, cfg = (
        batches(40),
        config("standard", n_steps=40, log_every=1, dead_feature_window=3, **knobs),
    )
    straight = Trainer(cfg, ListBatches(data))
    straight.run()
    stopped_after(cfg, tmp_path, 11, data)
    resumed = Trainer.resume(tmp_path, ListBatches(data))
    resumed.run()
    assert same(straight, resumed)


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    stopped_after(config(log_every=1), tmp_path, 3, batches(30))
    with pytest.raises(ConfigError, match=r"'lr': 0\.003") as caught:
        Trainer.resume(tmp_path, ListBatches(batches(30)), cfg=config(log_every=1, lr=1e-3))
    assert caught.value.code == "RESUME_MISMATCH"


def test_a_choice_that_is_spelled_out_is_no_other_setting(tmp_path: Path) -> None:
    cfg = config(log_every=1)
    stopped_after(cfg, tmp_path, 3, batches(30))
    spelled_out = replace(cfg, **cfg.chosen._asdict())
    assert spelled_out != cfg
    resumed = Trainer.resume(tmp_path, ListBatches(batches(30)), cfg=spelled_out)
    assert resumed.step == 3 and resumed.cfg == spelled_out


def test_a_new_run_never_writes_among_the_checkpoints_of_another(tmp_path: Path) -> None:
    stopped_after(config(log_every=1), tmp_path, 3, batches(30))
    with pytest.raises(ConfigError, match="already has the checkpoints") as caught:
        Trainer(config(), ListBatches([]), folder=tmp_path)
    assert caught.value.code == "FOLDER_IN_USE"


def test_stopping_right_after_resuming_keeps_the_checkpoint(tmp_path: Path) -> None:
    stopped_after(config(log_every=1), tmp_path, 3, batches(30))
    stop = threading.Event()
    stop.set()
    assert Trainer.resume(tmp_path, ListBatches(batches(30))).run(stop=stop)[:2] == ("stopped", 3)
    assert disk.load_latest(tmp_path).state["step"] == 3


def test_resuming_from_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="No complete checkpoint"):
        Trainer.resume(tmp_path, ListBatches([]))


def test_a_source_that_runs_dry_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer(config(), ListBatches(batches(12)), folder=tmp_path)
    progress = trainer.run()
    assert progress[:2] == ("exhausted", 12)
    assert disk.load_latest(tmp_path).state["step"] == 12


def test_batches_of_the_wrong_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="maps 16 to 16"):
        Trainer(config(), ListBatches([torch.zeros(4, 9)])).run()


def test_a_diverging_run_stops_and_keeps_the_checkpoint_from_before(tmp_path: Path) -> None:
    data = batches(20)
    data[15] = torch.full_like(data[15], torch.inf)
    stopped_after(config(log_every=1), tmp_path, 9, data)
    with pytest.raises(NumericError) as caught:
        Trainer.resume(tmp_path, ListBatches(data)).run()
    assert caught.value.code == "LOSS_NOT_FINITE"
    assert disk.load_latest(tmp_path).state["step"] == 9


@pytest.fixture
def unhandled() -> Iterator[Callable[[int, FrameType | None], Any]]:
    """What answers SIGTERM where nothing else does."""

    def fail(_signal: int, _frame: FrameType | None) -> None:
        pytest.fail("SIGTERM was not handled")

    before = signal.signal(signal.SIGTERM, fail)
    yield fail
    signal.signal(signal.SIGTERM, before)


def test_sigterm_leaves_a_complete_checkpoint_and_the_run_goes_on(
    tmp_path: Path, unhandled: Callable[[int, FrameType | None], Any]
) -> None:
    data, cfg = batches(30), config(log_every=1)
    straight = Trainer(cfg, ListBatches(data))
    straight.run()
    trainer = Trainer(cfg, ListBatches(data), folder=tmp_path)
    with stop_on_signals() as stop:
        progress = trainer.run(
            stop=stop,
            report=lambda at: os.kill(os.getpid(), signal.SIGTERM) if at.step == 7 else None,
        )
    assert signal.getsignal(signal.SIGTERM) is unhandled
    assert progress[:2] == ("stopped", trainer.step) and 7 <= trainer.step < 30
    assert disk.load_latest(tmp_path).state["step"] == trainer.step
    resumed = Trainer.resume(tmp_path, ListBatches(data))
    assert resumed.run().state == "done" and same(straight, resumed)


def test_periodic_checkpoints_keep_only_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr("saescope.checkpoints.time.monotonic", lambda: float(next(clock)))
    Trainer(
        config(checkpoint_every_s=4.0, keep_checkpoints=2),
        ListBatches(batches(30)),
        folder=tmp_path,
    ).run()
    assert len(list(tmp_path.glob("ckpt-*"))) == 2
    assert disk.load_latest(tmp_path).state["step"] == 30


@pytest.mark.parametrize(
    "normalization", ["none", "expected_average_only_in", "covariance_whitening"]
)
@pytest.mark.parametrize("architecture", KNOBS)
def test_the_result_reconstructs_raw_activations_as_training_did_scaled_ones(
    architecture: str, normalization: str
) -> None:
    trainer = Trainer(
        config(architecture, normalize_activations=normalization), ListBatches(batches(30))
    )
    trainer.run()
    sae = trainer.result()
    assert trainer.scaling is not None
    assert sae.cfg.normalize_activations == "none"
    raw = batches(1, seed=9)[0]
    scaled = trainer.scaling(Batch(raw, raw)).x
    acts = sae.encode(raw) if normalization == "none" else None
    assert torch.isfinite(sae(raw)).all()
    error = (sae(raw) - raw).square().sum() / (raw - raw.mean(0)).square().sum()
    assert 0 < float(error) < 1
    if acts is not None and architecture == "standard":
        assert torch.allclose(sae(raw), output(trainer.params, acts, scaled), atol=1e-4)


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=[] if name in ("standard", "topk") else pytest.mark.slow)
        for name in KNOBS
    ],
)
def test_a_skip_transcoder_predicts_the_other_site(architecture: str) -> None:
    inputs = batches(150)
    mixing = torch.randn(D_IN, 10, generator=torch.Generator().manual_seed(2))
    pairs = [(x, 40 * x.relu() @ mixing) for x in inputs]
    cfg = config(
        architecture, n_steps=150, hook_name_out="blocks.1.hook_mlp_out", d_out=10, skip=True
    )
    trainer = Trainer(cfg, ListBatches(pairs))
    trainer.run()
    sae = trainer.result()
    x = batches(1, seed=9)[0]
    y = 40 * x.relu() @ mixing
    assert sae.cfg.transcoder
    assert sae(x).shape == y.shape
    assert float((sae(x) - y).square().sum() / (y - y.mean(0)).square().sum()) < 0.5


@pytest.mark.parametrize(
    "architecture",
    ["topk", *(pytest.param(each, marks=pytest.mark.slow) for each in ("batchtopk", "standard"))],
)
def test_training_recovers_known_features(architecture: str) -> None:
    features = true_features(24, 32)
    data = batches(400, size=256, features=features)
    cfg = config(
        architecture,
        d_in=32,
        d_sae=32,
        n_steps=400,
        batch_size=256,
        training_tokens=400 * 256,
        l1_coefficient=3.0,
    )
    trainer = Trainer(cfg, ListBatches(data))
    trainer.run()
    rows = torch.nn.functional.normalize(trainer.result().W_dec, dim=1)
    assert float((features @ rows.T).amax(1).mean()) > 0.9


@pytest.mark.slow
def test_history_stays_short() -> None:
    trainer = Trainer(config(n_steps=900, log_every=1), ListBatches(batches(30) * 30))
    trainer.run()
    assert len(trainer.history.points) <= 400
    assert trainer.history.points[-1]["step"] == 900
    assert {
        "loss",
        "mse_loss",
        "l0",
        "explained_variance",
        "dead_share",
        "lr",
        "n_tokens",
    } <= trainer.history.points[-1].keys()


def test_a_history_is_thinned_evenly_however_long_the_run() -> None:
    history = History(every=1)
    for step in range(1, 20_001):
        if history.due(step, 20_000):
            history.add({"step": step})
    steps = [int(point["step"]) for point in history.points]
    assert 200 <= len(steps) <= 400 and steps[-1] == 20_000
    assert {b - a for a, b in pairwise(steps[:-1])} == {history.every}


def test_firings_are_those_of_the_steps_since_the_last_point() -> None:
    each, fourth = (
        Trainer(config("topk", n_steps=12, log_every=n), ListBatches(batches(12))) for n in (1, 4)
    )
    counts = list[Tensor]()
    for step in range(1, 13):
        each.advance()
        fourth.advance()
        one, last = each.firings.last, fourth.firings.last
        assert one is not None and one.n_tokens == BATCH
        assert float(one.counts.sum()) / BATCH == each.history.points[-1]["l0"]
        counts.append(one.counts)
        if step % 4 == 0:
            assert last is not None and last.n_tokens == 4 * BATCH
            assert last.counts.equal(torch.stack(counts[-4:]).sum(0))


def test_resampling_revives_dead_features() -> None:
    cfg = config(
        "standard",
        n_steps=60,
        revival="resample",
        dead_feature_window=4,
        resample_every=10,
        lr_decay_steps=5,
    )
    trainer = Trainer(cfg, ListBatches(batches(60)))
    trainer.params["b_enc"][:20] = -100.0
    trainer.run()
    assert float(trainer.params["b_enc"][:20].min()) > -1
    assert int(trainer.deadness.mask[:20].sum()) < 5


def test_unit_decoder_rows_stay_unit() -> None:
    trainer = Trainer(config("standard", decoder_norm="unit"), ListBatches(batches(30)))
    trainer.run()
    assert torch.allclose(trainer.params["decoder"].norm(dim=1), torch.ones(D_SAE), atol=1e-6)


def test_nothing_is_written_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(config(n_steps=3), ListBatches(batches(3)))
    trainer.run()
    assert trainer.n_tokens == 3 * BATCH
    assert list(tmp_path.iterdir()) == []
