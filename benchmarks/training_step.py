"""One training step, ours and sae-lens's, side by side in one process; and the peak memory of each
in a process of its own.

Runs in the environment of the peers (sae-lens 6.54.12; our core needs only torch, jaxtyping,
safetensors, platformdirs):

    PYTHONPATH=core python benchmarks/training_step.py                   # all cases
    PYTHONPATH=core python benchmarks/training_step.py topk --rounds 9 --shape 4096 576 9216 32

Both start from the same weights and see the same batches. First the parameters after a few steps
are compared; then every candidate does one step a round, in shuffled order, and the ratio of a case
is the median of its rounds' ratios. "floor" is the encoder's product alone, as each library
computes it. sae-lens (best) has its best flags: no decoder-norm rescaling and, for TopK, sparse
activations.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

warnings.simplefilter("ignore")


class Shape(NamedTuple):
    """The size of a step."""

    n_rows: int
    d_in: int
    d_sae: int
    k: int


SHAPE, LR = Shape(4096, 576, 9216, 32), 1e-5
PARITY_STEPS, PARITY = 5, 2e-3
"""A pre-activation within rounding of a cut may fall on either side in two correct programs, and
Adam's first steps blow that up to lr."""
CASES: dict[str, dict[str, Any]] = {
    "topk": {"architecture": "topk", "target": 5.5},
    "topk 20% dead": {"architecture": "topk", "dead": 0.2, "target": 4.5},
    "batchtopk": {"architecture": "batchtopk", "target": 8.0},
    "matryoshka": {"architecture": "matryoshka_batchtopk", "widths": (512, 2048)},
    "standard L0 32": {"architecture": "standard", "l0": 32, "target": 4.5},
    "standard L0 128": {"architecture": "standard", "l0": 128, "target": 4.5},
    "standard dense": {"architecture": "standard", "l0": 4608},
    "gated L0 64": {"architecture": "gated", "l0": 64},
    "jumprelu L0 64": {"architecture": "jumprelu", "l0": 64, "target": 3.0},
}
COLUMNS = (
    "case", "L0", "share of parameters apart", "sae-lens ms", "ours ms", "ratio (CPU)",
    "ratio (wall)", "target", "vs best flags",
    "ours / our floor", "floors ms", "peak MB", "memory ratio",
)  # fmt: skip
OURS = {"W_enc": "encoder", "W_dec": "decoder"}


def peer(case: dict[str, Any], *, best: bool = False) -> Any:
    """sae-lens's own trainer on one case."""
    import sae_lens
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    prefix = {
        "topk": "TopK",
        "batchtopk": "BatchTopK",
        "matryoshka_batchtopk": "MatryoshkaBatchTopK",
        "jumprelu": "JumpReLU",
    }
    name = prefix.get(case["architecture"], case["architecture"].title())
    shape: Shape = case["shape"]
    knobs: dict[str, Any] = {"k": shape.k} if "topk" in case["architecture"] else {}
    if best:
        knobs |= {"rescale_acts_by_decoder_norm": False} | (
            {"use_sparse_activations": True} if case["architecture"] == "topk" else {}
        )
    if "widths" in case:
        knobs["matryoshka_widths"] = [*case["widths"], shape.d_sae]
    torch.manual_seed(0)
    sae = getattr(sae_lens, f"{name}TrainingSAE")(
        getattr(sae_lens, f"{name}TrainingSAEConfig")(d_in=shape.d_in, d_sae=shape.d_sae, **knobs)
    )
    arrange(sae, case)
    cfg = SAETrainerConfig(
        n_checkpoints=0, checkpoint_path=None, save_final_checkpoint=False,
        total_training_samples=10**9,
        device="cpu", autocast=False,
        lr=LR, lr_end=LR, lr_scheduler_name="constant", lr_warm_up_steps=0, adam_beta1=0.9,
        adam_beta2=0.999, lr_decay_steps=0,
        n_restart_cycles=1, train_batch_size_samples=shape.n_rows, dead_feature_window=1000,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trainer = SAETrainer(cfg=cfg, sae=sae, data_provider=iter([]))
    trainer.n_forward_passes_since_fired[dead_mask(case)] = 1e6
    return trainer


def arrange(sae: Any, case: dict[str, Any]) -> None:
    """Biases that give the wanted L0 on standard normal inputs, and features that never fire."""
    name = "b_gate" if case["architecture"] == "gated" else "b_enc"
    bias = getattr(sae, name)
    if "l0" in case:
        quantile = torch.distributions.Normal(0.0, 1.0).icdf(
            torch.tensor(1 - case["l0"] / case["shape"].d_sae)
        )
        bias.data.fill_(-float(quantile) * 0.1)
        if case["architecture"] == "gated":
            sae.b_mag.data.fill_(0.1)
    bias.data[dead_mask(case)] = -0.5  # five standard deviations of a pre-activation


def dead_mask(case: dict[str, Any]) -> Tensor:
    d_sae = case["shape"].d_sae
    mask = torch.zeros(d_sae, dtype=torch.bool)
    order = torch.randperm(d_sae, generator=torch.Generator().manual_seed(1))
    mask[order[: int(d_sae * case.get("dead", 0))]] = True
    return mask


def ours(case: dict[str, Any], sae: Any) -> tuple[Callable[[Tensor], Any], dict[str, Tensor]]:
    """Our step with optimizer and dead-feature statistics, from the same weights; and the
    parameters."""
    from saescope.recipes import RECIPES
    from saescope.training.objective import Batch, Coefficients, Objective
    from saescope.training.optimizer import Adam
    from saescope.training.revival import Deadness
    from saescope.training.steps import make_step

    recipe, shape = RECIPES[case["architecture"]], case["shape"]
    widths = (*case["widths"], shape.d_sae) if "widths" in case else ()
    objective = Objective(
        architecture=case["architecture"], d_in=shape.d_in, d_out=shape.d_in, d_sae=shape.d_sae,
        k=float(shape.k) if recipe.ranks else 0.0,
        matryoshka_widths=widths,
        revival=recipe.revival if recipe.ranks else "none",
    )  # fmt: skip
    theirs = {
        name: p.detach().T if name == "W_enc" else p.detach() for name, p in sae.named_parameters()
    }
    params = {
        OURS.get(name, name): tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in theirs.items()
    }
    step, adam, deadness = (
        make_step(objective, params),
        Adam(params),
        Deadness(shape.d_sae, 1000, torch.device("cpu")),
    )
    deadness.idle[dead_mask(case)] = 10**6

    def run(x: Tensor) -> Any:
        result = step(Batch(x, x), coefficients=Coefficients(1.0, 1.0), dead=deadness.dead)
        deadness.update(result.fired)
        adam.step(result.grads, lr=LR, max_grad_norm=1.0)
        return result

    return run, params


def inputs(n: int, shape: Shape = SHAPE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape.n_rows, shape.d_in, generator=generator) for _ in range(n)]


def check_parity(case: dict[str, Any]) -> tuple[float, float]:
    """Share of parameters apart by more than lr / 10 after some steps (the worst tensor's); and our
    mean L0."""
    trainer = peer(case)
    run, params = ours(case, trainer.sae)
    for x in inputs(PARITY_STEPS, case["shape"]):
        theirs = trainer.step(x)
        trainer.n_training_steps += 1
        result = run(x)
        loss, mine = float(theirs.loss), float(sum(result.losses.values()))
        assert abs(loss - mine) <= 1e-4 * abs(loss), f"losses {loss} and {mine}"
    worst = 0.0
    for name, p in trainer.sae.named_parameters():
        param = params[OURS.get(name, name)]
        apart = (p.detach() - (param.T if name == "W_enc" else param)).abs()
        worst = max(worst, float((apart > LR / 10).float().mean()))
    assert worst <= PARITY, f"{worst:.2%} of the parameters are apart after {PARITY_STEPS} steps"
    return worst, float(result.fired.sum()) / case["shape"].n_rows


def clock(run: Callable[[Tensor], Any], x: Tensor) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    run(x)
    return time.process_time() - cpu, time.perf_counter() - wall


def race(case: dict[str, Any], rounds: int) -> dict[str, list[tuple[float, float]]]:
    from saescope.products import times_rows

    trainer = peer(case)
    run, params = ours(case, trainer.sae)
    weights, columns = params["encoder"].clone(), trainer.sae.W_enc.detach().clone()
    candidates: dict[str, Callable[[Tensor], Any]] = {
        "sae-lens": trainer.step,
        "ours": run,
        "sae-lens floor": lambda x: x @ columns,
        "our floor": lambda x: [times_rows(part, weights) for part in x.split(256)],
    }
    if "topk" in case["architecture"]:
        candidates["sae-lens (best)"] = peer(case, best=True).step
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    batches = inputs(2, case["shape"])
    for candidate in candidates.values():
        candidate(batches[0])
    for turn in range(rounds):
        for name in random.sample(sorted(candidates), len(candidates)):
            times[name].append(clock(candidates[name], batches[turn % 2]))
    return times


def memory(case: dict[str, Any], which: str) -> float:
    """MB that three steps add at their peak, parameters and optimizer included; called in a fresh
    process."""
    batches = inputs(1, case["shape"])
    torch.randn(8, 8) @ torch.randn(8, 8)  # what the first product of a process allocates
    if which == "sae-lens":
        import sae_lens  # noqa: F401

        before = rss()
        trainer = peer(case)
        for _ in range(3):
            trainer.step(batches[0])
    else:
        from types import SimpleNamespace

        import saescope.training.steps  # noqa: F401

        before = rss()
        run, _ = ours(case, SimpleNamespace(named_parameters=lambda: random_parameters(case)))
        for _ in range(3):
            run(batches[0])
    return peak() - before


def random_parameters(case: dict[str, Any]) -> list[tuple[str, Tensor]]:
    """What `arrange` makes, without sae-lens."""
    torch.manual_seed(0)
    from types import SimpleNamespace

    shape: Shape = case["shape"]
    names = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}.get(
        case["architecture"], ("b_enc",)
    )
    sae = SimpleNamespace(**{name: torch.zeros(shape.d_sae) for name in names})
    arrange(sae, case)
    decoder = torch.nn.functional.normalize(torch.randn(shape.d_sae, shape.d_in), dim=1) * 0.1
    return [
        ("W_enc", decoder.T),
        ("W_dec", decoder),
        ("b_dec", torch.zeros(shape.d_in)),
        *vars(sae).items(),
    ]


def rss() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def peak() -> float:
    """ru_maxrss would count the parent's memory too: it survives fork and exec."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def memory_of(name: str, which: str, shape: Shape) -> float:
    options = ["--memory", which, "--shape", *map(str, shape)]
    done = subprocess.run(
        [sys.executable, __file__, name, *options], capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def ratios(
    times: dict[str, list[tuple[float, float]]], of: str, to: str, clock_at: int = 0
) -> list[float]:
    """How many times as long one took as the other, round by round; CPU time, or wall time (1)."""
    pairs = zip(times.get(of, []), times[to], strict=False)
    return [a[clock_at] / b[clock_at] for a, b in pairs]


def document(case: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """What `python -m benchmarks` reads of a case."""
    check_parity(case)
    times = race(case, rounds)
    return {
        "ours / sae-lens": ratios(times, "ours", "sae-lens"),
        "ours / sae-lens, best flags": ratios(times, "ours", "sae-lens (best)")
        if "sae-lens (best)" in times
        else [],
        "ours / product": ratios(times, "ours", "our floor"),
    }


def report(name: str, case: dict[str, Any], rounds: int) -> None:
    worst, l0 = check_parity(case)
    times = race(case, rounds)

    def ratio(of: str, to: str, i: int = 0) -> float:
        return statistics.median(ratios(times, of, to, i))

    cpu = {who: statistics.median(t[0] for t in values) * 1e3 for who, values in times.items()}
    theirs, mine = (memory_of(name, who, case["shape"]) for who in ("sae-lens", "ours"))
    best = f"{ratio('sae-lens (best)', 'ours'):.1f}" if "sae-lens (best)" in times else "-"
    print(
        f"| {name} | {l0:.0f} | {worst:.0e} | {cpu['sae-lens']:.0f} | "
        f"{cpu['ours']:.0f} | **{ratio('sae-lens', 'ours'):.1f}** "
        f"| {ratio('sae-lens', 'ours', 1):.1f} | {case.get('target', '-')} | {best} | "
        f"{ratio('ours', 'our floor'):.2f} "
        f"| {cpu['sae-lens floor']:.0f} / {cpu['our floor']:.0f} | {theirs:.0f} / "
        f"{mine:.0f} | {theirs / mine:.1f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shape", type=int, nargs=4, default=SHAPE, metavar=("N", "D", "F", "K"))
    parser.add_argument("--json", action="store_true", help="the rounds' ratios of each case")
    parser.add_argument("--memory", choices=("sae-lens", "ours"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shape = Shape(*args.shape)
    cases = {name: {**CASES[name], "shape": shape} for name in args.cases}
    if args.memory:
        print(json.dumps(memory(cases[args.cases[0]], args.memory)))
        return
    if args.json:
        print(json.dumps({name: document(case, args.rounds) for name, case in cases.items()}))
        return
    with open("/proc/loadavg") as file:
        load = file.read().split()[0]
    print(
        f"{shape}; torch {torch.__version__}, {args.threads} "
        f"thread(s), load {load}, {args.rounds} rounds\n"
    )
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for name, case in cases.items():
        report(name, case, args.rounds)


if __name__ == "__main__":
    main()
