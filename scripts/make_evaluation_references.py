"""What sae-lens 6.54's `run_evals` says of small SAEs in the tiny model, for
tests/core/evals/test_evaluate_saelens.py.

sae-lens pins transformer-lens < 4, so this runs in an environment of its own (pip install
sae-lens==6.54.12):

    python scripts/make_evaluation_references.py     # rewrites tests/data/evaluation

Each case is a folder in sae-lens's own format, with run_evals.json: its metrics with special tokens
left out ("default") and with every position counted ("all_positions"). contexts.safetensors holds
the tokens: BOS first, an EOS between two texts.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

warnings.filterwarnings("ignore")

import transformer_lens.loading_from_pretrained as loading  # noqa: E402
from sae_lens import SAE  # noqa: E402
from sae_lens.evals import get_eval_everything_config, run_evals  # noqa: E402
from sae_lens.saes.sae import SAEMetadata  # noqa: E402
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig  # noqa: E402
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig  # noqa: E402
from sae_lens.training.activation_scaler import ActivationScaler  # noqa: E402
from transformer_lens import HookedTransformer  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

TESTS = Path(__file__).parent.parent / "tests"
MODEL, DATA = TESTS / "data" / "glassllm-en", TESTS / "data" / "evaluation"
D_SAE, N_CONTEXTS, CONTEXT_SIZE = 96, 4, 48
BOS, EOS = 2, 3
TEXT = (
    "It was the first warm day of the year, and the whole town had come down to the "
    "river. Alice sat on the wall with her shoes in her "
    "hand and watched the boats go by. 'You will fall in,' said her brother, who had "
    "read somewhere that one child in a hundred does. "
    "She did not answer him. In the afternoon the wind turned, and with it came the "
    "rain, so that they had to run for the old mill, "
    "where there was hay to sit on and a cat that did not mind them. The miller told "
    "them what his father had told him: that the river "
    "had once run on the other side of the hill, and that on a still night one could "
    "hear it there. Nobody had ever believed it. "
)


class Prompts:
    """What run_evals asks of an ActivationsStore."""

    store_batch_size_prompts, context_size = N_CONTEXTS, CONTEXT_SIZE

    def __init__(self, contexts: Tensor) -> None:
        self.contexts = contexts

    def get_batch_tokens(self, n: int) -> Tensor:
        return self.contexts

    def reset_input_dataset(self) -> None:
        pass


def tiny_model() -> HookedTransformer:
    hf = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()

    cfg = loading.get_pretrained_model_config(
        str(MODEL),
        hf_cfg=hf.config.to_dict(),
        device="cpu",
        fold_ln=False,
        default_prepend_bos=False,
    )
    state = loading.get_pretrained_state_dict(str(MODEL), cfg, hf)
    model = HookedTransformer(cfg, AutoTokenizer.from_pretrained(MODEL), move_to_device=False)
    model.load_and_process_state_dict(
        state,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model


def contexts_of(tokenizer: Any) -> Tensor:
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    ids = [*ids[:100], EOS, *ids[100:]]
    n_content = CONTEXT_SIZE - 1
    rows = [[BOS, *ids[i * n_content : (i + 1) * n_content]] for i in range(N_CONTEXTS)]
    return torch.tensor(rows)


def weights(x: Tensor, architecture: str, rng: torch.Generator) -> dict[str, Tensor]:
    """An SAE that has learned something: its directions are deviations of some positions from the
    mean."""
    mean = x.mean(0)
    rows = x[torch.randperm(len(x), generator=rng)[:D_SAE]] - mean
    rows = (
        rows / rows.norm(dim=-1, keepdim=True) * (0.8 + 0.4 * torch.rand(D_SAE, 1, generator=rng))
    )
    scale = float((x - mean).norm(dim=-1).mean())
    b_enc = torch.zeros(D_SAE) if architecture == "topk" else torch.full((D_SAE,), -0.35 * scale)
    named = {"W_enc": rows.T.contiguous(), "W_dec": 0.5 * rows, "b_dec": mean, "b_enc": b_enc}
    return {name: tensor.half().float() for name, tensor in named.items()}


def make(hook_name: str, architecture: str, x: Tensor, rng: torch.Generator) -> SAE[Any]:
    metadata = SAEMetadata(
        model_name="glassllm-en", hook_name=hook_name, context_size=CONTEXT_SIZE, prepend_bos=True
    )
    shape: dict[str, Any] = {
        "d_in": x.shape[1],
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "metadata": metadata,
    }
    if "hook_z" in hook_name:
        shape["reshape_activations"] = "hook_z"
    made = (
        TopKSAE(TopKSAEConfig(**shape, k=12))
        if architecture == "topk"
        else StandardSAE(StandardSAEConfig(**shape))
    )
    made.load_state_dict(weights(x, architecture, rng))
    return made


def main() -> None:
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    model = tiny_model()
    contexts = contexts_of(model.tokenizer)
    DATA.mkdir(exist_ok=True)
    save_file({"contexts": contexts.int()}, DATA / "contexts.safetensors")
    cases = {
        "standard": "blocks.2.hook_resid_post",
        "topk": "blocks.1.hook_mlp_out",
        "standard_z": "blocks.2.attn.hook_z",
    }
    for name, hook_name in cases.items():
        _, cache = model.run_with_cache(contexts, names_filter=[hook_name])
        x = cache[hook_name].reshape(contexts.numel(), -1)[contexts.flatten() > EOS]
        sae = make(hook_name, name.removesuffix("_z"), x, torch.Generator().manual_seed(1))
        said = {}
        for kind, exclude in (("default", True), ("all_positions", False)):
            config = get_eval_everything_config(
                batch_size_prompts=N_CONTEXTS, n_eval_reconstruction_batches=1
            )
            metrics, _ = run_evals(
                sae,
                Prompts(contexts),
                model,
                ActivationScaler(),
                config,
                exclude_special_tokens=exclude,  # type: ignore[arg-type]
            )
            said[kind] = {
                key: value
                for group in metrics.values()
                for key, value in group.items()
                if not key.startswith("total_")
            }
        sae.cfg.dtype = "float16"
        sae.half().save_model(DATA / name)
        (DATA / name / "run_evals.json").write_text(json.dumps(said, indent=1) + "\n")
        print(name, json.dumps(said["default"], indent=1))


if __name__ == "__main__":
    main()
