"""Whole training runs beside sae-lens 6.54: language model, mixing and steps, on the same tokens,
each run in a process of its own.

    PYTHONPATH=core MAIN/bin/python benchmarks/whole_run.py MODEL_FOLDER TEXT PEERS/bin/python
    [--tokens 200000] [--rounds 1]

MAIN has saescope's packages, PEERS sae-lens's; MODEL_FOLDER holds SmolLM2-135M
(embedded.model_dir()). TopK, k 32, d_sae 9216, batches of 4096, contexts of 256 without their first
position, float32, everything else by each library's defaults; the runs take turns. Both read the
same contexts in the same order: sae-lens gets them tokenized, saescope reads the text. Figures are
CPU seconds of one thread (wall time says little on a busy machine), the load of the model left out:
"harvest" is the time to get the batches, "steps" the rest. Our online and storing runs read the
text with the model, the storing one also writes the activations to disk; "cached" trains on what
that one stored. Explained variance is that of the SAEs as they are saved, on contexts that neither
saw.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

HOOK, HF_HOOK = "blocks.14.hook_resid_post", "model.layers.14"
CONTEXT, BATCH, D_IN, D_SAE, K = 256, 4096, 576, 9216, 32
SPARE_CONTEXTS, HELD_CONTEXTS = 60, 40
"""sae-lens reads ahead of what it trains on; behind that is what both are scored on."""
CORE = str(Path(__file__).parents[1] / "core")
OURS, PEERS = ("storing", "cached", "online"), ("sae-lens", "sae-lens hf")
NAMES = {
    "online": "saescope, online",
    "storing": "saescope, storing the activations",
    "cached": "saescope, from stored activations",
    "sae-lens": "sae-lens, HookedTransformer (default)",
    "sae-lens hf": "sae-lens, Hugging Face",
}


class Timed(Iterator[Any]):
    """Batches, and the CPU time that it took to get them."""

    def __init__(self, batches: Any) -> None:
        self.batches, self.seconds = batches, 0.0

    def __next__(self) -> Any:
        started = time.process_time()
        try:
            return next(self.batches)
        finally:
            self.seconds += time.process_time() - started

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)


def run_ours(how: str, args: argparse.Namespace) -> dict[str, float]:
    from saescope.models import load_model
    from saescope.training import TrainingRun, train_config

    model = load_model(args.model, device="cpu", dtype="float32")
    knobs = {
        "training_tokens": args.tokens,
        "context_size": CONTEXT,
        "batch_size": BATCH,
        "d_sae": D_SAE,
        "k": K,
    }
    cfg = train_config(model, HOOK, dataset=args.text, cache_activations=how != "online", **knobs)
    wall, cpu = time.perf_counter(), time.process_time()
    run = TrainingRun(cfg, model)
    stored = time.process_time() - cpu
    timed = run.trainer.batches = Timed(run.batches)
    run.go()
    sae = run.sae()
    found = figures(wall, cpu, stored + timed.seconds, run.trainer.n_tokens)
    sae.save(args.out)
    return found


def run_sae_lens(how: str, args: argparse.Namespace) -> dict[str, float]:
    from datasets import Dataset
    from safetensors.torch import load_file

    os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    from sae_lens import (
        LanguageModelSAERunnerConfig,
        LanguageModelSAETrainingRunner,
        LoggingConfig,
        TopKTrainingSAEConfig,
    )
    from sae_lens.training.sae_trainer import SAETrainer

    hf = how == "sae-lens hf"
    rows = load_file(args.contexts)["ids"]
    cfg = LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K),
        model_name=args.model,
        model_class_name="AutoModelForCausalLM" if hf else "HookedTransformer",
        hook_name=HF_HOOK if hf else HOOK,
        streaming=False,
        context_size=CONTEXT,
        prepend_bos=False,
        seqpos_slice=(1, None),
        training_tokens=args.tokens // BATCH * BATCH,
        train_batch_size_tokens=BATCH,
        logger=LoggingConfig(log_to_wandb=False),
        n_checkpoints=0,
        checkpoint_path=None,
        output_path=None,
    )
    model = None if hf else hooked_transformer(args.model)
    runner = LanguageModelSAETrainingRunner(
        cfg, override_dataset=Dataset.from_dict({"input_ids": rows.tolist()}), override_model=model
    )
    wall, cpu = time.perf_counter(), time.process_time()
    timed = Timed(runner.activations_store)
    trainer = SAETrainer(sae=runner.sae, data_provider=timed, cfg=cfg.to_sae_trainer_config())
    trained = trainer.fit()
    found = figures(wall, cpu, timed.seconds, trainer.n_training_samples)
    trained.save_inference_model(args.out)
    return found


def hooked_transformer(folder: str) -> Any:
    from harvest import hooked_transformer as wrap
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return wrap(
        folder,
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
    )


def figures(wall: float, cpu: float, harvest: float, n_tokens: int) -> dict[str, float]:
    whole = time.process_time() - cpu
    return {
        "harvest": harvest,
        "steps": whole - harvest,
        "whole": whole,
        "wall": time.perf_counter() - wall,
        "n_tokens": n_tokens,
    }


def write_contexts(args: argparse.Namespace) -> None:
    """The contexts of our run, in its order."""
    from safetensors.torch import save_file

    from saescope.activations import ContextConfig, Harvester, open_dataset
    from saescope.activations.tokens import ContextStream
    from saescope.models import load_model

    model = load_model(args.model, device="cpu", dtype="float32")
    stream = ContextStream(model, open_dataset(args.text), ContextConfig(context_size=CONTEXT))
    wanted = args.tokens // (CONTEXT - 1) + SPARE_CONTEXTS + HELD_CONTEXTS
    parts: list[torch.Tensor] = []
    while sum(map(len, parts)) < wanted:
        part = stream.take(8)
        assert len(part), f"{args.text} is too short for {args.tokens} positions"
        parts.append(part[(part >= 0).all(1)])
    ids = torch.cat(parts)
    save_file({"ids": ids[:-HELD_CONTEXTS].int()}, args.contexts)
    read = Harvester(model, [HOOK], CONTEXT)
    with torch.no_grad():
        held = [read(rows)[HOOK][:, 1:].flatten(0, 1) for rows in ids[-HELD_CONTEXTS:].split(8)]
    save_file({"held": torch.cat(held)}, args.held)


def explained_variance(folder: str, args: argparse.Namespace) -> float:
    """The share of the held-out activations' variance that a saved SAE explains."""
    from safetensors.torch import load_file

    import saescope as ss

    x = load_file(args.held)["held"]
    x = x[x.norm(dim=1) < 10 * x.norm(dim=1).median()]  # sinks, on which no SAE is judged
    with torch.no_grad():
        off = x - ss.load_sae(folder, device="cpu", dtype="float32")(x)
    return 1 - float(off.square().sum() / (x - x.mean(0)).square().sum())


def start(how: str, args: argparse.Namespace, home: str) -> dict[str, float]:
    """One run in a process of its own; activations are stored below `home`."""
    python = args.peers if how in PEERS else sys.executable
    out = str(Path(args.contexts).parent / f"sae-{how}")
    options = ["--tokens", str(args.tokens), "--only", how, "--contexts", args.contexts]
    options += ["--out", out]
    command = [python, __file__, args.model, args.text, args.peers, *options]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"SAESCOPE_HOME": home, "PYTHONPATH": CORE},  # harvest.py needs it too
    )
    if done.returncode:
        raise SystemExit(f"{how} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"explained_variance": explained_variance(out, args)}


def measure(args: argparse.Namespace, which: tuple[str, ...]) -> dict[str, list[dict[str, float]]]:
    """All runs, in turns."""
    runs: dict[str, list[dict[str, float]]] = {how: [] for how in which}
    with tempfile.TemporaryDirectory() as folder:
        args.contexts = str(Path(folder, "contexts.safetensors"))
        args.held = str(Path(folder, "held.safetensors"))
        write_contexts(args)
        for index in range(args.rounds):
            for how in runs:
                runs[how].append(start(how, args, str(Path(folder, f"home-{index}"))))
                print(f"{how}: {runs[how][-1]}", file=sys.stderr, flush=True)
    return runs


def report(runs: dict[str, list[dict[str, float]]]) -> None:
    middle = {
        how: {key: statistics.median(run[key] for run in of) for key in of[0]}
        for how, of in runs.items()
    }
    print(
        "| run | harvest, CPU s | steps, CPU s | whole, CPU s | wall s | positions "
        "| explained variance |\n|---|---|---|---|---|---|---|"
    )
    for how, row in middle.items():
        shown = " | ".join(
            f"{row[key]:,.0f}" for key in ("harvest", "steps", "whole", "wall", "n_tokens")
        )
        print(f"| {NAMES[how]} | {shown} | {row['explained_variance']:.3f} |")
    print(
        "\n| ratio of CPU time | "
        + " | ".join(NAMES[how] for how in PEERS if how in middle)
        + " |\n|---|---|---|"
    )
    for part, ours, label in (
        ("harvest", "online", "harvest"),
        ("steps", "online", "steps"),
        ("whole", "online", "whole run, online (target 1.7)"),
        ("whole", "cached", "whole run, from stored activations (target 4)"),
    ):
        print(
            f"| {label} | "
            + " | ".join(
                f"{middle[how][part] / middle[ours][part]:.2f}" for how in PEERS if how in middle
            )
            + " |"
        )
    four = middle["storing"]["whole"] + 3 * middle["cached"]["whole"]
    ratios = (f"{4 * middle[how]['whole'] / four:.2f}" for how in PEERS if how in middle)
    print(
        "| four SAEs, the first of which stores the activations (sum of runs; target 4) | "
        + " | ".join(ratios)
        + " |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "text", "peers"):
        parser.add_argument(name)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=[*OURS, *PEERS])
    parser.add_argument("--contexts", default="", help=argparse.SUPPRESS)
    parser.add_argument("--out", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.only:
        print(json.dumps((run_sae_lens if args.only in PEERS else run_ours)(args.only, args)))
        return
    runs = measure(args, (*OURS, *PEERS))
    print(
        f"torch {torch.__version__}, 1 thread a run, load {os.getloadavg()[0]:.1f} at "
        f"the end, {args.rounds} rounds\n"
    )
    report(runs)


if __name__ == "__main__":
    main()
