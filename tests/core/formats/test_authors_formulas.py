"""Dialects that sae-lens gets wrong or does not know, against the authors' own formula, written as
a loop over positions and features."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from tests.core.formats.trees import (
    D_IN,
    D_SAE,
    assert_close,
    hub,
    load,
    load_place,
    pickles_allowed,
    random_weights,
)
from torch import Tensor

from saescope.errors import SaescopeError
from saescope.formats import BY_NAME
from saescope.saes import SAE

Gate = Callable[[np.ndarray], np.ndarray]
"""Pre-activations of one position -> activations."""


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / "home"))
    with pickles_allowed(monkeypatch.setenv, monkeypatch.setattr):
        yield


def naive(
    w: dict[str, Tensor], gate: Gate, *, centred: bool, skip: bool = False, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Activations and output at each position of w["x"], one feature at a time."""
    n = {name: tensor.double().numpy() for name, tensor in w.items()}
    acts, outs = [], []
    for x in n["x"]:
        seen = x * scale - n["b_dec"] if centred else x * scale
        p = np.array(
            [
                sum(seen[i] * n["W_enc"][i, f] for i in range(D_IN)) + n["b_enc"][f]
                for f in range(D_SAE)
            ]
        )
        f = gate(p)
        out = n["b_dec"].copy()
        for i, value in enumerate(f):
            out += value * n["W_dec"][i]
        acts.append(f)
        outs.append(out / scale + (n["W_skip"] @ x if skip else 0))
    return torch.tensor(np.array(acts)), torch.tensor(np.array(outs))


def relu(p: np.ndarray) -> np.ndarray:
    return np.maximum(p, 0)


def top(k: int) -> Gate:
    def gate(p: np.ndarray) -> np.ndarray:
        kept = sorted(range(len(p)), key=lambda i: -p[i])[:k]
        return np.array([max(value, 0) if i in kept else 0 for i, value in enumerate(p)])

    return gate


def group_max(k: int) -> Gate:
    def gate(p: np.ndarray) -> np.ndarray:
        f, size = np.zeros_like(p), len(p) // k
        for group in range(k):
            best = group * size + int(np.argmax(p[group * size : (group + 1) * size]))
            f[best] = max(p[best], 0)
        return f

    return gate


def jump(thresholds: Tensor) -> Gate:
    limits = thresholds.double().numpy()
    return lambda p: np.where(p > limits, relu(p), 0)


def check(sae: SAE, w: dict[str, Tensor], expected: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """The formula's numbers; and the same once more after saving."""
    for each in (sae, load_place(sae.save(tmp_path / "again"))):
        assert torch.equal(each.encode(w["x"]) > 0, expected[0] > 0)
        assert_close(each.encode(w["x"]), expected[0])
        assert_close(each(w["x"]), expected[1])


SPARSIFY = {
    "topk": ({}, top(4), True),
    "not normalised": ({"normalize_decoder": False}, top(4), True),
    "normalised": ({"normalize_decoder": True}, top(4), True),
    "multi topk": ({"multi_topk": True}, top(4), True),
    "transcode": ({"transcode": True}, top(4), False),
    "skip transcoder": ({"transcode": True, "skip_connection": True}, top(4), False),
    "groupmax": ({"activation": "groupmax"}, group_max(4), True),
    "groupmax skip transcoder": (
        {"activation": "groupmax", "transcode": True, "skip_connection": True},
        group_max(4),
        False,
    ),
}


def write_sparsify(folder: Path, w: dict[str, Tensor], **cfg: Any) -> Path:
    folder.mkdir(parents=True)
    tensors = {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "encoder.bias": w["b_enc"],
        "W_dec": w["W_dec"],
        "b_dec": w["b_dec"],
    }
    save_file(
        tensors | ({"W_skip": w["W_skip"]} if cfg.get("skip_connection") else {}),
        folder / "sae.safetensors",
    )
    said = {
        "expansion_factor": 3,
        "normalize_decoder": True,
        "num_latents": 0,
        "k": 4,
        "d_in": D_IN,
        "multi_topk": False,
    }
    (folder / "cfg.json").write_text(json.dumps(said | cfg))
    (folder.parent / "config.json").write_text(
        json.dumps({"model": "HuggingFaceTB/SmolLM2-135M", "ctx_len": 2048, "dataset": "fineweb"})
    )
    return folder


@pytest.mark.parametrize("kind", SPARSIFY)
def test_sparsify(kind: str, tmp_path: Path) -> None:
    cfg, gate, centred = SPARSIFY[kind]
    w = random_weights(3)
    folder = write_sparsify(tmp_path / "layers.5.mlp", w, **cfg)
    expected = naive(w, gate, centred=centred, skip="skip_connection" in cfg)
    check(load_place(folder), w, expected, tmp_path)
    check(
        load(BY_NAME["sparsify"], hub(tmp_path, "EleutherAI/saes", "layers.5.mlp")),
        w,
        expected,
        tmp_path,
    )


@pytest.mark.parametrize(
    ("hookpoint", "transcode", "model", "sites"),
    [
        ("layers.5", False, "HuggingFaceTB/SmolLM2-135M", ("blocks.5.hook_resid_post", "")),
        ("layers.5.mlp", False, "HuggingFaceTB/SmolLM2-135M", ("blocks.5.hook_mlp_out", "")),
        (
            "layers.5.mlp",
            True,
            "HuggingFaceTB/SmolLM2-135M",
            ("blocks.5.mlp.hook_in", "blocks.5.hook_mlp_out"),
        ),
        (
            "layers.5.mlp",
            True,
            "google/gemma-2-2b",
            ("blocks.5.mlp.hook_in", "blocks.5.mlp.hook_out"),
        ),
        ("layers.5.mlp", False, "", ("blocks.5.mlp.hook_out", "")),
        (
            "gpt_neox.layers.3.attention",
            False,
            "EleutherAI/pythia-160m",
            ("blocks.3.hook_attn_out", ""),
        ),
        ("h.2.mlp", False, "openai-community/gpt2", ("blocks.2.hook_mlp_out", "")),
        ("layers.7.self_attn", False, "google/gemma-3-1b-pt", ("blocks.7.attn.hook_out", "")),
        ("embed_tokens", False, "EleutherAI/pythia-160m", ("hook_embed", "")),
        ("layers.5.mlp.experts.3", False, "some/moe", ("", "")),
    ],
)
def test_sparsify_reads_the_module_that_its_folder_names(
    hookpoint: str, transcode: bool, model: str, sites: tuple[str, str], tmp_path: Path
) -> None:
    write_sparsify(tmp_path / hookpoint, random_weights(), transcode=transcode)
    (tmp_path / "config.json").write_text(json.dumps({"model": model, "ctx_len": 2048}))
    meta = BY_NAME["sparsify"].peek(hub(tmp_path, "EleutherAI/saes", hookpoint))[0].metadata
    assert (meta.hook_name, meta.hook_name_out, meta.model_name, meta.context_size) == (
        *sites,
        model,
        2048,
    )


def test_auto_encoder_new_has_its_own_bias_and_does_not_subtract_it(tmp_path: Path) -> None:
    w = random_weights(5)
    said = {
        "dict_class": "AutoEncoderNew",
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "layer": 2,
        "lm_name": "google/gemma-2-2b",
    }
    (tmp_path / "config.json").write_text(json.dumps({"trainer": said, "buffer": {"ctx_len": 128}}))
    tensors = {
        "encoder.weight": w["W_enc"].T,
        "decoder.weight": w["W_dec"].T,
        "encoder.bias": w["b_enc"],
        "decoder.bias": w["b_dec"],
    }
    torch.save(tensors, tmp_path / "ae.pt")
    check(load_place(tmp_path), w, naive(w, relu, centred=False), tmp_path)


@pytest.mark.parametrize(
    ("submodule", "io", "hook_name"),
    [
        ("resid_post_layer_12", "out", "blocks.12.hook_resid_post"),
        ("resid_post_layer_12", "in", "blocks.12.hook_resid_pre"),
        ("mlp_out_layer_3", "out", "blocks.3.mlp.hook_out"),
        ("attn_out_layer_3", "out", "blocks.3.attn.hook_out"),
        ("gpt_neox.layers.4.mlp", "in", "blocks.4.mlp.hook_in"),
        ("", "out", "blocks.7.hook_resid_post"),
        ("something else", "out", ""),
    ],
)
def test_dictionary_learning_reads_the_submodule_that_it_names(
    submodule: str, io: str, hook_name: str, tmp_path: Path
) -> None:
    said = {
        "dict_class": "AutoEncoder",
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "layer": int(hook_name.split(".")[1]) if hook_name else 7,
        "lm_name": "google/gemma-2-2b",
    }
    (tmp_path / "config.json").write_text(
        json.dumps({"trainer": said | {"submodule_name": submodule}, "buffer": {"io": io}})
    )
    (tmp_path / "ae.pt").touch()
    assert (
        BY_NAME["dictionary_learning_1"]
        .peek(hub(tmp_path, "someone/dictionaries", ""))[0]
        .metadata.hook_name
        == hook_name
    )


def write_llama_scope(folder: Path, w: dict[str, Tensor], **changes: Any) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    said = {
        "d_model": D_IN,
        "d_sae": D_SAE,
        "hook_point_in": "blocks.5.hook_resid_post",
        "hook_point_out": "blocks.5.hook_resid_post",
    }
    said |= {
        "jump_relu_threshold": 0.6,
        "dataset_average_activation_norm": {"in": 3.0, "out": 3.0},
        "act_fn": "jumprelu",
    }
    (folder / "hyperparams.json").write_text(json.dumps(said | changes))
    tensors = {
        "encoder.weight": w["W_enc"].T,
        "decoder.weight": w["W_dec"].T,
        "encoder.bias": w["b_enc"],
        "decoder.bias": w["b_dec"],
    }
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / "checkpoints" / "final.safetensors",
    )
    return folder


def authors_llama_scope(w: dict[str, Tensor], theta: float, norm: float) -> tuple[Tensor, Tensor]:
    """lm_saes of December 2024, state "inference": standardise by the dataset's norm, then unit
    decoder norm, then JumpReLU."""
    s = math.sqrt(D_IN) / norm
    n = {name: tensor.double().numpy() for name, tensor in w.items()}
    row = np.linalg.norm(n["W_dec"], axis=1)
    W_enc, b_enc = n["W_enc"] * row, n["b_enc"] / s * row
    hidden = n["x"] @ W_enc + b_enc
    acts = np.where(hidden > theta, hidden, 0)
    return torch.tensor(acts), torch.tensor(acts @ (n["W_dec"] / row[:, None]) + n["b_dec"] / s)


def test_llama_scope_fires_as_its_authors_compute(tmp_path: Path) -> None:
    w = random_weights(1)
    sae = load_place(write_llama_scope(tmp_path / "sae", w))
    acts, out = authors_llama_scope(w, theta=0.6, norm=3.0)
    assert torch.equal(sae.encode(w["x"]) > 0, acts > 0)
    assert_close(sae(w["x"]), out)
    assert_close(
        sae.fold_W_dec_norm().encode(w["x"]), acts
    )  # theirs are activations at unit decoder norm
    assert sae.cfg.metadata.raw["gate"] == "upstream" and "upstream" in sae.cfg.metadata.note


def test_the_other_gate_is_another_function_and_says_so(tmp_path: Path) -> None:
    w = random_weights(1)
    folder = write_llama_scope(tmp_path / "sae", w)
    upstream, saelens = load_place(folder), load_place(folder, {"gate": "saelens"})
    assert saelens.cfg.metadata.raw["gate"] == "saelens" and "saelens" in saelens.cfg.metadata.note
    assert not torch.equal(upstream.encode(w["x"]) > 0, saelens.encode(w["x"]) > 0)
    with pytest.raises(SaescopeError, match="no gate 'mine'"):
        load_place(folder, {"gate": "mine"})


def test_a_llama_scope_threshold_is_not_rounded_to_bfloat16(tmp_path: Path) -> None:
    w = {name: tensor.bfloat16() for name, tensor in random_weights(1).items()}
    sae = load_place(write_llama_scope(tmp_path / "sae", w), {"gate": "saelens"})
    assert sae.state_dict()["threshold"][0].item() == pytest.approx(0.6 * 4 / 3, abs=1e-7)


def test_r1_distill_gates_at_unit_decoder_norm_in_the_scale_of_training(tmp_path: Path) -> None:
    w, s = random_weights(2), math.sqrt(D_IN) / 3.0
    said = {
        "d_model": D_IN,
        "expansion_factor": 3,
        "hook_point_in": "blocks.5.hook_resid_post",
        "act_fn": "jumprelu",
    }
    (tmp_path / "config.json").write_text(json.dumps(said))
    tensors = {
        "encoder.weight": w["W_enc"].T,
        "decoder.weight": w["W_dec"].T,
        "encoder.bias": w["b_enc"],
        "decoder.bias": w["b_dec"],
    }
    tensors |= {
        "log_jumprelu_threshold": w["threshold"].log(),
        "dataset_average_activation_norm.blocks.5.hook_resid_post": torch.tensor(3.0),
    }
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        tmp_path / "sae_weights.safetensors",
    )
    expected = naive(w, jump(w["threshold"] / w["W_dec"].norm(dim=-1)), centred=False, scale=s)
    check(load_place(tmp_path), w, expected, tmp_path)


def write_openai(file: Path, w: dict[str, Tensor], activation: str, **more: Any) -> Path:
    file.parent.mkdir(parents=True)
    tensors = {
        "pre_bias": w["b_dec"],
        "latent_bias": w["b_enc"],
        "encoder.weight": w["W_enc"].T,
        "decoder.weight": w["W_dec"].T,
    }
    tensors |= {
        "stats_last_nonzero": torch.zeros(D_SAE, dtype=torch.long),
        "latents_activation_frequency": torch.ones(D_SAE),
    }
    torch.save(
        tensors | {"latents_mean_square": torch.zeros(D_SAE), "activation": activation} | more, file
    )
    return file


@pytest.mark.parametrize(
    ("location", "site"),
    [
        ("resid_post_mlp_v5_32k", "hook_resid_post"),
        ("resid_delta_attn_v5_128k", "hook_attn_out"),
        ("resid_post_attn_v5_32k", "hook_resid_mid"),
    ],
)
def test_openai_topk_sees_layer_normalised_activations(
    location: str, site: str, tmp_path: Path
) -> None:
    w = random_weights(4)
    file = write_openai(
        tmp_path / location / "autoencoders" / "8.pt",
        w,
        "TopK",
        activation_state_dict={"k": 4, "postact_fn": "ReLU"},
    )
    x = w["x"].double()
    mu, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    normed = ((x - mu) / (std + 1e-5)).float()
    acts, out = naive(w | {"x": normed}, top(4), centred=True)
    sae = load_place(file)
    check(sae, w, (acts, out * std + mu), tmp_path)
    assert (sae.cfg.metadata.hook_name, sae.cfg.metadata.model_name) == (
        f"blocks.8.{site}",
        "gpt2",
    )


@pytest.mark.parametrize(
    ("location", "site"),
    [
        ("mlp_post_act", "mlp.hook_post"),
        ("resid_delta_mlp_v4", "hook_mlp_out"),
        ("resid_delta_attn_v4", "hook_attn_out"),
        ("resid_post_attn", "hook_resid_mid"),
    ],
)
def test_openai_relu_sees_raw_activations_at_the_place_that_its_folder_names(
    location: str, site: str, tmp_path: Path
) -> None:
    w = random_weights(4)
    sae = load_place(write_openai(tmp_path / location / "autoencoders" / "0.pt", w, "ReLU"))
    check(sae, w, naive(w, relu, centred=True), tmp_path)
    assert sae.cfg.metadata.hook_name == f"blocks.0.{site}"


def test_openai_tied_weights(tmp_path: Path) -> None:
    w = random_weights(4)
    file = write_openai(tmp_path / "resid_delta_mlp" / "autoencoders" / "0.pt", w, "ReLU")
    tensors = torch.load(file, weights_only=True)
    del tensors["decoder.weight"]
    torch.save(tensors | {"decoder.linear.weight": w["W_enc"].T}, file)
    check(load_place(file), w, naive(w | {"W_dec": w["W_enc"].T}, relu, centred=True), tmp_path)


def write_set(
    folder: Path, w: dict[str, Tensor], config: dict[str, Any], *names: str, **more: Tensor
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"W_enc": w["W_enc"].T.contiguous()} | {
        name: w[name] for name in ("W_dec", "b_enc", "b_dec", *names)
    }
    save_file(tensors | more, folder / "layer_2.safetensors")
    (folder / "config.yaml").write_text(
        yaml.safe_dump(
            {"model_kind": "transcoder_set", "model_name": "meta-llama/Llama-3.2-1B"} | config
        )
    )
    return folder / "layer_2.safetensors"


HOOKS = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}


def test_a_circuit_tracer_set_with_skip_connection(tmp_path: Path) -> None:
    w = random_weights(6, d_out=12)
    sae = load_place(write_set(tmp_path / "set", w, HOOKS, "W_skip"))
    check(sae, w, naive(w, relu, centred=False, skip=True), tmp_path)
    assert (sae.cfg.metadata.hook_name, sae.cfg.metadata.hook_name_out) == (
        "blocks.2.hook_resid_mid",
        "blocks.2.hook_mlp_out",
    )


def test_a_circuit_tracer_set_with_thresholds(tmp_path: Path) -> None:
    w = random_weights(6)
    file = write_set(
        tmp_path / "set", w, HOOKS, **{"activation_function.threshold": w["threshold"]}
    )
    check(load_place(file), w, naive(w, jump(w["threshold"]), centred=False), tmp_path)


@pytest.mark.parametrize(
    ("config", "more"), [({"activation": "topk", "k": 4}, {}), ({}, {"k": torch.tensor(4)})]
)
def test_a_circuit_tracer_topk_set(
    config: dict[str, Any], more: dict[str, Tensor], tmp_path: Path
) -> None:
    w = random_weights(6)
    check(
        load_place(write_set(tmp_path / "set", w, HOOKS | config, **more)),
        w,
        naive(w, top(4), centred=False),
        tmp_path,
    )


def test_a_cross_layer_transcoder_never_writes_below_its_own_layer(tmp_path: Path) -> None:
    w, rng = random_weights(7), torch.Generator().manual_seed(0)
    decoders = torch.randn(D_SAE, 5, D_IN, generator=rng)
    tensors = {"w_enc": w["W_enc"], "w_dec": decoders} | {
        name: w[name] for name in ("b_enc", "b_dec", "threshold")
    }
    save_file(tensors, tmp_path / "params_layer_3.safetensors")
    sae = load_place(tmp_path / "params_layer_3.safetensors")
    check(
        sae,
        w,
        naive(w | {"W_dec": decoders[:, 3:].sum(1)}, jump(w["threshold"]), centred=False),
        tmp_path,
    )
    assert "cross-layer" in sae.cfg.metadata.note


def test_a_whole_set_asks_for_a_layer(tmp_path: Path) -> None:
    write_set(tmp_path / "set", random_weights(), HOOKS)
    with pytest.raises(SaescopeError, match="one a layer") as caught:
        load_place(tmp_path / "set")
    assert "layer_2.safetensors" in caught.value.allowed


def test_a_set_that_only_lists_other_repositories_says_so(tmp_path: Path) -> None:
    listed = {
        "transcoders": [
            "hf://google/gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_76/params.npz"
        ]
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(HOOKS | listed))
    with pytest.raises(SaescopeError, match="gemma-scope-2b-pt-transcoders"):
        load_place(tmp_path)
