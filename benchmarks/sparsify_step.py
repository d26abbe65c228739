"""One TopK training step beside sparsify's (eai-sparsify 1.3.3), in one process.

    PYTHONPATH=core PEERS/bin/python benchmarks/sparsify_step.py [--rounds 9]

Its step is that of its Trainer around its own SparseCoder: unit-norm decoder, loss as a share of
the variance, projected gradient, dead-feature counts; with its default optimizer (schedule-free
signum) and with its Adam; AuxK is off in both, as by its default. Ours is the step of
`training_step.py`. Both start from the same weights, and the encoder's first gradient is compared
before anything is timed.
"""

import argparse
import random
import statistics
from collections.abc import Callable
from typing import Any

import torch
from sparsify import SparseCoder, SparseCoderConfig
from sparsify.sign_sgd import SignSGD
from torch import Tensor
from training_step import LR, SHAPE, clock, inputs

from saescope.training.objective import Batch, Coefficients, Objective
from saescope.training.optimizer import Adam
from saescope.training.revival import Deadness
from saescope.training.steps import make_step

TARGET = 1.6


def coder() -> SparseCoder:
    torch.manual_seed(0)
    return SparseCoder(SHAPE.d_in, SparseCoderConfig(num_latents=SHAPE.d_sae, k=SHAPE.k))


def signum(params: Any) -> Any:
    from schedulefree import ScheduleFreeWrapper

    optimizer = ScheduleFreeWrapper(SignSGD(params, lr=LR), momentum=0.95)
    optimizer.train()
    return optimizer


def adam(params: Any) -> Any:
    return torch.optim.Adam(params, lr=LR)


def theirs(make_optimizer: Callable[[Any], Any]) -> Callable[[Tensor], Any]:
    """What their Trainer does with one batch of activations."""
    sae = coder()
    optimizer = make_optimizer(sae.parameters())
    d_sae = SHAPE.d_sae
    silent, fired = torch.zeros(d_sae, dtype=torch.long), torch.zeros(d_sae, dtype=torch.bool)

    def step(x: Tensor) -> float:
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x=x, y=x, dead_mask=None, total_variance=(x - x.mean(0)).pow(2).sum())
        fired[out.latent_indices.flatten()] = True
        fvu = float(out.fvu.detach())
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        silent.add_(len(x))
        silent[fired] = 0
        fired.zero_()
        return fvu

    return step


def ours(*, update: bool = True) -> Callable[[Tensor], Any]:
    start = coder()
    params = {"encoder": start.encoder.weight.data, "decoder": start.W_dec.data}
    params |= {"b_enc": start.encoder.bias.data, "b_dec": start.b_dec.data}
    _, d_in, d_sae, k = SHAPE
    objective = Objective(
        architecture="topk", d_in=d_in, d_out=d_in, d_sae=d_sae, k=float(k), revival="auxk"
    )
    compute, optimizer, deadness = (
        make_step(objective, params),
        Adam(params),
        Deadness(SHAPE.d_sae, 1000, torch.device("cpu")),
    )

    def step(x: Tensor) -> Any:
        result = compute(Batch(x, x), coefficients=Coefficients(0.0, 1.0), dead=deadness.dead)
        if update:
            deadness.update(result.fired)
            optimizer.step(result.grads, lr=LR, max_grad_norm=1.0)
        return result

    return step


def check_gradients() -> float:
    """Relative distance of the encoder's gradients on one batch, theirs from the share of variance
    to the mean squared error."""
    x, sae = inputs(1)[0], coder()
    total = (x - x.mean(0)).pow(2).sum()
    sae(x=x, y=x, dead_mask=None, total_variance=total).fvu.backward()
    wanted = sae.encoder.weight.grad * total / SHAPE.n_rows
    apart = float((ours(update=False)(x).grads["encoder"] - wanted).norm() / wanted.norm())
    assert apart < 1e-3, f"the encoder's gradients are {apart:.1e} apart"
    return apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    apart = check_gradients()
    candidates = {
        "ours": ours(),
        "sparsify, signum (default)": theirs(signum),
        "sparsify, Adam": theirs(adam),
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    batches = inputs(2)
    for turn in range(-1, rounds):
        for name in random.sample(sorted(candidates), len(candidates)):
            seconds = clock(candidates[name], batches[turn % 2])[0]
            times[name] += [seconds] if turn >= 0 else []
    print(
        f"{SHAPE}; torch {torch.__version__}, 1 thread, "
        f"{rounds} rounds; encoder gradients {apart:.0e} apart\n"
    )
    print("| step | CPU ms | ours is faster by | target |\n|---|---|---|---|")
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, times["ours"], strict=True))
        print(
            f"| {name} | {statistics.median(seconds) * 1e3:.0f} | {ratio:.2f} | "
            f"{TARGET if name != 'ours' else ''} |"
        )


if __name__ == "__main__":
    main()
