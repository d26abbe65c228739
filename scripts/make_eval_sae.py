"""Train the SAE of the agent evaluation, `agent_evals/data/glass-l2`: 256 features on layer 2 of
the tiny model, a minute on one core."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import saescope as ss

ROOT = Path(__file__).parents[1]


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "agent_evals" / "data" / "glass-l2"
    model = ss.load_model(str(ROOT / "tests" / "data" / "glassllm-en"), device="cpu")
    config = ss.train_config(
        model,
        "blocks.2.hook_resid_post",
        d_sae=256,
        k=8,
        training_tokens=400_000,
        context_size=64,
        batch_size=1024,
        seed=0,
    )
    ss.train(config, model=model).save(folder)
    weights, said = (
        folder / "sae_weights.safetensors",
        json.loads((folder / "cfg.json").read_text(encoding="utf-8")),
    )
    save_file(
        {name: tensor.half().contiguous() for name, tensor in load_file(weights).items()}, weights
    )
    (folder / "cfg.json").write_text(
        json.dumps(said | {"dtype": "float16"}, indent=1), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
