"""Write core/saescope/catalogue/models.json: how many weights known language models have, counted
by building each from the numbers of its configuration without memory.

    python scripts/build_model_sizes.py [--check]

With --check nothing is written; the exit code says whether the file is up to date. The numbers are
those of each model's own config.json; the tests compare the counts with those that the models'
pages publish.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

OUT = Path(__file__).parents[1] / "core" / "saescope" / "catalogue" / "models.json"


def llama(d: int, layers: int, mlp: int, heads: tuple[int, int], **more: Any) -> dict[str, Any]:
    """The numbers of a configuration in the words that Llama's family shares; heads: of queries,
    and of keys and values."""
    return {
        "hidden_size": d,
        "num_hidden_layers": layers,
        "intermediate_size": mlp,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        **more,
    }


def gpt2(d: int, layers: int, heads: int) -> dict[str, Any]:
    return {"n_embd": d, "n_layer": layers, "n_head": heads}


def neox(d: int, layers: int, heads: int, vocab: int = 50304) -> dict[str, Any]:
    return llama(d, layers, 4 * d, (heads, heads), vocab_size=vocab)


def opt(d: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": d,
        "num_hidden_layers": layers,
        "ffn_dim": 4 * d,
        "num_attention_heads": heads,
        "word_embed_proj_dim": d,
    }


def neo(d: int, layers: int, heads: int) -> dict[str, Any]:
    pattern = [[["global", "local"], layers // 2]]
    return {"hidden_size": d, "num_layers": layers, "num_heads": heads, "attention_types": pattern}


TIED: dict[str, Any] = {"tie_word_embeddings": True}
LLAMA_3: dict[str, Any] = {"vocab_size": 128256}
LLAMA_32 = LLAMA_3 | TIED
SMOL = {"vocab_size": 49152} | TIED
GEMMA_3: dict[str, Any] = {"vocab_size": 262208}
GEMMA_3_SMALL = {"vocab_size": 262144, "head_dim": 256}
QWEN: dict[str, Any] = {"vocab_size": 151936}
QWEN_LARGE: dict[str, Any] = {"vocab_size": 152064}
HEAD = {"head_dim": 128} | QWEN
Rows = dict[str, tuple[str, dict[str, Any]]]
FLOAT32: Rows = {
    "gpt2": ("gpt2", gpt2(768, 12, 12)),
    "gpt2-medium": ("gpt2", gpt2(1024, 24, 16)),
    "gpt2-large": ("gpt2", gpt2(1280, 36, 20)),
    "gpt2-xl": ("gpt2", gpt2(1600, 48, 25)),
    "EleutherAI/gpt-neo-125m": ("gpt_neo", neo(768, 12, 12)),
    "EleutherAI/gpt-neo-1.3B": ("gpt_neo", neo(2048, 24, 16)),
    "EleutherAI/gpt-neo-2.7B": ("gpt_neo", neo(2560, 32, 20)),
    "EleutherAI/gpt-j-6b": ("gptj", {}),
}
FLOAT16: Rows = {
    "EleutherAI/pythia-14m": ("gpt_neox", neox(128, 6, 4)),
    "EleutherAI/pythia-31m": ("gpt_neox", neox(256, 6, 8)),
    "EleutherAI/pythia-70m": ("gpt_neox", neox(512, 6, 8)),
    "EleutherAI/pythia-160m": ("gpt_neox", neox(768, 12, 12)),
    "EleutherAI/pythia-410m": ("gpt_neox", neox(1024, 24, 16)),
    "EleutherAI/pythia-1b": ("gpt_neox", neox(2048, 16, 8)),
    "EleutherAI/pythia-1.4b": ("gpt_neox", neox(2048, 24, 16)),
    "EleutherAI/pythia-2.8b": ("gpt_neox", neox(2560, 32, 32)),
    "EleutherAI/pythia-6.9b": ("gpt_neox", neox(4096, 32, 32, 50432)),
    "EleutherAI/pythia-12b": ("gpt_neox", neox(5120, 36, 40, 50688)),
    "facebook/opt-125m": ("opt", opt(768, 12, 12)),
    "facebook/opt-1.3b": ("opt", opt(2048, 24, 32)),
    "facebook/opt-2.7b": ("opt", opt(2560, 32, 32)),
    "facebook/opt-6.7b": ("opt", opt(4096, 32, 32)),
    "microsoft/phi-1_5": ("phi", {}),
    "microsoft/phi-2": ("phi", llama(2560, 32, 10240, (32, 32))),
    "meta-llama/Llama-2-7b": ("llama", llama(4096, 32, 11008, (32, 32))),
    "meta-llama/Llama-2-13b": ("llama", llama(5120, 40, 13824, (40, 40))),
}
BFLOAT16: Rows = {
    "google/gemma-2b": ("gemma", llama(2048, 18, 16384, (8, 1))),
    "google/gemma-7b": ("gemma", llama(3072, 28, 24576, (16, 16))),
    "google/gemma-2-2b": ("gemma2", llama(2304, 26, 9216, (8, 4))),
    "google/gemma-2-9b": ("gemma2", llama(3584, 42, 14336, (16, 8))),
    "google/gemma-2-27b": ("gemma2", llama(4608, 46, 36864, (32, 16), head_dim=128)),
    "google/gemma-3-270m": ("gemma3_text", llama(640, 18, 2048, (4, 1), **GEMMA_3_SMALL)),
    "google/gemma-3-1b": ("gemma3_text", llama(1152, 26, 6912, (4, 1), **GEMMA_3_SMALL)),
    "google/gemma-3-4b": ("gemma3_text", llama(2560, 34, 10240, (8, 4), **GEMMA_3)),
    "google/gemma-3-12b": ("gemma3_text", llama(3840, 48, 15360, (16, 8), **GEMMA_3)),
    "google/gemma-3-27b": (
        "gemma3_text",
        llama(5376, 62, 21504, (32, 16), head_dim=128, **GEMMA_3),
    ),
    "meta-llama/Meta-Llama-3-8B": ("llama", llama(4096, 32, 14336, (32, 8), **LLAMA_3)),
    "meta-llama/Llama-3.1-8B": ("llama", llama(4096, 32, 14336, (32, 8), **LLAMA_3)),
    "meta-llama/Llama-3.1-70B": ("llama", llama(8192, 80, 28672, (64, 8), **LLAMA_3)),
    "meta-llama/Llama-3.2-1B": ("llama", llama(2048, 16, 8192, (32, 8), **LLAMA_32)),
    "meta-llama/Llama-3.2-3B": ("llama", llama(3072, 28, 8192, (24, 8), **LLAMA_32)),
    "meta-llama/Llama-3.3-70B": ("llama", llama(8192, 80, 28672, (64, 8), **LLAMA_3)),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": (
        "llama",
        llama(4096, 32, 14336, (32, 8), **LLAMA_3),
    ),
    "TinyLlama/TinyLlama-1.1B": ("llama", llama(2048, 22, 5632, (32, 4))),
    "HuggingFaceTB/SmolLM2-135M": ("llama", llama(576, 30, 1536, (9, 3), **SMOL)),
    "HuggingFaceTB/SmolLM2-360M": ("llama", llama(960, 32, 2560, (15, 5), **SMOL)),
    "HuggingFaceTB/SmolLM2-1.7B": ("llama", llama(2048, 24, 8192, (32, 32), **SMOL)),
    "mistralai/Mistral-7B": ("mistral", llama(4096, 32, 14336, (32, 8))),
    "Qwen/Qwen2.5-0.5B": ("qwen2", llama(896, 24, 4864, (14, 2), **QWEN, **TIED)),
    "Qwen/Qwen2.5-1.5B": ("qwen2", llama(1536, 28, 8960, (12, 2), **QWEN, **TIED)),
    "Qwen/Qwen2.5-3B": ("qwen2", llama(2048, 36, 11008, (16, 2), **QWEN, **TIED)),
    "Qwen/Qwen2.5-7B": ("qwen2", llama(3584, 28, 18944, (28, 4), **QWEN_LARGE)),
    "Qwen/Qwen2.5-14B": ("qwen2", llama(5120, 48, 13824, (40, 8), **QWEN_LARGE)),
    "Qwen/Qwen2.5-32B": ("qwen2", llama(5120, 64, 27648, (40, 8), **QWEN_LARGE)),
    "Qwen/Qwen2.5-72B": ("qwen2", llama(8192, 80, 29568, (64, 8), **QWEN_LARGE)),
    "Qwen/Qwen3-0.6B": ("qwen3", llama(1024, 28, 3072, (16, 8), **HEAD, **TIED)),
    "Qwen/Qwen3-1.7B": ("qwen3", llama(2048, 28, 6144, (16, 8), **HEAD, **TIED)),
    "Qwen/Qwen3-4B": ("qwen3", llama(2560, 36, 9728, (32, 8), **HEAD, **TIED)),
    "Qwen/Qwen3-8B": ("qwen3", llama(4096, 36, 12288, (32, 8), **HEAD)),
    "Qwen/Qwen3-14B": ("qwen3", llama(5120, 40, 17408, (40, 8), **HEAD)),
    "Qwen/Qwen3-32B": ("qwen3", llama(5120, 64, 25600, (64, 8), **HEAD)),
    "Qwen/Qwen3-30B-A3B": (
        "qwen3_moe",
        llama(2048, 48, 6144, (32, 4), num_experts=128, num_experts_per_tok=8, **HEAD),
    ),
    "Qwen/Qwen3.5-9B": ("qwen3_5_text", {}),
    "Qwen/Qwen3.5-35B-A3B": ("qwen3_5_moe_text", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    kept = {"float32": FLOAT32, "float16": FLOAT16, "bfloat16": BFLOAT16}
    rows = [
        row(name, *said, dtype=dtype) for dtype, each in kept.items() for name, said in each.items()
    ]
    content = "[\n" + ",\n".join(json.dumps(each) for each in rows) + "\n]\n"
    if args.check:
        same = OUT.is_file() and OUT.read_text(encoding="utf-8") == content
        print("up to date" if same else f"{OUT.name} differs: run without --check")
        raise SystemExit(not same)
    OUT.write_text(content, encoding="utf-8")
    print(f"{len(rows)} models, {OUT.stat().st_size} bytes")


def row(name: str, family: str, numbers: dict[str, Any], *, dtype: str) -> dict[str, Any]:
    config = CONFIG_MAPPING[family](**numbers)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    n_all = sum(parameter.numel() for parameter in model.parameters())
    outer = {id(each): each for each in (model.get_input_embeddings(), model.lm_head) if each}
    tied = config.tie_word_embeddings
    n_outer = sum(each.weight.numel() for each in [*outer.values()][: 1 if tied else None])
    return {
        "name": name,
        "n_parameters": n_all,
        "n_inner": n_all - n_outer,
        "d_model": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "dtype": dtype,
    }


if __name__ == "__main__":
    main()
