"""Train a transcoder for every layer of a model in one pass over a text: the set that circuits are
traced with.

    python scripts/train_circuit_set.py TEXT OUT                      # SmolLM2-135M, 30 layers
    python scripts/train_circuit_set.py TEXT OUT --tokens 500000 --layers 0-9
    python scripts/train_circuit_set.py TEXT OUT --plan               # only say what it takes here

Cut off, the same call goes on from its last checkpoints (below OUT.checkpoints). OUT gets a folder
`layer_<L>` for each layer in SAELens's format, at half precision with --half, and `scores.json`:
explained variance, L0 and CE score of each layer on the held-out part of the text. What the set of
the tiny model in tests/data was made with: tests/data/glassllm-transcoders/README.md.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import saescope as ss
from saescope.models import LanguageModel
from saescope.saes import SAE
from saescope.training import SetProgress, SetRun, make_set_plan, stop_on_signals, train_configs

HOOK_IN, HOOK_OUT = "blocks.{layer}.mlp.hook_in", "blocks.{layer}.hook_mlp_out"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="", help="folder or hub name; SmolLM2-135M without it")
    parser.add_argument("--layers", default="all")
    parser.add_argument("--d-sae", type=int, default=2304)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--context-size", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--buffer-tokens", type=int, default=2**14)
    parser.add_argument("--dtype", default="float32", help="what the model runs in")
    parser.add_argument(
        "--judge-tokens",
        type=int,
        default=1_000,
        help="held-out tokens that each layer is scored on, four forward passes each; 0: no scores",
    )
    parser.add_argument("--half", action="store_true", help="store weights at half precision")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--plan", action="store_true", help="only say what the run takes")
    return parser.parse_args()


def packaged(sae: SAE, *, half: bool) -> SAE:
    """An SAE that says what made it; at half precision it is no longer ranked by the norms of its
    decoder rows, which are 1 but for rounding."""
    raw = {**sae.cfg.metadata.raw, "trained_by": "scripts/train_circuit_set.py"}
    old: Any = sae.cfg
    cfg: Any = replace(old, metadata=replace(sae.cfg.metadata, raw=raw))
    if not half:
        return type(sae)(cfg, sae.tensors())
    cfg = replace(cfg, rescale_acts_by_decoder_norm=False)
    return type(sae)(cfg, {name: tensor.half() for name, tensor in sae.tensors().items()})


def judge(model: LanguageModel, folder: Path, text: str, n_tokens: int) -> dict[str, float | None]:
    """What a stored SAE is worth, on text that it was not trained on."""
    sae = ss.load_sae(folder)
    found = ss.evaluate(model, sae, text, n_tokens=n_tokens, baselines=False)
    said = ("explained_variance", "ce_score", "l0", "dead_share", "n_tokens")
    return {name: getattr(found, name) for name in said}


def tell(at: SetProgress) -> None:
    """One line for all layers: the worst and the median."""
    variance = sorted(m.point["explained_variance"] for m in at.members if m.point)
    shown = (
        f"worst {variance[0]:.3f}, median {variance[len(variance) // 2]:.3f}" if variance else ""
    )
    print(f"step {at.step} of {at.n_steps}: explained variance {shown}", flush=True)


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = ss.load_model(*([args.model] if args.model else []), dtype=args.dtype)
    configs = train_configs(
        model,
        HOOK_IN,
        hook_name_out=HOOK_OUT,
        layers=args.layers,
        dataset=args.text,
        d_sae=args.d_sae,
        k=args.k,
        training_tokens=args.tokens,
        context_size=args.context_size,
        batch_size=args.batch_size,
        buffer_tokens=args.buffer_tokens,
        n_batches_for_norm_estimate=2,
        checkpoint_every_s=600.0,
        seed=args.seed,
    )
    print(json.dumps(asdict(make_set_plan(configs, model, folder=args.out.parent)), indent=1))
    if args.plan:
        return
    with stop_on_signals() as stop:
        run = SetRun(
            configs, model, folder=args.out.with_name(f"{args.out.name}.checkpoints"), stop=stop
        )
        end = run.go(
            keep=lambda name, sae: packaged(sae, half=args.half).save(args.out / name), report=tell
        )
    print(f"{end.state} at step {end.step}; failed: {[m.name for m in end.members if m.error]}")
    if end.state != "done" or not args.judge_tokens:
        return
    scores: dict[str, Any] = {}
    for member in end.members:
        if not member.error:
            folder = args.out / member.name
            scores[member.name] = judge(model, folder, args.text, args.judge_tokens)
            print(member.name, scores[member.name], flush=True)
    (args.out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    main()
