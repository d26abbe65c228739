"""Runs on the tiny model: what is filled in, bit-equal resumes wherever they stop, cached
activations, plans."""

import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import saescope as ss
from saescope.activations import ActivationStore, Harvester, sources
from saescope.activations.buffer import Rows
from saescope.activations.sources import FORWARD_TOKENS
from saescope.errors import ConfigError, FormatError, HookError, NotFoundError, ResourceError
from saescope.load import load_sae
from saescope.models import LanguageModel
from saescope.splice import check_fits
from saescope.training import Plan, TrainConfig, TrainingRun, make_plan, plan, train, train_config
from saescope.training.data import Rate, WatchedSource
from saescope.training.history import concerns
from saescope.training.memory import buffer_bytes, disk_bytes
from saescope.training.run import newest_checkpoint, public_name

HOOK = "blocks.2.hook_resid_post"
SMALL: dict[str, Any] = {
    "training_tokens": 4096,
    "batch_size": 128,
    "d_sae": 64,
    "k": 4.0,
    "context_size": 32,
    "buffer_tokens": 1024,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, small_pool: None) -> None:
    monkeypatch.setattr(plan, "MEASURE_S", 0.01)


def small(model: LanguageModel, **more: Any) -> TrainConfig:
    return train_config(model, HOOK, **SMALL | more)


def test_the_model_decides_what_is_not_said(glass: LanguageModel) -> None:
    cfg = train_config(glass, HOOK)
    assert (cfg.model, cfg.d_in, cfg.chosen.d_out, cfg.d_sae, cfg.context_size) == (
        "glassllm-en",
        128,
        128,
        1024,
        128,
    )
    assert train_config(glass, HOOK, expansion_factor=2).d_sae == 256
    with pytest.raises(HookError, match=r"blocks\.9"):
        train_config(glass, "blocks.9.hook_resid_post")


def test_train_gives_an_sae_that_knows_where_it_belongs(glass: LanguageModel) -> None:
    sae = ss.train(small(glass), model=glass)
    assert (sae.cfg.metadata.model_name, sae.cfg.metadata.hook_name, sae.cfg.d_sae) == (
        "glassllm-en",
        HOOK,
        64,
    )
    assert ss.check_sae(glass, sae).l0 == 4


def test_a_saved_sae_knows_its_model_by_the_weights(glass: LanguageModel, tmp_path: Path) -> None:
    train(small(glass), model=glass).save(tmp_path / "sae")
    sae = load_sae(tmp_path / "sae")
    assert check_fits(glass, sae) == []
    with torch.no_grad():
        weight = next(glass.bridge.original_model.parameters())
        was = weight.flatten()[0].clone()
        weight.view(-1)[0] += 1
        try:
            assert "only the measured check tells" in check_fits(glass, sae)[0]
        finally:
            weight.view(-1)[0] = was


def test_the_same_call_goes_on_where_it_was_cut_off(glass: LanguageModel, tmp_path: Path) -> None:
    straight = train(small(glass), model=glass)
    stop = threading.Event()
    run = TrainingRun(small(glass), glass, folder=tmp_path, stop=stop)
    run.go(report=lambda at: stop.set() if at.step >= 9 else None)
    assert (
        newest_checkpoint(tmp_path) == tmp_path / f"ckpt-{run.trainer.step:08d}"
        and 9 <= run.trainer.step < 32
    )
    assert train(small(glass), model=glass, folder=tmp_path).weights_hash == straight.weights_hash


@pytest.mark.parametrize(
    ("n_passes", "more"),
    [
        pytest.param(0, {}, marks=pytest.mark.slow),
        pytest.param(1, {}, marks=pytest.mark.slow),
        pytest.param(2, {}, marks=pytest.mark.slow),
        pytest.param(4, {}, marks=pytest.mark.slow),
        (1, {"cache_activations": True}),
        pytest.param(2, {"normalize_activations": "none"}, marks=pytest.mark.slow),
    ],
)
def test_stopped_between_two_forward_passes_it_goes_on_bit_for_bit(
    glass: LanguageModel, tmp_path: Path, n_passes: int, more: dict[str, Any]
) -> None:
    cfg = small(glass, training_tokens=12_288, buffer_tokens=5000, **more)
    straight = train(cfg, model=glass)
    run = TrainingRun(cfg, glass, folder=tmp_path)
    stop_after(run, n_passes)
    assert run.go().state == "stopped"
    resumed = TrainingRun(cfg, glass, folder=tmp_path)
    assert (
        resumed.trainer.step == run.trainer.step
        and resumed.store.n_received == run.store.n_received
    )
    assert resumed.go().state == "done"
    assert resumed.sae().weights_hash == straight.weights_hash


def stop_after(run: TrainingRun, n_passes: int) -> None:
    """Set the stop flag while the source is at work for the `n_passes`-th time, as a signal may."""
    give, left = run.source.source.next_rows, iter(range(n_passes, 0, -1))

    def next_rows() -> Rows:
        if next(left, 1) == 1:
            run.stop.set()
        return give()

    run.source.source.next_rows = next_rows
    if not n_passes:
        run.stop.set()


def test_a_transcoder_reads_one_site_and_predicts_another(glass: LanguageModel) -> None:
    knobs: dict[str, Any] = SMALL | {"hook_name_out": "blocks.1.hook_mlp_out", "skip": True}
    sae = train(train_config(glass, "blocks.1.mlp.hook_in", **knobs), model=glass)
    assert sae.cfg.transcoder and sae.W_skip is not None and bool(sae.W_skip.abs().sum() > 0)


def test_contexts_need_not_join_documents(glass: LanguageModel, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    lines = [f"The fox number {i} saw the sea and the old man by the hill." for i in range(300)]
    text.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    sae = train(small(glass, dataset=str(text), join_documents=False), model=glass)
    assert sae.cfg.metadata.raw["disable_concat_sequences"]
    assert train(small(glass, dataset=str(text)), model=glass).weights_hash != sae.weights_hash


def test_a_separator_that_nothing_reads_is_refused(glass: LanguageModel) -> None:
    with pytest.raises(ConfigError) as caught:
        small(glass, join_documents=False, document_separator="bos")
    assert (caught.value.code, caught.value.field) == (
        "CONFLICTING_ARGUMENTS",
        "document_separator",
    )


def test_the_plan_does_not_count_what_fills_up_a_context(
    glass: LanguageModel, tmp_path: Path
) -> None:
    text = tmp_path / "text.jsonl"
    lines = [f"The fox number {i} saw the sea." for i in range(300)]
    text.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    apart = made(
        glass, tmp_path, dataset=str(text), training_tokens=2**17, join_documents=False
    ).warnings[0]
    found = re.search(r"about ([\d,]+) tokens", apart)
    n_tokens = sum(
        len(glass.tokenize(json.loads(line)["text"], prepend_bos=False).ids)
        for line in text.read_text().splitlines()
    )
    assert found and int(found[1].replace(",", "")) == pytest.approx(n_tokens, rel=0.2)


def test_stored_activations_are_read_again(
    glass: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small(glass, cache_activations=True)
    first = train(cfg, model=glass)
    monkeypatch.setattr("saescope.activations.harvest.Harvester.__call__", refuse_to_run)
    assert train(replace(cfg, k=5.0), model=glass).weights_hash != first.weights_hash
    assert train(cfg, model=glass).weights_hash == first.weights_hash


def test_with_cached_tokens_the_model_runs_for_no_more_than_these(
    glass: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small(glass, cache_activations=True, cached_tokens=300)
    read: list[int] = []
    run_model = Harvester.__call__

    def count(harvester: Harvester, ids: Tensor) -> dict[str, Tensor]:
        read.append(ids.numel())
        return run_model(harvester, ids)

    monkeypatch.setattr(Harvester, "__call__", count)
    run = TrainingRun(cfg, glass)
    run.go()
    assert (
        run.trainer.n_tokens == cfg.n_steps * cfg.chosen.batch_size > 300 and run.source.epoch >= 1
    )
    assert sum(read) < 300 + FORWARD_TOKENS["cpu"]
    assert disk_bytes(cfg) - disk_bytes(
        replace(cfg, cache_activations=False)
    ) == 300 * cfg.d_in * 2 + 2 * buffer_bytes(cfg)


def refuse_to_run(*_: object) -> Rows:
    raise AssertionError("the model ran again")


def test_resuming_with_other_settings_or_from_torn_checkpoints_is_refused(
    glass: LanguageModel, tmp_path: Path
) -> None:
    train(small(glass), model=glass, folder=tmp_path)
    with pytest.raises(ConfigError) as caught:
        train(small(glass, lr=0.1), model=glass, folder=tmp_path)
    assert caught.value.code == "RESUME_MISMATCH"
    for manifest in tmp_path.glob("*/MANIFEST.json"):
        manifest.write_text("{}")
    with pytest.raises(FormatError) as torn:
        train(small(glass), model=glass, folder=tmp_path)
    assert torn.value.code == "CHECKPOINT_CORRUPT"


@pytest.mark.parametrize("cached", [False, True])
def test_a_checkpoint_of_another_fingerprint_of_the_model_is_refused(
    cached: bool, glass: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the checkpoints of a version that took it otherwise."""
    cfg = small(glass, cache_activations=cached)
    with monkeypatch.context() as before:
        before.setattr(sources, "model_fingerprint", lambda _: "taken otherwise")
        TrainingRun(cfg, glass, folder=tmp_path).trainer.save()
    with pytest.raises(ConfigError) as caught:
        TrainingRun(cfg, glass, folder=tmp_path)
    assert caught.value.code == "CHECKPOINT_MISMATCH"


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    glass: LanguageModel, tmp_path: Path
) -> None:
    run = TrainingRun(small(glass), glass, folder=tmp_path)
    run.trainer.save()
    run.go()
    (tmp_path / "ckpt-00000032" / "sae.safetensors").write_bytes(b"torn")
    again = TrainingRun(small(glass), glass, folder=tmp_path)
    assert again.trainer.step == 0 and "ckpt-00000032 is damaged" in again.warnings[0]


def test_an_sae_that_cannot_be_saved_says_what_to_do_before_the_resume(
    glass: LanguageModel, tmp_path: Path
) -> None:
    run = TrainingRun(small(glass), glass)
    run.go()
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError) as caught:
        run.save_sae(tmp_path / "file")
    assert (
        caught.value.code == "CANNOT_WRITE"
        and "Make that folder writable, then resume" in caught.value.hint
    )
    assert run.save_sae(tmp_path / "sae").weights_hash == load_sae(tmp_path / "sae").weights_hash


def test_time_to_go_follows_both_speeds(glass: LanguageModel) -> None:
    run = TrainingRun(small(glass), glass)
    assert run.eta_s() is None
    run.source.rate.add(2.0, 1000)
    assert run.eta_s(step_s_per_token=0.001) == pytest.approx(4096 * (0.002 + 0.001))
    run.batches.rate.add(4.0, 1000)
    assert run.eta_s(step_s_per_token=0.001) == pytest.approx(4096 * (0.002 + 0.004))


def test_time_to_go_knows_what_drawing_from_the_buffer_takes(
    glass: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all text is read, drawing and steps are all that is left: it said 3 s with 124 steps to
    go."""
    run, now = TrainingRun(small(glass), glass), [0.0]
    monkeypatch.setattr("saescope.training.data.time.monotonic", lambda: now[0])

    def slow(store: ActivationStore) -> dict[str, Tensor]:
        now[0] += 0.5 + 0.25  # of which a quarter of a second reads the text
        run.source.spent_s += 0.25
        return {run.cfg.hook_name: torch.zeros(1, run.cfg.d_in)}

    monkeypatch.setattr(ActivationStore, "__next__", slow)
    for _ in range(3):
        next(run.batches)
        now[0] += 0.1  # the step
    assert run.batches.rate.s_per_token == pytest.approx(0.6 / run.cfg.chosen.batch_size)


def test_an_old_speed_is_forgotten() -> None:
    rate = Rate()
    rate.add(100.0, 100)
    for _ in range(50):
        rate.add(10.0, 1000)
    assert rate.s_per_token == pytest.approx(0.01, rel=0.1)


def test_a_source_stops_before_it_works(glass: LanguageModel) -> None:
    run = TrainingRun(small(glass), glass)
    assert isinstance(run.store.source, WatchedSource)
    run.stop.set()
    assert run.go().state == "stopped" and run.store.n_received == 0


@pytest.mark.parametrize(
    ("dataset", "public"),
    [("embedded", "embedded"), ("hf:a/b", "hf:a/b"), ("/home/someone/x.txt", "x.txt")],
)
def test_a_dataset_is_named_without_folders(dataset: str, public: str) -> None:
    assert public_name(dataset) == public


def made(model: LanguageModel, tmp_path: Path, **more: Any) -> Plan:
    return make_plan(small(model, **more), model, folder=tmp_path)


def test_a_plan_measures_and_leaves_nothing(glass: LanguageModel, tmp_path: Path) -> None:
    found = made(glass, tmp_path / "not" / "there")
    assert found.fits and found.tokens_per_s and found.eta_s and found.step_tokens_per_s
    assert 1 / found.tokens_per_s == pytest.approx(
        1 / found.harvest_tokens_per_s + 1 / found.step_tokens_per_s
    )
    assert found.eta_s == pytest.approx(4096 / found.tokens_per_s)
    assert found.load is not None and 0 <= found.load < 1000
    assert not (tmp_path / "not").exists()


@pytest.mark.slow
def test_a_plan_holds_for_the_disk(
    glass: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saescope.activations.tokens.POOL_TOKENS", 2**20)  # as in a user's run
    found = made(glass, tmp_path, keep_checkpoints=1)
    train(small(glass, keep_checkpoints=1), model=glass, folder=tmp_path / "run")
    taken = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert (
        taken <= found.disk_bytes < 25 * taken
    )  # a little run, so most of it is what any checkpoint may take


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_what_does_not_fit_says_what_to_change(
    glass: LanguageModel, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide: dict[str, Any] = {"d_sae": 8192, "buffer_tokens": 2**18, "training_tokens": 2**18}
    function: Callable[..., int] = plan.run_bytes if what == "memory" else plan.disk_bytes
    free = (
        function(small(glass, **wide)) - 2**22 + (0 if what == "memory" else plan.SPARE_DISK_BYTES)
    )
    monkeypatch.setattr(
        plan, "free_bytes" if what == "memory" else "free_disk_bytes", lambda _: free
    )
    found = made(glass, tmp_path, **wide)
    assert not found.fits and (found.tokens_per_s is None) == (what == "memory")
    assert found.change == (
        ["d_sae=4096"]
        if what == "memory"
        else ['options=["keep_checkpoints=1", "buffer_tokens=16384"]']
    )


def test_a_plan_warns_of_few_steps_and_of_text_read_over_and_over(
    glass: LanguageModel, tmp_path: Path
) -> None:
    text = tmp_path / "short.txt"
    text.write_text("Once upon a time there was a fox in the wood. " * 300)
    assert (
        "it is read" in made(glass, tmp_path, dataset=str(text), training_tokens=2**17).warnings[0]
    )
    assert any("too few" in warning for warning in made(glass, tmp_path).warnings)


@pytest.mark.parametrize(("architecture", "is_read"), [("topk", False), ("batchtopk", True)])
def test_a_plan_and_a_run_say_what_sae_lens_cannot_read(
    glass: LanguageModel, tmp_path: Path, architecture: str, is_read: bool
) -> None:
    more = {"architecture": architecture, "hook_name_out": "blocks.1.hook_mlp_out"}
    run = TrainingRun(small(glass, **more), glass)
    for warnings in (made(glass, tmp_path, **more).warnings, run.warnings):
        said = [warning for warning in warnings if "sae-lens has no architecture" in warning]
        assert bool(said) is not is_read
        assert is_read or 'architecture="batchtopk"' in said[0]


def test_an_empty_text_is_refused_by_the_plan(glass: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(NotFoundError) as caught:
        made(glass, tmp_path, dataset=str(tmp_path / "empty.txt"))
    assert caught.value.code == "DATASET_EMPTY"


@pytest.mark.parametrize(
    ("text", "code"),
    [("\0" * 20_000, "DATASET_EMPTY"), ("a", "DATASET_EMPTY"), ("one two three", "")],
)
def test_hardly_any_text_is_refused_or_said(
    glass: LanguageModel, tmp_path: Path, text: str, code: str
) -> None:
    file = tmp_path / "text.txt"
    file.write_text(text)
    cfg = small(glass, dataset=str(file), training_tokens=1_000_000)
    if code:
        with pytest.raises(NotFoundError) as caught:
            make_plan(cfg, glass, folder=tmp_path)
        assert caught.value.code == code
        return
    (warning,) = make_plan(cfg, glass, folder=tmp_path).warnings
    assert re.match(r"The text has about [1-9] tokens: it is read \d{3},\d{3} times", warning)


@pytest.mark.parametrize(
    "hook_name", ["blocks.2.attn.hook_pattern", "blocks.2.attn.hook_attn_scores"]
)
def test_a_site_without_a_vector_a_position_is_refused(
    glass: LanguageModel, hook_name: str
) -> None:
    with pytest.raises(HookError) as caught:
        train_config(glass, hook_name)
    assert caught.value.code == "HOOK_WITHOUT_POSITIONS" and "hook_resid_post" in caught.value.hint


def test_a_logger_that_is_not_installed_is_refused_before_the_run(
    glass: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saescope.extras.is_installed", lambda package: False)
    with pytest.raises(ConfigError) as caught:
        make_plan(small(glass, logger="tensorboard"), glass, folder=tmp_path)
    assert caught.value.code == "EXTRA_MISSING" and caught.value.field == "logger"
    assert '-m pip install "saescope[tensorboard]", or leave the logger out: ' in caught.value.hint


def test_an_sae_of_one_feature_is_trained_saved_and_loaded(
    glass: LanguageModel, tmp_path: Path
) -> None:
    sae = train(small(glass, d_sae=1, k=1.0), model=glass)
    assert load_sae(sae.save(tmp_path / "one")).weights_hash == sae.weights_hash


def test_whoever_may_read_the_configuration_may_read_the_weights(
    glass: LanguageModel, tmp_path: Path
) -> None:
    cfg, weights = (
        train(small(glass), model=glass).save(tmp_path) / name
        for name in ("cfg.json", "sae_weights.safetensors")
    )
    assert cfg.stat().st_mode == weights.stat().st_mode


def test_what_is_wrong_at_the_end_is_said_with_what_to_change() -> None:
    assert concerns({"explained_variance": 0.8, "dead_share": 0.1}) == []
    worse, dead = concerns({"explained_variance": -3.0, "dead_share": 0.9})
    assert "lower lr" in worse and dead.startswith("90% of the features are dead")
