"""Sets: many SAEs from one pass of the model, each the same as alone, however the run is cut."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.core.training.test_run import SMALL

from saescope.activations import Harvester
from saescope.errors import ArgumentError, ConfigError, NumericError
from saescope.evals import check_sae
from saescope.load import load_sae
from saescope.models import LanguageModel
from saescope.saes import SAE
from saescope.splice import check_fits
from saescope.training import (
    SetRun,
    TrainConfig,
    make_set_plan,
    plan,
    read_sweep,
    set_run,
    site,
    train,
    train_config,
    train_configs,
)
from saescope.training.budget import by_site, group_bytes, grouped, in_order, site_bytes
from saescope.training.data import text_source
from saescope.training.sets import layers_of, names_of

IN, OUT = "blocks.{layer}.mlp.hook_in", "blocks.{layer}.hook_mlp_out"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, small_pool: None) -> None:
    monkeypatch.setattr(plan, "MEASURE_S", 0.01)


def transcoders(model: LanguageModel, **more: Any) -> list[TrainConfig]:
    return train_configs(model, IN, hook_name_out=OUT, layers="all", **SMALL | more)


FEW: dict[str, Any] = {
    "training_tokens": 1024,
    "n_batches_for_norm_estimate": 2,
    "buffer_tokens": 300,
}


def a_few(model: LanguageModel, **more: Any) -> list[TrainConfig]:
    """Transcoders of two layers, 8 steps of each."""
    return train_configs(model, IN, hook_name_out=OUT, layers="0,2", **SMALL | FEW | more)


def several(model: LanguageModel, **more: Any) -> list[TrainConfig]:
    sweep = {"k": [4.0, 8.0], "seed": [0, 3]}
    return train_configs(model, "blocks.1.hook_resid_post", sweep=sweep, **SMALL | more)


def hashes(saes: dict[str, SAE]) -> dict[str, str]:
    return {name: sae.weights_hash for name, sae in saes.items()}


def alone(configs: list[TrainConfig], model: LanguageModel) -> dict[str, str]:
    return {name: train(cfg, model=model).weights_hash for name, cfg in names_of(configs).items()}


@pytest.mark.parametrize(
    "more",
    [
        {},
        pytest.param({"architecture": "batchtopk", "skip": True}, marks=pytest.mark.slow),
        pytest.param({"architecture": "jumprelu"}, marks=pytest.mark.slow),
        pytest.param({"normalize_activations": "none", "d_sae": 40}, marks=pytest.mark.slow),
    ],
)
def test_each_transcoder_of_a_pass_is_the_one_trained_alone(
    glass: LanguageModel, more: dict[str, Any]
) -> None:
    configs = transcoders(glass, **FEW | more)
    trained = train(configs, model=glass)
    assert list(trained.saes) == [f"layer_{layer}" for layer in range(glass.n_layers)]
    assert not trained.failed and hashes(trained.saes) == alone(configs, glass)


def test_several_saes_at_one_site_are_those_trained_alone_in_the_same_order(
    glass: LanguageModel,
) -> None:
    configs = several(glass, **FEW)
    trained = train(configs, model=glass)
    assert list(trained.saes) == ["k4_seed0", "k4_seed3", "k8_seed0", "k8_seed3"]
    assert hashes(trained.saes) == alone(configs, glass)
    other_order = train(replace(configs[1], data_seed=-1), model=glass)
    assert other_order.weights_hash != trained.saes["k4_seed3"].weights_hash


def test_sinks_at_one_site_are_missing_there_alone(
    glass: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glass, "sink_factor", 1.15)
    glass.typical_norms.clear()
    configs = train_configs(glass, "blocks.{layer}.hook_resid_post", layers="0,2", **SMALL | FEW)
    taken = [len(text_source(cfg, glass).next_rows()[cfg.hook_name]) for cfg in configs]
    assert taken[0] != taken[1]
    assert hashes(train(configs, model=glass).saes) == alone(configs, glass)
    glass.typical_norms.clear()


def test_the_model_runs_as_often_for_all_as_for_one(
    glass: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"passes": 0, "alone": 0}
    harvest, stream = Harvester.__call__, Harvester.stream

    def one(self: Harvester, ids: Any) -> Any:
        counts["alone"] += 1
        return harvest(self, ids)

    def all_at_once(self: Harvester, ids: Any, take: Any) -> None:
        counts["passes"] += 1
        stream(self, ids, take)

    monkeypatch.setattr(Harvester, "__call__", one)
    monkeypatch.setattr(Harvester, "stream", all_at_once)
    configs = a_few(glass)
    train(configs, model=glass)
    train(configs[0], model=glass)
    assert counts["passes"] == counts["alone"]


def test_activations_of_two_sites_are_never_there_at_once(
    glass: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    take = site.TrainingSite.take

    def noted(self: site.TrainingSite, rows: Any) -> None:
        order.append(f"in {self.hook_names[0]}")
        take(self, rows)
        assert not self.source.state_dict()
        order.append(f"out {self.hook_names[0]}")

    monkeypatch.setattr(site.TrainingSite, "take", noted)
    train(transcoders(glass, **FEW), model=glass)
    first = [IN.format(layer=layer) for layer in range(glass.n_layers)]
    assert order[: 2 * len(first)] == [f"{way} {name}" for name in first for way in ("in", "out")]


class Stops(threading.Event):
    """Set once it has been asked so many times: between any two steps or passes."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


def n_looks(configs: list[TrainConfig], model: LanguageModel) -> int:
    stop = Stops(10**9)
    SetRun(configs, model, stop=stop).go(keep=lambda name, sae: None)
    return 10**9 - stop.left


def in_pieces(
    configs: list[TrainConfig], model: LanguageModel, folder: Path, stops: Iterator[int]
) -> dict[str, SAE]:
    """The SAEs of a run that is stopped after so many looks, again and again."""
    saes: dict[str, SAE] = {}
    for after in stops:
        run = SetRun(configs, model, folder=folder, stop=Stops(after))
        if run.go(keep=saes.__setitem__).state == "done":
            break
    else:
        SetRun(configs, model, folder=folder).go(keep=saes.__setitem__)
    return saes


@pytest.mark.parametrize(("kind", "n_pieces"), [(a_few, 3), (several, 2)])
def test_stopped_after_any_look_it_goes_on_bit_for_bit(
    glass: LanguageModel, tmp_path: Path, kind: Any, n_pieces: int
) -> None:
    configs = kind(glass, **FEW)
    straight = hashes(train(configs, model=glass).saes)
    each = n_looks(configs, glass) // n_pieces
    assert hashes(in_pieces(configs, glass, tmp_path, iter([each] * (n_pieces - 1)))) == straight


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.thorough) for part in (1, 2, 3))]
)
def test_stopped_after_every_look_it_goes_on_bit_for_bit(
    glass: LanguageModel, tmp_path: Path, part: int
) -> None:
    configs = several(glass, **FEW)[:2] + train_configs(
        glass, "blocks.2.hook_mlp_out", **SMALL | FEW
    )
    straight = hashes(train(configs, model=glass).saes)
    for after in range(part, n_looks(configs, glass), 4):
        pieces = in_pieces(configs, glass, tmp_path / str(after), iter([after]))
        assert hashes(pieces) == straight
    many = in_pieces(configs, glass, tmp_path / "many", iter([3 + part] * 40))
    assert hashes(many) == straight


@pytest.mark.parametrize(
    "n_writes", [pytest.param(n, marks=[pytest.mark.slow] * (n != 2)) for n in range(1, 8)]
)
def test_killed_between_the_checkpoints_of_two_sites_it_goes_on_bit_for_bit(
    glass: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_writes: int
) -> None:
    configs = a_few(glass, training_tokens=8192)
    straight = hashes(train(configs, model=glass).saes)
    monkeypatch.setattr(set_run.disk.Schedule, "due", property(lambda self: True))
    save, left = set_run.disk.save, iter(range(n_writes))

    def write(*args: Any, **more: Any) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return save(*args, **more)

    monkeypatch.setattr(set_run.disk, "save", write)
    with pytest.raises(KeyboardInterrupt):
        SetRun(configs, glass, folder=tmp_path).go(keep=lambda name, sae: None)
    monkeypatch.setattr(set_run.disk, "save", save)
    assert hashes(train(configs, model=glass, folder=tmp_path).saes) == straight


def test_a_damaged_site_goes_on_from_what_is_whole(glass: LanguageModel, tmp_path: Path) -> None:
    configs = a_few(glass)
    straight = hashes(train(configs, model=glass).saes)
    SetRun(configs, glass, folder=tmp_path, stop=Stops(9)).go(keep=lambda name, sae: None)
    hurt = sorted(tmp_path.glob("blocks.0.*/ckpt-*"))[-1] / "store.safetensors"
    hurt.write_bytes(hurt.read_bytes()[:-8])
    run, saes = SetRun(configs, glass, folder=tmp_path), dict[str, SAE]()
    run.go(keep=saes.__setitem__)
    assert hashes(saes) == straight
    assert any("store.safetensors is not as it was written" in warning for warning in run.warnings)


def test_groups_change_nothing(
    glass: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = transcoders(glass, **FEW)
    straight = hashes(train(configs, model=glass).saes)
    sites = in_order(by_site(names_of(configs)))
    assert len(grouped(sites, group_bytes(sites))) == 1
    assert len(grouped(sites, 0)) == len(sites)
    half = group_bytes(sites[: -(-len(sites) // 2)])
    assert len(grouped(sites, half)) == 2
    monkeypatch.setattr(set_run, "room", lambda device: half)
    stopped = SetRun(configs, glass, folder=tmp_path, stop=Stops(30))
    assert stopped.go(keep=lambda name, sae: None).state == "stopped"
    assert hashes(train(configs, model=glass, folder=tmp_path).saes) == straight


def test_a_group_holds_what_its_sites_hold(glass: LanguageModel) -> None:
    sites = by_site(names_of(transcoders(glass)))
    cfg = next(iter(sites[0].values()))
    n = 64 * (128 + 128 + 4) + 128
    buffer, first = 1024 * (2 * 2 * 128 + 8), 8 * 128 * (128 + 128) * 4
    assert site_bytes(sites[0]) == buffer + first + 3 * 4 * n
    assert group_bytes(sites[:2]) - group_bytes(sites[:1]) == site_bytes(sites[1])
    two = by_site(names_of([cfg, replace(cfg, seed=1)]))
    assert site_bytes(two[0]) == site_bytes(sites[0]) + 3 * 4 * n


def test_one_that_diverges_does_not_lose_the_others(glass: LanguageModel, tmp_path: Path) -> None:
    good = transcoders(glass, **FEW)
    configs = [good[0], replace(good[1], lr=1e30), *good[2:]]
    straight = train(good, model=glass)
    trained = train(configs, model=glass, folder=tmp_path)
    lost = next(name for name, cfg in names_of(configs).items() if cfg.lr == 1e30)
    assert list(trained.failed) == [lost] and "no longer finite" in trained.failed[lost]
    kept = [sae.weights_hash for sae in trained.saes.values()]
    assert kept == [h for name, h in hashes(straight.saes).items() if name != "layer_1"]
    again = train(configs, model=glass, folder=tmp_path)
    assert again.failed == trained.failed and hashes(again.saes) == hashes(trained.saes)
    with pytest.raises(NumericError, match="no longer finite"):
        train([replace(cfg, lr=1e30) for cfg in good[:2]], model=glass)


def test_a_set_is_saved_as_a_folder_of_layers(glass: LanguageModel, tmp_path: Path) -> None:
    train(transcoders(glass, **FEW), model=glass).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"layer_{layer}" for layer in range(glass.n_layers)
    ]
    sae = load_sae(tmp_path / "layer_2")
    metadata = sae.cfg.metadata
    assert sae.cfg.transcoder
    assert (metadata.hook_name, metadata.hook_name_out) == (IN.format(layer=2), OUT.format(layer=2))
    cfg = json.loads((tmp_path / "layer_2" / "cfg.json").read_text())
    assert cfg["architecture"] == "topk_transcoder" or cfg["architecture"].endswith("transcoder")


def test_another_set_does_not_go_on_from_its_checkpoints(
    glass: LanguageModel, tmp_path: Path
) -> None:
    SetRun(a_few(glass), glass, folder=tmp_path, stop=Stops(9)).go(keep=lambda n, s: None)
    with pytest.raises(ConfigError, match=r"other settings.*'k': 4") as caught:
        train(a_few(glass, k=5.0), model=glass, folder=tmp_path)
    assert caught.value.code == "RESUME_MISMATCH"


def test_names_tell_sites_and_what_differs(glass: LanguageModel) -> None:
    pairs = train_configs(
        glass, IN, hook_name_out=OUT, layers="1-2", sweep={"k": [4.0, 8.0]}, **SMALL
    )
    assert list(names_of(pairs)) == ["k4/layer_1", "k8/layer_1", "k4/layer_2", "k8/layer_2"]
    assert list(names_of(transcoders(glass)[:1])) == ["layer_0"]
    two_sites = [
        train_config(glass, f"blocks.1.hook_{site}", **SMALL) for site in ("resid_pre", "mlp_out")
    ]
    assert list(names_of(two_sites)) == ["layer_1.resid_pre", "layer_1.mlp_out"]


@pytest.mark.parametrize(
    ("text", "layers"), [("all", [0, 1, 2, 3]), ("0-2", [0, 1, 2]), ("3,1,1-2", [1, 2, 3])]
)
def test_layers_are_read(text: str, layers: list[int]) -> None:
    assert layers_of(text, 4) == layers


@pytest.mark.parametrize("text", ["4", "2-1", "0-4", "a", "1,,2", "-1", "1-"])
def test_layers_that_are_not_there_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"layers|no layer"):
        layers_of(text, 4)


def test_what_does_not_go_together_is_refused(glass: LanguageModel) -> None:
    for hook_name, layers in ((IN, ""), ("blocks.1.mlp.hook_in", "all")):
        with pytest.raises(ArgumentError, match="do not go together"):
            train_configs(glass, hook_name, layers=layers, **SMALL)
    one = transcoders(glass)[0]
    with pytest.raises(ConfigError, match="have one context_size"):
        train([one, replace(one, context_size=16)], model=glass)
    with pytest.raises(ConfigError, match="same configuration"):
        train([one, one], model=glass)
    with pytest.raises(ConfigError, match="reads the text once"):
        train([replace(one, cache_activations=True)], model=glass)


def test_options_list_what_several_saes_differ_in() -> None:
    assert read_sweep(["k=16,32", "skip=true", "seed=0,1"]) == (
        ["skip=true"],
        {"k": [16.0, 32.0], "seed": [0, 1]},
    )
    for wrong in ("k=16,16", "d_sae=a", "seed="):
        with pytest.raises(ArgumentError, match="must list different numbers"):
            read_sweep([wrong])


def test_the_plan_counts_one_reading_and_the_steps_of_all(
    glass: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = transcoders(glass)
    planned = make_set_plan(configs, glass, folder=tmp_path)
    assert planned.fits and (planned.n_saes, planned.n_passes) == (glass.n_layers, 1)
    assert planned.step_tokens_per_s and planned.eta_s
    expected = 4096 * (1 / planned.harvest_tokens_per_s + 1 / planned.step_tokens_per_s)
    assert planned.eta_s == pytest.approx(expected)
    sites = in_order(by_site(names_of(configs)))
    monkeypatch.setattr("saescope.training.set_plan.room", lambda d: group_bytes(sites[:2]))
    halves = make_set_plan(configs, glass, folder=tmp_path)
    assert halves.n_passes == -(-glass.n_layers // 2)
    assert any("the text is read" in warning for warning in halves.warnings)


def test_each_sae_of_a_set_has_its_own_curves_in_tensorboard(
    glass: LanguageModel, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard comes with an extra")
    train(transcoders(glass, logger="tensorboard", **FEW)[:2], model=glass, folder=tmp_path)
    for name in ("layer_0", "layer_1"):
        assert list((tmp_path / "logs" / name / "tensorboard").glob("events*"))


def test_the_set_that_ships_says_what_made_it_and_is_worth_what_its_scores_say(
    glass: LanguageModel, glass_dir: Path
) -> None:
    folder = glass_dir.parent / "glassllm-transcoders"
    scores = json.loads((folder / "scores.json").read_text())
    assert list(scores) == [f"layer_{layer}" for layer in range(glass.n_layers)]
    for name, score in scores.items():
        sae = load_sae(folder / name)
        stored = load_file(folder / name / "sae_weights.safetensors")
        assert all(tensor.dtype == torch.float16 for tensor in stored.values())
        assert torch.equal(sae.W_dec, stored["W_dec"].float())  # exactly what is stored
        assert sae.cfg.metadata.raw["trained_by"] == "scripts/train_circuit_set.py"
        assert check_fits(glass, sae) == []
        check = check_sae(glass, sae)
        assert check.explained_variance is not None
        assert check.explained_variance == pytest.approx(score["explained_variance"], abs=0.15)
