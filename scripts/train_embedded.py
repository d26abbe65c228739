"""Train the SAE that ships with saescope, from a text file to a folder in SAELens's format at half
precision.

    python scripts/train_embedded.py corpus.txt OUT [--seed 0]

The activations of the embedded model (run in bfloat16) are stored once, the run goes through them
several times; cut off, it goes on from its last checkpoint. What the packaged file was made with
and what it reaches: docs/embedded.md.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import saescope as ss
from saescope.names import home
from saescope.saes import SAE
from saescope.training import TrainingProgress, TrainingRun

HOOK = "blocks.14.hook_resid_post"
RECIPE: dict[str, Any] = {
    "architecture": "topk",
    "d_sae": 4608,
    "k": 32,
    "context_size": 256,
    "batch_size": 2048,
    "cache_activations": True,
    "cached_tokens": 20 * 2**16,
    "training_tokens": 6 * 20 * 2**16,
    "lr": 4e-4 * (16384 / 4608) ** 0.5,
    "lr_decay_steps": 1280,
    "decoder_init_norm": 0.1,
    "checkpoint_every_s": 120.0,
}


def packaged(sae: SAE) -> SAE:
    """Decoder rows of norm 1 and half precision; no longer ranked by norms that are all the
    same."""
    sae = sae.fold_W_dec_norm()
    said = {
        "seqpos_slice": [1, None],
        "cached_tokens": RECIPE["cached_tokens"],
        "trained_by": "scripts/train_embedded.py",
    }
    metadata = replace(sae.cfg.metadata, prepend_bos=False, raw={**sae.cfg.metadata.raw, **said})
    old: Any = sae.cfg
    cfg: Any = replace(old, rescale_acts_by_decoder_norm=False, metadata=metadata)
    return type(sae)(cfg, {name: tensor.half() for name, tensor in sae.tensors().items()})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = ss.load_model(dtype="bfloat16")
    cfg = ss.train_config(model, HOOK, dataset=args.text, seed=args.seed, **RECIPE)

    def tell(at: TrainingProgress) -> None:
        shown = {
            name: round(value, 4)
            for name, value in at.point.items()
            if name in ("explained_variance", "l0", "dead_share", "lr")
        }
        print(f"step {at.step} of {at.n_steps}: {shown}", flush=True)

    run = TrainingRun(cfg, model, folder=home() / "embedded-run", say=print)
    run.go(report=tell)
    packaged(run.sae()).save(args.out)


if __name__ == "__main__":
    main()
