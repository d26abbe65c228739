"""What an SAE is worth that was trained with nothing but data and width: our defaults against
sae-lens 6.54's, on the same batches.

Runs in the environment of the peers (sae-lens 6.54.12; our core needs only torch, jaxtyping,
safetensors, platformdirs):

    PYTHONPATH=core python benchmarks/defaults.py world   # known features; needs scipy too
    PYTHONPATH=core python benchmarks/defaults.py acts.safetensors --d-sae 4608
                                          # tensors "train" and "held" of shape [n, d]

Every SAE sees each position of "train" once, in order, and is scored as it is saved, on "held": L0,
explained variance, share of features that never fire there, and in a world of known features what
`saescope.worlds` scores. sae-lens gets the defaults of its runner (lr 3e-4, no
warm-up, no normalisation), our k, and for the variable-L0 architectures a row for each coefficient:
"EV at our L0" is interpolated between them in log L0, for equal sparsity.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from saescope.worlds import World, WorldConfig, score_on_world

warnings.simplefilter("ignore")

ARCHITECTURES = ("topk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "standard", "gated")
NAMES = {
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "matryoshka_batchtopk": "MatryoshkaBatchTopK",
    "jumprelu": "JumpReLU",
}
COEFFICIENTS = {
    "jumprelu": "l0_coefficient",
    "standard": "l1_coefficient",
    "gated": "l1_coefficient",
}


@dataclass
class Problem:
    """Activations to train on and to score with, and the features that they were made of."""

    train: Tensor
    held: Tensor
    world: World | None = None
    k: float = 32.0
    d_sae: int = 4608


class Score(NamedTuple):
    l0: float
    explained_variance: float
    dead: float
    cosine: float
    found: float
    f1: float
    seconds: float


WORLDS = {
    "world": (WorldConfig(), 8.0, 400_000),
    "small": (WorldConfig(d_in=32, n_features=64, l0=3.0), 3.0, 200_000),
    "wide": (WorldConfig(d_in=768, n_features=16_384, l0=32.0, zipf=0.9), 32.0, 2_000_000),
}
"""Worlds of known features, the L0 to learn them at, and positions to train on."""


def of_world(name: str, seed: int) -> Problem:
    cfg, k, n_train = WORLDS[name]
    world = World(replace(cfg, seed=seed))
    train = torch.cat([*world.batches(1024, n_train)])
    return Problem(train, world.sample(20_000, seed=0).acts, world, k, cfg.n_features)


def score(
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    rows: Tensor,
    problem: Problem,
    seconds: float,
) -> Score:
    fired, n_active, error = torch.zeros(len(rows)), 0.0, 0.0
    for x in problem.held.split(2048):
        acts = encode(x)
        fired += (acts > 0).sum(0)
        n_active += float((acts > 0).sum())
        error += float((decode(acts) - x).square().sum())
    total = float((problem.held - problem.held.mean(0)).square().sum())
    truth = score_on_world(_Coded(encode, decode, rows), problem.world) if problem.world else None
    return Score(
        n_active / len(problem.held),
        1 - error / total,
        float((fired == 0).float().mean()),
        truth.cosine if truth else math.nan,
        truth.found if truth else math.nan,
        truth.f1 if truth else math.nan,
        seconds,
    )


class _Coded(NamedTuple):
    """Either library's SAE, as `score_on_world` takes it."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    W_dec: Tensor


def ours(problem: Problem, architecture: str, batch_size: int, **knobs: Any) -> Score:
    from saescope.training import TrainConfig, Trainer

    given: dict[str, Any] = {
        "architecture": architecture,
        "d_in": problem.train.shape[1],
        "d_sae": problem.d_sae,
        "k": problem.k,
    }
    cfg = TrainConfig(
        hook_name="x", training_tokens=len(problem.train), batch_size=batch_size, **(given | knobs)
    )
    started = time.perf_counter()
    trainer = Trainer(cfg, Parts(problem.train, cfg.chosen.batch_size))
    trainer.run()
    seconds = time.perf_counter() - started
    sae = trainer.result()
    with torch.no_grad():
        return score(sae.encode, sae.decode, sae.W_dec, problem, seconds)


def default_batch_size(n_tokens: int) -> int:
    from saescope.training import TrainConfig

    return TrainConfig(hook_name="x", d_in=1, d_sae=32, training_tokens=n_tokens).chosen.batch_size


class Parts(Iterator[Tensor]):
    """Batches in order; a place to go on from is not needed here."""

    def __init__(self, rows: Tensor, size: int) -> None:
        self.parts = iter(rows.split(size))

    def __next__(self) -> Tensor:
        return next(self.parts).float()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError


def sae_lens(problem: Problem, architecture: str, batch_size: int, **knobs: Any) -> Score:
    import tempfile

    import sae_lens as peer
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    prefix = NAMES.get(architecture, architecture.title())
    given = {"d_in": problem.train.shape[1], "d_sae": problem.d_sae} | (
        {"k": problem.k} if architecture in NAMES and "topk" in architecture else {}
    )
    if architecture == "topk":
        given["k"] = int(problem.k)
    if architecture == "matryoshka_batchtopk":
        given["matryoshka_widths"] = [problem.d_sae // 16, problem.d_sae // 4, problem.d_sae]
    torch.manual_seed(0)
    lr = knobs.pop("lr", 3e-4)
    sae = getattr(peer, f"{prefix}TrainingSAE")(
        getattr(peer, f"{prefix}TrainingSAEConfig")(**(given | knobs))
    )
    n_used = len(problem.train) // batch_size * batch_size
    cfg = SAETrainerConfig(
        n_checkpoints=0, checkpoint_path=None, save_final_checkpoint=False,
        total_training_samples=n_used,
        device="cpu", autocast=False,
        lr=lr, lr_end=lr / 10, lr_scheduler_name="constant", lr_warm_up_steps=0, adam_beta1=0.9,
        adam_beta2=0.999, lr_decay_steps=0,
        n_restart_cycles=1, train_batch_size_samples=batch_size, dead_feature_window=1000,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    started = time.perf_counter()
    SAETrainer(cfg=cfg, sae=sae, data_provider=Parts(problem.train, batch_size)).fit()
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        sae.save_inference_model(folder)
        saved = peer.SAE.load_from_disk(folder)
        return score(saved.encode, saved.decode, saved.W_dec, problem, seconds)


def interpolated(rows: list[Score], l0: float) -> float:
    """Explained variance at one L0, between the rows around it; NaN outside them."""
    points = sorted((math.log(row.l0), row.explained_variance) for row in rows if row.l0 > 0)
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= math.log(l0) <= x1:
            return y0 + (y1 - y0) * (math.log(l0) - x0) / (x1 - x0) if x1 > x0 else y0
    return math.nan


def line(who: str, architecture: str, row: Score) -> None:
    print(
        f"| {architecture} | {who} | {row.l0:.1f} | {row.explained_variance:.4f} | "
        f"{row.dead:.1%} | {row.cosine:.3f} | {row.found:.0%} "
        f"| {row.f1:.3f} | {row.seconds:.0f} |",
        flush=True,
    )


def from_file(path: str) -> Problem:
    tensors = load_file(path)
    return Problem(tensors["train"], tensors["held"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("problem")
    parser.add_argument("--architectures", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--d-sae", type=int, default=0)
    parser.add_argument("--k", type=float, default=0)
    parser.add_argument(
        "--batch-size",
        type=int,
        default=0,
        help="0 = what our defaults choose; sae-lens gets the same",
    )
    parser.add_argument(
        "--coefficients",
        type=float,
        nargs="*",
        default=[0.1, 1.0, 10.0, 100.0],
        help="sae-lens's; its default is 1",
    )
    parser.add_argument(
        "--peer-lr", type=float, nargs="*", default=[3e-4], help="sae-lens's; its default is 3e-4"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the world; runs have seed 0")
    parser.add_argument("--n-train", type=int, default=0)
    parser.add_argument("--knobs", type=json.loads, default={})
    parser.add_argument("--who", nargs="*", default=["ours", "sae-lens"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = args.problem in WORLDS
    problem = of_world(args.problem, args.seed) if known else from_file(args.problem)
    problem.d_sae, problem.k = args.d_sae or problem.d_sae, args.k or problem.k
    problem.train = problem.train[: args.n_train or None]
    args.batch_size = args.batch_size or default_batch_size(len(problem.train))
    print(
        f"{args.problem}: {len(problem.train):,} x {problem.train.shape[1]}, d_sae "
        f"{problem.d_sae}, k {problem.k}, batch {args.batch_size}"
    )
    print(
        "| architecture | trained by | L0 | explained variance | dead | cosine | found "
        "| F1 | s |\n|---|---|---|---|---|---|---|---|---|"
    )
    for architecture in args.architectures:
        compare(problem, architecture, args)


def compare(problem: Problem, architecture: str, args: argparse.Namespace) -> None:
    problem.held = problem.held.float()
    mine = (
        ours(problem, architecture, args.batch_size, **args.knobs) if "ours" in args.who else None
    )
    if mine:
        line("saescope", architecture, mine)
    if "sae-lens" not in args.who:
        return
    coefficient = COEFFICIENTS.get(architecture)
    for lr in args.peer_lr:
        rows = list[Score]()
        for value in args.coefficients if coefficient else [0.0]:
            knobs = {"lr": lr} | ({coefficient: value} if coefficient else {})
            rows.append(sae_lens(problem, architecture, args.batch_size, **knobs))
            line(
                "sae-lens " + " ".join(f"{name}={knob:g}" for name, knob in knobs.items()),
                architecture,
                rows[-1],
            )
        if mine and coefficient:
            print(
                f"| {architecture} | sae-lens lr={lr:g} at our L0 | {mine.l0:.1f} | "
                f"{interpolated(rows, mine.l0):.4f} | | | | | |",
                flush=True,
            )


if __name__ == "__main__":
    main()
