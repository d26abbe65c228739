"""Folders with small random SAEs as other libraries write them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

D_IN, D_SAE = 128, 256


def write_sparsify(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rng = torch.Generator().manual_seed(0)
    tensors = {
        "encoder.weight": torch.randn(D_SAE, D_IN, generator=rng),
        "encoder.bias": torch.zeros(D_SAE),
    }
    save_file(
        tensors | {"W_dec": torch.randn(D_SAE, D_IN, generator=rng), "b_dec": torch.zeros(D_IN)},
        folder / "sae.safetensors",
    )
    (folder / "cfg.json").write_text(
        json.dumps({"expansion_factor": 2, "num_latents": 0, "k": 4, "d_in": D_IN})
    )
    return folder


def write_llama_scope(folder: Path) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    rng = torch.Generator().manual_seed(1)
    W_dec = torch.randn(D_IN, D_SAE, generator=rng) * torch.linspace(0.1, 3, D_SAE)
    tensors = {
        "encoder.weight": torch.randn(D_SAE, D_IN, generator=rng),
        "encoder.bias": torch.zeros(D_SAE),
    }
    save_file(
        tensors | {"decoder.weight": W_dec, "decoder.bias": torch.zeros(D_IN)},
        folder / "checkpoints" / "final.safetensors",
    )
    said = {
        "hook_point_in": "blocks.2.hook_resid_post",
        "jump_relu_threshold": 2.0,
        "norm_activation": "inference",
    }
    (folder / "hyperparams.json").write_text(json.dumps(said))
    return folder


def write_pickled(folder: Path) -> Path:
    """A TopK SAE of dictionary_learning, whose weights are a .pt file."""
    folder.mkdir()
    said = {
        "dict_class": "AutoEncoderTopK",
        "k": 4,
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "submodule_name": folder.name,
    }
    (folder / "config.json").write_text(json.dumps({"trainer": said | {"lm_name": ""}}))
    W_dec = torch.randn(D_IN, D_SAE, generator=torch.Generator().manual_seed(2))
    tensors = {
        "encoder.weight": W_dec.T.contiguous(),
        "encoder.bias": torch.zeros(D_SAE),
        "decoder.weight": W_dec,
        "b_dec": torch.zeros(D_IN),
    }
    torch.save(tensors | {"k": torch.tensor(4)}, folder / "ae.pt")
    return folder
