"""Runs of every kind that several processes do together, and one alone: the numbers of both."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.core.training.helpers import D_IN, batches, config
from torch import Tensor

from saescope.activations import sources
from saescope.models import load_model
from saescope.ranks import ALONE, Ranks
from saescope.training import ListBatches, TrainConfig, Trainer, TrainingRun
from saescope.training.trainer import cut_of

GLASS = Path(__file__).parents[2] / "data" / "glassllm-en"
OF_TEXT: dict[str, Any] = {
    "training_tokens": 8192,
    "batch_size": 240,
    "d_sae": 64,
    "k": 4.0,
    "context_size": 32,
    "buffer_tokens": 1002,
    "lr": 1e-3,
}
"""A buffer that no number of ranks divides."""
SHORT: dict[str, Any] = {"dead_feature_window": 3, "n_batches_for_norm_estimate": 2}
RUNS: dict[str, TrainConfig] = {
    "topk": config("topk", k=2.0, **SHORT),
    "topk in another order": config("topk", rescale_acts_by_decoder_norm=False, **SHORT),
    "batchtopk": config("batchtopk", k=1.5, **SHORT),
    "batchtopk resampled": config("batchtopk", revival="resample", resample_every=5, **SHORT),
    "matryoshka": config("matryoshka_batchtopk", use_matryoshka_aux_loss=True, **SHORT),
    "standard resampled": config("standard", k=0.2, resample_every=8, **SHORT),
    "standard l2 ghost": config("standard", k=0.2, lp_norm=2.0, revival="ghost", **SHORT),
    "standard steered": config("standard", l1_coefficient=0.0, k=4.0, **SHORT),
    "gated": config("gated", k=0.2, normalize_activations="covariance_whitening", **SHORT),
    "jumprelu": config("jumprelu", k=0.2, **SHORT),
    "jumprelu quadratic": config(
        "jumprelu", jumprelu_sparsity_loss_mode="quadratic", target_l0=4.0, **SHORT
    ),
    "unit rows": config("topk", decoder_norm="unit", lr_scheduler="cosine", **SHORT),
    "transcoder": config("topk", hook_name_out="blocks.2.hook_mlp_out", skip=True, **SHORT),
}
N_BATCHES = {"batchtopk": 25}
"""Fewer than the run would take, where that is what is tried."""


SHARDED = {
    name: replace(cfg, shard_features=True)
    for name, cfg in RUNS.items()
    if cfg.recipe.ranks and cfg.chosen.revival == "auxk"
}
"""The runs whose features can be spread over ranks."""


def batches_of(name: str) -> ListBatches:
    xs = batches(N_BATCHES.get(name, 30))
    if not RUNS[name].transcoder:
        return ListBatches(xs)
    turn = torch.linspace(-1, 1, D_IN * D_IN).reshape(D_IN, D_IN)
    return ListBatches([(x, (x @ turn).relu()) for x in xs])


def trained(name: str, ranks: Ranks = ALONE, *, shard: bool = False) -> dict[str, Tensor]:
    """All that a run comes to: weights, statistics and its curve."""
    cfg = SHARDED[name] if shard else RUNS[name]
    trainer = Trainer(cfg, batches_of(name), ranks=ranks)
    trainer.run()
    return numbers_of(trainer)


def numbers_of(trainer: Trainer) -> dict[str, Tensor]:
    points = trainer.history.points
    curve = {f"curve {key}": torch.tensor([float(p[key]) for p in points]) for key in points[0]}
    counts, own = trainer.firings.last, trainer.params | trainer.adam.state()
    assert counts is not None
    rows_of, together = cut_of(trainer.split).rows_of, trainer.split.features.together
    files = {key: "sae" if key in trainer.params else "optim" for key in own}
    return {
        **{
            f"state {key}": together(value) if rows_of(f"{files[key]}:{key}") else value
            for key, value in own.items()
        },
        **{f"result {key}": value for key, value in trainer.result().tensors().items()},
        **curve,
        "idle": together(trainer.deadness.idle),
        "fired": counts.counts,
    }


def keep(folder: Path, numbers: dict[str, dict[str, Tensor]]) -> None:
    whole = {f"{run}/{key}": x.contiguous() for run in numbers for key, x in numbers[run].items()}
    save_file({key: x.clone() for key, x in whole.items()}, folder / "numbers.safetensors")


def config_of_text(**more: Any) -> TrainConfig:
    chosen: dict[str, Any] = {
        "model": str(GLASS),
        "hook_name": "blocks.2.hook_resid_post",
        "d_in": 128,
    }
    return TrainConfig(**chosen | OF_TEXT | more)


def run_on_text(folder: Path | None, *, n_steps: int = 0, **more: Any) -> TrainingRun:
    """A run on the tiny model, `n_steps` further, then saved; 0: to its end."""
    sources.FORWARD_TOKENS["cpu"] = 256  # many passes of a few contexts
    model, cfg = load_model(str(GLASS), device="cpu"), config_of_text(**more)
    run = TrainingRun(cfg, model, folder=folder)
    if not n_steps:
        run.go()
    for _ in range(n_steps):
        run.trainer.advance()
    run.trainer.save()
    return run
