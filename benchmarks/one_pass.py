"""What many SAEs in one pass cost, beside what they are made of: harvests and steps.

    python benchmarks/one_pass.py [--model FOLDER] [--n 4] [--rounds 3]

In each round, in shuffled order: the harvest alone (as a run without steps reads it), the steps of
one SAE alone on batches that are there already, and the whole pass with n SAEs, a layer each. The
figure is (pass - n * steps) / harvest, the harvests that the pass costs beside its steps: 1 is
free, n what n runs cost. CPU time of the process; medians over the rounds.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import saescope as ss
from saescope.activations import ActivationStore
from saescope.models import LanguageModel
from saescope.training import ListBatches, TrainConfig, Trainer, train_configs
from saescope.training.data import StoreBatches, store_config, text_source


def cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="")
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--d-sae", type=int, default=2304)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = ss.load_model(*([args.model] if args.model else []))
    last = model.n_layers - 1
    layers = ",".join(str(last - i) for i in range(args.n))
    settings: dict[str, Any] = {
        "hook_name_out": "blocks.{layer}.hook_mlp_out",
        "d_sae": args.d_sae,
        "training_tokens": args.tokens,
        "batch_size": 2048,
        "buffer_tokens": 2**13,
        "context_size": min(256, model.n_ctx),
        "n_batches_for_norm_estimate": 2,
    }
    configs = train_configs(model, "blocks.{layer}.mlp.hook_in", layers=layers, **settings)
    deepest = configs[-1]
    kept = [batch for batch in batches_of(deepest, model) if isinstance(batch, tuple)]
    parts: dict[str, Callable[[], object]] = {
        "harvest": lambda: sum(1 for _ in batches_of(deepest, model)),
        "steps": lambda: Trainer(deepest, ListBatches(kept)).run(),
        "pass": lambda: ss.train(configs, model=model),
    }
    ratios: list[float] = []
    for _ in range(args.rounds):
        order = random.sample(list(parts), len(parts))
        took = {name: cpu_s(parts[name]) for name in order}
        ratios.append((took["pass"] - args.n * took["steps"]) / took["harvest"])
        shown = ", ".join(f"{name} {took[name]:.2f} s" for name in parts)
        print(f"{shown}: {ratios[-1]:.2f} harvests", flush=True)
    print(f"{args.n} SAEs: {statistics.median(ratios):.2f} harvests beside their steps (CPU time)")


def batches_of(cfg: TrainConfig, model: LanguageModel) -> StoreBatches:
    """The batches of a run, harvested now."""
    return StoreBatches(ActivationStore(text_source(cfg, model), store_config(cfg)), cfg)


if __name__ == "__main__":
    main()
