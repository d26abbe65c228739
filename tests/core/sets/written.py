"""Sets as their authors publish them, written here with random weights, and what their layers must
compute, by naive formulas."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

D, D_SAE, N_LAYERS, N_POS = 8, 24, 4, 5


class Layer(NamedTuple):
    """A layer's weights in the field's shapes; `decoders[j]` writes j layers later."""

    W_enc: Tensor
    decoders: list[Tensor]
    b_enc: Tensor
    b_dec: Tensor
    threshold: Tensor
    W_skip: Tensor

    def hidden_pre(self, x: Tensor) -> Tensor:
        return x.double() @ self.W_enc.double() + self.b_enc.double()

    def acts(self, x: Tensor, kind: str) -> Tensor:
        """Features by the formula of "relu", "jump_relu" or "topk" (k = 3)."""
        hidden = self.hidden_pre(x)
        if kind == "topk":
            kept = torch.zeros_like(hidden)
            for row, out in zip(hidden, kept, strict=True):
                for i in sorted(range(len(row)), key=lambda i: -float(row[i]))[:3]:
                    out[i] = row[i].relu()
            return kept
        gate = hidden > (self.threshold.double() if kind == "jump_relu" else 0)
        return hidden.relu() * gate

    def acts_of(self, x: Tensor) -> Tensor:
        return self.acts(x, "relu")


def layers(n_decoders: bool = False) -> list[Layer]:
    """Four layers with weights of their own; with `n_decoders` a decoder for each later layer."""
    rng = torch.Generator().manual_seed(7)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    return [
        Layer(
            randn(D, D_SAE) / 3,
            [randn(D_SAE, D) for _ in range(N_LAYERS - layer if n_decoders else 1)],
            randn(D_SAE) / 4,
            randn(D),
            torch.rand(D_SAE, generator=rng) / 2,
            randn(D, D),
        )
        for layer in range(N_LAYERS)
    ]


def inputs() -> dict[int, Tensor]:
    rng = torch.Generator().manual_seed(11)
    return {i: torch.randn(N_POS, D, generator=rng) for i in range(N_LAYERS)}


def cross_layer(folder: Path, made: list[Layer], *, jump: bool = True) -> Path:
    """circuit-tracer's cross-layer transcoder: a file of encoders and one of decoders a layer."""
    folder.mkdir(parents=True, exist_ok=True)
    activation = "jump_relu" if jump else "relu"
    (folder / "config.yaml").write_text(
        "model_name: test/model\nmodel_kind: cross_layer_transcoder\n"
        "feature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
        f"activation: {activation}\n"
    )
    for i, layer in enumerate(made):
        encoder = {
            f"W_enc_{i}": layer.W_enc.T.contiguous(),
            f"b_enc_{i}": layer.b_enc,
            f"b_dec_{i}": layer.b_dec,
        }
        encoder |= {f"threshold_{i}": layer.threshold} if jump else {}
        save_file(encoder, folder / f"W_enc_{i}.safetensors")
        decoders = torch.stack(layer.decoders, dim=1).contiguous()
        save_file({f"W_dec_{i}": decoders}, folder / f"W_dec_{i}.safetensors")
    return folder


def gemma_3_cross_layer(folder: Path, made: list[Layer]) -> Path:
    """Gemma Scope 2's: one file a layer, with a decoder for every layer of the model and a skip
    connection."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, layer in enumerate(made):
        below = [torch.full((D_SAE, D), 1e6)] * i
        save_file(
            {
                "w_enc": layer.W_enc,
                "w_dec": torch.stack([*below, *layer.decoders], dim=1).contiguous(),
                "b_enc": layer.b_enc,
                "b_dec": layer.b_dec,
                "threshold": layer.threshold,
                "affine_skip_connection": layer.W_skip.T.contiguous(),
            },
            folder / f"params_layer_{i}.safetensors",
        )
    return folder


def per_layer(folder: Path, made: list[Layer], *, activation: str = "relu", skip: bool = False):
    """circuit-tracer's set: one file a layer, and config.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        "model_name: test/model\nmodel_kind: transcoder_set\n"
        "feature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n"
        + (f"activation: {activation}\n" if activation != "jump_relu" else "")
        + ("k: 3\n" if activation == "topk" else "")
    )
    for i, layer in enumerate(made):
        tensors = {
            "W_enc": layer.W_enc.T.contiguous(),
            "W_dec": layer.decoders[0],
            "b_enc": layer.b_enc,
            "b_dec": layer.b_dec,
        }
        tensors |= {"W_skip": layer.W_skip} if skip else {}
        if activation == "jump_relu":
            tensors["activation_function.threshold"] = layer.threshold
        save_file(tensors, folder / f"layer_{i}.safetensors")
    return folder


def mwhanna(folder: Path, made: list[Layer]) -> Path:
    """Qwen3 transcoders: such a set, with what wandb kept of the training run alone."""
    per_layer(folder, made)
    (folder / "config.yaml").unlink()
    (folder / "wandb-config.yaml").write_text(
        f"d_model:\n  value: {D}\nd_feature:\n  value: {D_SAE}\nbatch_size:\n  value: 512\n"
    )
    return folder


def gemma_2(folder: Path, made: list[Layer]) -> Path:
    """Gemma Scope's transcoders: layer_<L>/width_16k/average_l0_<l0>/params.npz."""
    for i, layer in enumerate(made):
        place = folder / f"layer_{i}/width_16k/average_l0_{40 + i}"
        place.mkdir(parents=True)
        np.savez(
            place / "params.npz",
            W_enc=layer.W_enc.numpy(),
            W_dec=layer.decoders[0].numpy(),
            b_enc=layer.b_enc.numpy(),
            b_dec=layer.b_dec.numpy(),
            threshold=layer.threshold.numpy(),
        )
    return folder


def gemma_3(folder: Path, made: list[Layer]) -> Path:
    """Gemma Scope 2's affine transcoders: layer_<L>_width_16k_l0_small_affine/."""
    for i, layer in enumerate(made):
        place = folder / f"layer_{i}_width_16k_l0_small_affine"
        place.mkdir(parents=True)
        (place / "config.json").write_text(
            json.dumps(
                {
                    "architecture": "jump_relu",
                    "model_name": "gemma-v3-270m",
                    "affine_connection": True,
                    "hf_hook_point_in": f"model.layers.{i}.pre_feedforward_layernorm.output",
                    "hf_hook_point_out": f"model.layers.{i}.post_feedforward_layernorm.output",
                }
            )
        )
        save_file(
            {
                "w_enc": layer.W_enc,
                "w_dec": layer.decoders[0],
                "b_enc": layer.b_enc,
                "b_dec": layer.b_dec,
                "threshold": layer.threshold,
                "affine_skip_connection": layer.W_skip.T.contiguous(),
            },
            place / "params.safetensors",
        )
    return folder


def sparsify(folder: Path, made: list[Layer]) -> Path:
    """sparsify's skip transcoders: layers.<L>.mlp/, and the run's config.json above."""
    folder.mkdir(parents=True, exist_ok=True)
    sae = {"transcode": True, "skip_connection": True, "k": 3, "num_latents": D_SAE}
    (folder / "config.json").write_text(
        json.dumps({"sae": sae, "model": "test/llama", "transcode": True, "ctx_len": 64})
    )
    for i, layer in enumerate(made):
        place = folder / f"layers.{i}.mlp"
        place.mkdir()
        (place / "cfg.json").write_text(json.dumps(sae | {"d_in": D, "activation": "topk"}))
        save_file(
            {
                "encoder.weight": layer.W_enc.T.contiguous(),
                "encoder.bias": layer.b_enc,
                "W_dec": layer.decoders[0],
                "b_dec": layer.b_dec,
                "W_skip": layer.W_skip,
            },
            place / "sae.safetensors",
        )
    return folder


def own(
    folder: Path,
    made: list[Layer],
    *,
    transcoder: bool = True,
    said: dict[str, object] | None = None,
    **cfg: object,
) -> Path:
    """What a set's training here writes: SAELens's layout in layer_<L>/; `said` joins the
    metadata."""
    for i, layer in enumerate(made):
        place = folder / f"layer_{i}"
        place.mkdir(parents=True)
        metadata: dict[str, object] = {
            "model_name": "test/model",
            "hook_name": f"blocks.{i}.hook_resid_post",
        }
        if transcoder:
            metadata["hook_name"] = f"blocks.{i}.mlp.hook_in"
            metadata["hook_name_out"] = f"blocks.{i}.hook_mlp_out"
        stated = {"sae_lens_version": "6.54.12"} | metadata | (said or {})
        (place / "cfg.json").write_text(
            json.dumps(
                {
                    "architecture": "transcoder" if transcoder else "standard",
                    "d_in": D,
                    "d_sae": D_SAE,
                    "dtype": "float32",
                    "device": "cpu",
                    "apply_b_dec_to_input": not transcoder,
                    "normalize_activations": "none",
                    "reshape_activations": "none",
                    "metadata": stated,
                }
                | ({"d_out": D} if transcoder else {})
                | cfg
            )
        )
        save_file(
            {
                "W_enc": layer.W_enc,
                "W_dec": layer.decoders[0],
                "b_enc": layer.b_enc,
                "b_dec": layer.b_dec,
            },
            place / "sae_weights.safetensors",
        )
    return folder
