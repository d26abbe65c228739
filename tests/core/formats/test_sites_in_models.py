"""The tensor that each dialect's SAEs are given in a model is the one of the module that they were
trained on."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.attack.families import build
from tests.attack.plain import Plain
from tests.core.formats.test_dialects import SITES
from torch import Tensor, nn
from transformers import AutoTokenizer

from saescope.errors import ModelError
from saescope.formats.hf_sites import hook_of
from saescope.hooks import record_activations
from saescope.models import load_model
from saescope.saes import SAE, SAEMetadata, StandardConfig, StandardSAE
from saescope.splice import prepare_input

IDS = torch.tensor([[2, 17, 400, 33, 921, 5]])
RMS_INPUT = "before the norm's weight"
PLACES: dict[str, tuple[str, str, str, str]] = {
    # case: family, module, side read, module written (its output)
    "gemma_2_res": ("gemma2", "model.layers.1", "output", ""),
    "gemma_2_att": ("gemma2", "model.layers.1.self_attn.o_proj", "input", ""),
    "gemma_2_mlp": ("gemma2", "model.layers.1.post_feedforward_layernorm", "output", ""),
    "gemma_2_transcoder": (
        "gemma2",
        "model.layers.1.pre_feedforward_layernorm",
        RMS_INPUT,
        "model.layers.1.post_feedforward_layernorm",
    ),
    "gemma_3_resid_post": ("gemma3", "model.layers.1", "output", ""),
    "gemma_3_attn_out": ("gemma3", "model.layers.1.self_attn.o_proj", "input", ""),
    "gemma_3_mlp_out": ("gemma3", "model.layers.1.post_feedforward_layernorm", "output", ""),
    "gemma_3_transcoder": (
        "gemma3",
        "model.layers.1.pre_feedforward_layernorm",
        "output",
        "model.layers.1.post_feedforward_layernorm",
    ),
    "dl_topk": ("neox", "gpt_neox.layers.1", "output", ""),
    "qwen_scope": ("qwen3", "model.layers.1", "output", ""),
    "mwhanna": ("qwen3", "model.layers.1.mlp", "input", "model.layers.1.mlp"),
    "llama_scope": ("llama", "model.layers.1", "output", ""),
    "goodfire": ("llama", "model.layers.1", "output", ""),
}


def values(folder: Path, module: str, side: str) -> Tensor:
    """What enters or leaves a module of a plain Hugging Face model."""
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    seen: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        found = output if side == "output" else inputs[0]
        seen.append(
            (found[0] if isinstance(found, tuple) else found).detach().reshape(IDS.shape[1], -1)
        )

    model.get_submodule(module).register_forward_hook(note)
    with torch.no_grad():
        model(IDS)
    if side != RMS_INPUT:
        return seen[0]
    eps = getattr(model.get_submodule(module), "eps", 1e-6)
    return seen[0] * torch.rsqrt(seen[0].pow(2).mean(-1, keepdim=True) + eps)


def given(folder: Path, hook_name: str) -> Tensor:
    return record_activations(load_model(str(folder), device="cpu"), IDS, [hook_name])[
        hook_name
    ].reshape(IDS.shape[1], -1)


@pytest.mark.parametrize("case", PLACES)
def test_an_sae_gets_what_its_module_computes(case: str, folder_of: Callable[[str], Path]) -> None:
    family, module, side, written = PLACES[case]
    read_hook, write_hook = (re.sub(r"blocks\.\d+", "blocks.1", hook) for hook in SITES[case][1:])
    assert torch.allclose(
        given(folder_of(family), read_hook), values(folder_of(family), module, side), atol=1e-5
    )
    if written:
        assert torch.allclose(
            given(folder_of(family), write_hook),
            values(folder_of(family), written, "output"),
            atol=1e-5,
        )


def biased(hook_name: str) -> SAE:
    """An SAE of a model whose value biases were folded away."""
    cfg = StandardConfig(
        d_in=32,
        d_sae=4,
        reshape_activations="hook_z" if hook_name.endswith("hook_z") else "none",
        metadata=SAEMetadata(hook_name=hook_name, fold_value_biases=True),
    )
    weights = {
        "W_enc": torch.ones(32, 4),
        "W_dec": torch.ones(4, 32),
        "b_enc": torch.zeros(4),
        "b_dec": torch.zeros(32),
    }
    return StandardSAE(cfg, weights)


def test_an_attention_sae_of_a_processed_model_gets_z_without_its_value_bias(
    folder_of: Callable[[str], Path],
) -> None:
    """Equal to what attention makes of values that have no bias: transformer-lens's fold_ln and
    fold_value_biases."""
    model = load_model(str(folder_of("gpt2")), device="cpu")
    there = record_activations(
        model,
        IDS,
        ["blocks.1.ln1.hook_normalized", "blocks.1.attn.hook_pattern", "blocks.1.attn.hook_z"],
    )
    block = model.bridge.blocks[1]
    values = torch.einsum(
        "bsd,hde->bshe", there["blocks.1.ln1.hook_normalized"] * block.ln1.weight, block.attn.W_V
    )
    without = torch.einsum("bhqk,bkhe->bqhe", there["blocks.1.attn.hook_pattern"], values).flatten(
        2
    )
    x = prepare_input(model, biased("blocks.1.attn.hook_z"), there["blocks.1.attn.hook_z"])
    assert torch.allclose(x, without[0].detach(), atol=1e-5)
    assert not torch.allclose(x, there["blocks.1.attn.hook_z"].reshape(x.shape), atol=1e-2)


@pytest.mark.parametrize("family", ["qwen2", "starcoder2", "nemotron"])
def test_heads_that_share_values_share_their_bias(
    family: str, tmp_path: Path, glass_dir: Path
) -> None:
    """A head's bias is what its values are at an input that is the norm's bias alone."""
    folder = build(family, tmp_path / family, AutoTokenizer.from_pretrained(glass_dir))
    block: Any = Plain(folder).blocks[1]
    norm_bias = getattr(block.input_layernorm, "bias", None)
    values = block.self_attn.v_proj(torch.zeros(32) if norm_bias is None else norm_bias)
    expected = values.reshape(2, 8).repeat_interleave(2, dim=0).flatten()
    model = load_model(folder, device="cpu")
    z = record_activations(model, IDS, ["blocks.1.attn.hook_z"])["blocks.1.attn.hook_z"]
    x = prepare_input(model, biased("blocks.1.attn.hook_z"), z)
    assert torch.allclose(z.flatten(2)[0] - x, expected.expand_as(x), atol=1e-5)
    assert expected.abs().max() > 0.01


@pytest.mark.parametrize("site", ["hook_resid_post", "hook_mlp_out", "mlp.hook_in"])
def test_a_folded_value_bias_changes_nothing_at_other_sites(
    site: str, folder_of: Callable[[str], Path]
) -> None:
    model, hook_name = load_model(str(folder_of("gpt2")), device="cpu"), f"blocks.1.{site}"
    there = record_activations(model, IDS, [hook_name])[hook_name]
    assert torch.equal(prepare_input(model, biased(hook_name), there), there[0])


@pytest.mark.parametrize("family", ["deepseek3", "olmo2"])
def test_values_that_have_no_bias_of_their_own(
    family: str, tmp_path: Path, glass_dir: Path
) -> None:
    """DeepSeek's values come out of a compressed projection; OLMo 2 has no norm before
    attention."""
    folder = build(family, tmp_path / family, AutoTokenizer.from_pretrained(glass_dir))
    model, hook_name = load_model(folder, device="cpu"), "blocks.1.attn.hook_z"
    z = record_activations(model, IDS, [hook_name])[hook_name]
    if family == "olmo2":
        x = prepare_input(model, biased(hook_name), z)
        assert torch.equal(x, z.flatten(2)[0])
        return
    with pytest.raises(ModelError, match="MLA") as refused:
        prepare_input(model, biased(hook_name), z)
    assert refused.value.code == "UNSUPPORTED_MODEL"


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize(
    ("family", "module", "model_name"),
    [
        ("gpt2", "transformer.h.1", "gpt2"),
        ("gpt2", "transformer.h.1.mlp", "gpt2"),
        ("gpt2", "transformer.h.1.attn", "gpt2"),
        ("llama", "model.layers.1.mlp", "meta-llama/Llama-3.2-1B"),
        ("llama", "model.layers.1.self_attn", "meta-llama/Llama-3.2-1B"),
        ("qwen3", "model.layers.1.self_attn.o_proj", "Qwen/Qwen3-0.6B"),
        ("neox", "gpt_neox.layers.1.mlp", "EleutherAI/pythia-70m"),
        ("neox", "gpt_neox.layers.1.attention", "EleutherAI/pythia-70m"),
        ("gemma2", "model.layers.1.mlp", "google/gemma-2-2b"),
        ("gemma2", "model.layers.1.self_attn", ""),
        ("gemma3", "model.layers.1.mlp", ""),
        ("gemma3", "model.layers.1.pre_feedforward_layernorm", "google/gemma-3-1b-pt"),
        ("llama", "model.embed_tokens", ""),
    ],
)
def test_a_module_is_found_by_its_hugging_face_name(
    family: str, module: str, model_name: str, side: str, folder_of: Callable[[str], Path]
) -> None:
    hook_name = hook_of(module, side, model_name)
    if hook_name:
        assert torch.allclose(
            given(folder_of(family), hook_name), values(folder_of(family), module, side), atol=1e-5
        )
