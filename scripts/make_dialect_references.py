"""Make tests/data/dialects: one SAE in each on-disk dialect that sae-lens reads right, with what
sae-lens computes for it.

sae-lens pins transformer-lens < 4, so this runs in an environment of its own (pip install
sae-lens==6.54.12), without network:

    PYTHONHASHSEED=0 python scripts/make_dialect_references.py

rewrites tests/data/dialects, the same bytes each time.

A case folder holds the published repository's tree under the repository's own name, with small
random weights; case.json (dialect, repo_id, path inside it, what the catalogue knows, the folder of
the tree); and io.safetensors: x, feature_acts, sae_out of sae-lens. What sae-lens gets wrong is not
here: tests/core/formats compare that with the authors' formula.
"""

import json
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from huggingface_hub.errors import EntryNotFoundError
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.registry import get_sae_class
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

DATA = Path(__file__).parent.parent / "tests" / "data" / "dialects"
D_IN, D_SAE, N_POS, K = 16, 48, 12, 5
Weights = dict[str, Tensor]


class Case(NamedTuple):
    """A published SAE, made small."""

    dialect: str
    repo_id: str
    path: str
    write: Callable[[Path, Weights], None]
    """Puts the weights (ours names, field shapes) into the repository's tree."""
    overrides: Mapping[str, Any] = MappingProxyType({})
    """Widths that sae-lens takes from a table, made small."""
    known: Mapping[str, Any] = MappingProxyType({})


def put(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def linear(w: Weights, prefix: str = "") -> Weights:
    """As torch.nn.Linear has it."""
    names = {f"encoder{prefix}.weight": w["W_enc"].T, f"decoder{prefix}.weight": w["W_dec"].T}
    names |= {f"encoder{prefix}.bias": w["b_enc"], f"decoder{prefix}.bias": w["b_dec"]}
    return {name: tensor.contiguous() for name, tensor in names.items()}


def npz(path: str, *, upper: bool = False) -> Callable[[Path, Weights], None]:
    def write(root: Path, w: Weights) -> None:
        names = {"W_enc": "w_enc", "W_dec": "w_dec"} if not upper else {}
        kept = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
        np.savez(
            put(root / path / "params.npz"),
            **{names.get(name, name): w[name].numpy() for name in kept},
        )

    return write


def gemma_3(path: str, kind: str, *, config: bool = True) -> Callable[[Path, Weights], None]:
    sites = {
        "resid_post": ("model.layers.1.output", None),
        "attn_out": ("model.layers.1.self_attn.o_proj.input", None),
        "mlp_out": ("model.layers.1.post_feedforward_layernorm.output", None),
        "transcoder": (
            "model.layers.1.pre_feedforward_layernorm.output",
            "model.layers.1.post_feedforward_layernorm.output",
        ),
    }

    def write(root: Path, w: Weights) -> None:
        tensors = {"w_enc": w["W_enc"], "w_dec": w["W_dec"]} | {
            name: w[name] for name in ("b_enc", "b_dec", "threshold")
        }
        if "affine" in path:
            tensors["affine_skip_connection"] = w["W_skip"].T.contiguous()
        if kind == "clt":
            tensors["w_dec"] = torch.stack(
                [torch.zeros_like(w["W_dec"]), w["W_dec"], 0.5 * w["W_dec"].flip(0)], dim=1
            )
            save_file(tensors, put(root / f"{path}.safetensors"))
            return
        save_file(tensors, put(root / path / "params.safetensors"))
        if config:
            said = {
                "architecture": "jump_relu",
                "model_name": "gemma-v3-270m-pt",
                "affine_connection": "affine" in path,
            }
            said |= {
                "hf_hook_point_in": sites[kind][0],
                "hf_hook_point_out": sites[kind][1],
                "width": D_SAE,
                "l0": 20,
            }
            (root / path / "config.json").write_text(json.dumps(said))

    return write


def dictionary(path: str, dict_class: str, **trainer: Any) -> Callable[[Path, Weights], None]:
    def write(root: Path, w: Weights) -> None:
        said = {
            "dict_class": dict_class,
            "activation_dim": D_IN,
            "dict_size": D_SAE,
            "layer": 3,
            "lm_name": "EleutherAI/pythia-70m-deduped",
        }
        said |= {"submodule_name": "resid_post_layer_3", "k": K} | trainer
        put(root / path / "config.json").write_text(
            json.dumps({"trainer": said, "buffer": {"ctx_len": 128, "io": "out"}})
        )
        torch.save(state_dict(dict_class, w), root / path / "ae.pt")

    return write


def state_dict(dict_class: str, w: Weights) -> dict[str, Any]:
    flat = {name: tensor for name, tensor in linear(w).items() if name != "decoder.bias"}
    number, scalar = torch.tensor(K, dtype=torch.int), torch.tensor(0.6)
    if dict_class == "GatedAutoEncoder":
        del flat["encoder.bias"]
        return flat | {
            "decoder_bias": w["b_dec"],
            "r_mag": w["r_mag"],
            "gate_bias": w["b_gate"],
            "mag_bias": w["b_mag"],
        }
    if dict_class == "JumpReluAutoEncoder":
        return {name: w[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
    if dict_class == "MatryoshkaBatchTopKSAE":
        sizes = {"group_sizes": torch.tensor([8, 12, 28]), "k": number, "threshold": scalar}
        return {name: w[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")} | sizes
    if dict_class == "AutoEncoder":
        return flat | {"bias": w["b_dec"]}
    return flat | {"b_dec": w["b_dec"], "k": number, "threshold": scalar}


def qwen(root: Path, w: Weights) -> None:
    tensors = {
        "W_enc": w["W_enc"].T.contiguous(),
        "W_dec": w["W_dec"].T.contiguous(),
        "b_enc": w["b_enc"],
        "b_dec": w["b_dec"],
    }
    torch.save(tensors, put(root / "layer7.sae.pt"))


def mwhanna(config: bool, wandb: str) -> Callable[[Path, Weights], None]:
    def write(root: Path, w: Weights) -> None:
        tensors = {"W_enc": w["W_enc"].T.contiguous()} | {
            name: w[name] for name in ("W_dec", "b_enc", "b_dec")
        }
        save_file(tensors, put(root / "layer_5.safetensors"))
        said = {
            "d_model": {"value": D_IN},
            "d_feature": {"value": D_SAE},
            "batch_size": {"value": 4096},
        }
        (root / wandb).write_text(yaml.safe_dump(said))
        if config:
            hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
            (root / "config.yaml").write_text(
                yaml.safe_dump(
                    {"model_name": "Qwen/Qwen3-4B", "model_kind": "transcoder_set"} | hooks
                )
            )

    return write


def llama_scope(root: Path, w: Weights) -> None:
    path = root / "Llama3_1-8B-Base-L5R-8x"
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
    said |= {
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True,
        "apply_decoder_bias_to_pre_encoder": False,
    }
    put(path / "hyperparams.json").write_text(
        json.dumps(said | {"use_decoder_bias": True, "use_glu_encoder": False})
    )
    save_file(linear(w), put(path / "checkpoints" / "final.safetensors"))


def llama_scope_r1(root: Path, w: Weights) -> None:
    path = root / "0-Slimpajama-800M-OpenR1-Math-220k" / "L5R"
    said = {
        "d_model": D_IN,
        "expansion_factor": 3,
        "hook_point_in": "blocks.5.hook_resid_post",
        "act_fn": "jumprelu",
    }
    put(path / "config.json").write_text(
        json.dumps(
            said | {"norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True}
        )
    )
    save_file(
        linear(w) | {"log_jumprelu_threshold": w["threshold"].log()},
        path / "sae_weights.safetensors",
    )


def mntss(root: Path, w: Weights) -> None:
    encoder = {"W_enc_3": w["W_enc"].T.contiguous(), "b_enc_3": w["b_enc"], "b_dec_3": w["b_dec"]}
    save_file(encoder, put(root / "W_enc_3.safetensors"))
    save_file(
        {"W_dec_3": torch.stack([w["W_dec"], 0.5 * w["W_dec"].flip(0)], dim=1)},
        root / "W_dec_3.safetensors",
    )
    said = {"model_name": "google/gemma-2-2b", "model_kind": "cross_layer_transcoder"}
    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    (root / "config.yaml").write_text(yaml.safe_dump(said | hooks))


def connor_rob(root: Path, w: Weights) -> None:
    name = (
        "gpt2-small_L3_Hcat_z_lr1.20e-03_l11.80e+00_ds24576_bs4096_dc1.00e-06"
        "_rsanthropic_rie25000_nr4_v9"
    )
    said = {"act_size": D_IN, "dict_size": D_SAE, "act_name": "blocks.3.attn.hook_z", "seed": 49}
    put(root / f"{name}_cfg.json").write_text(json.dumps(said))
    torch.save(
        {name: w[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}, root / f"{name}.pt"
    )


def temporal(tied: bool, layers: int) -> Callable[[Path, Weights], None]:
    def write(root: Path, w: Weights) -> None:
        path = root / "gemma-2-2B" / "layer_12" / "temporal"
        sae = {
            "exp_factor": D_SAE / D_IN,
            "n_heads": 4,
            "n_attn_layers": layers,
            "bottleneck_factor": 2,
            "sae_diff_type": "topk",
        }
        sae |= {"kval_topk": 4 if tied else None, "tied_weights": tied, "scaling_factor": 0.3}
        said = {
            "llm": {"dimin": D_IN, "name": "gemma-2-2b"},
            "sae": sae,
            "data": {"dtype": "float32"},
        }
        put(path / "conf.yaml").write_text(yaml.safe_dump(said))
        tensors = {"D": w["W_dec"], "b": w["b_dec"]} | ({} if tied else {"E": w["W_enc"]})
        rng = torch.Generator().manual_seed(layers)
        for layer in range(layers):
            for part, rows in (
                ("k_ctx", D_SAE // 2),
                ("q_target", D_SAE // 2),
                ("v_ctx", D_SAE),
                ("c_proj", D_SAE),
            ):
                name = f"attn_layers.{layer}.{part}"
                tensors[f"{name}.weight"] = torch.randn(rows, D_SAE, generator=rng) * 0.3
                tensors[f"{name}.bias"] = torch.randn(rows, generator=rng) * 0.1
        save_file(tensors, path / "latest_ckpt.safetensors")

    return write


def goodfire(root: Path, w: Weights) -> None:
    torch.save(linear(w, "_linear"), put(root / "Llama-3.1-8B-Instruct-SAE-l19.pth"))


def deepseek(root: Path, w: Weights) -> None:
    torch.save(linear(w), put(root / "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"))


def gemma_2_case(repo: str, path: str, **overrides: Any) -> Case:
    small = {"d_in": D_IN, "d_sae": D_SAE} | overrides
    dialect = "gemma_2_transcoder" if "transcoders" in repo else "gemma_2"
    return Case(dialect, f"google/{repo}", path, npz(path, upper=dialect != "gemma_2"), small)


def gemma_3_case(repo: str, path: str, kind: str, **options: Any) -> Case:
    return Case("gemma_3", f"google/{repo}", path, gemma_3(path, kind, **options))


def dictionary_case(dict_class: str, **trainer: Any) -> Case:
    path = "pythia70m_sweep/resid_post_layer_3/trainer_0"
    return Case(
        "dictionary_learning_1", "canrager/lm_sae", path, dictionary(path, dict_class, **trainer)
    )


SMALL = {"d_in": D_IN, "d_sae": D_SAE}
TEMPORAL = {"model_name": "gemma-2-2b", "hook_name": "blocks.12.hook_resid_post"}
LLAMA = {"norm_scaling_factor": D_IN**0.5 / 3.0, "gate": "saelens"}
CASES = {
    "gemma_2_res": gemma_2_case("gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71"),
    "gemma_2_att": gemma_2_case(
        "gemma-scope-9b-pt-att", "layer_3/width_16k/average_l0_50", reshape_activations="hook_z"
    ),
    "gemma_2_mlp": gemma_2_case("gemma-scope-9b-it-mlp", "layer_9/width_131k/average_l0_11"),
    "gemma_2_embedding": gemma_2_case("gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_6"),
    "gemma_2_transcoder": gemma_2_case(
        "gemma-scope-2b-pt-transcoders", "layer_4/width_16k/average_l0_88", d_out=D_IN
    ),
    "gemma_3_resid_post": gemma_3_case(
        "gemma-scope-2-270m-pt", "resid_post_all/layer_1_width_16k_l0_small", "resid_post"
    ),
    "gemma_3_attn_out": gemma_3_case(
        "gemma-scope-2-270m-pt", "attn_out/layer_1_width_16k_l0_small", "attn_out"
    ),
    "gemma_3_mlp_out": gemma_3_case(
        "gemma-scope-2-4b-it", "mlp_out/layer_1_width_16k_l0_small", "mlp_out", config=False
    ),
    "gemma_3_transcoder": gemma_3_case(
        "gemma-scope-2-270m-pt", "transcoder/layer_1_width_16k_l0_small", "transcoder"
    ),
    "gemma_3_affine": gemma_3_case(
        "gemma-scope-2-270m-pt", "transcoder_all/layer_1_width_16k_l0_small_affine", "transcoder"
    ),
    "gemma_3_inferred": gemma_3_case(
        "gemma-scope-2-27b-pt", "transcoder/layer_1_width_16k_l0_small", "transcoder", config=False
    ),
    "gemma_3_clt": gemma_3_case(
        "gemma-scope-2-1b-pt", "clt/width_262k_l0_big/params_layer_1", "clt"
    ),
    "dl_standard": dictionary_case("AutoEncoder"),
    "dl_gated": dictionary_case("GatedAutoEncoder"),
    "dl_topk": dictionary_case("AutoEncoderTopK"),
    "dl_batchtopk": dictionary_case("BatchTopKSAE"),
    "dl_matryoshka": dictionary_case("MatryoshkaBatchTopKSAE", group_sizes=[8, 12, 28]),
    "dl_jumprelu": dictionary_case("JumpReluAutoEncoder"),
    "qwen_scope": Case(
        "qwen_scope", "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5", "layer7.sae.pt", qwen, SMALL
    ),
    "mwhanna": Case(
        "mwhanna_transcoder",
        "mwhanna/qwen3-4b-transcoders",
        "layer_5.safetensors",
        mwhanna(True, "wandb-config.yaml"),
    ),
    "mwhanna_no_config": Case(
        "mwhanna_transcoder",
        "mwhanna/qwen3-14b-transcoders",
        "layer_5.safetensors",
        mwhanna(False, "wanb-config.yaml"),
    ),
    "llama_scope": Case(
        "llama_scope",
        "fnlp/Llama3_1-8B-Base-LXR-8x",
        "Llama3_1-8B-Base-L5R-8x",
        llama_scope,
        {"dtype": "float32"},
        LLAMA,
    ),
    "llama_scope_r1": Case(
        "llama_scope_r1_distill",
        "fnlp/Llama-Scope-R1-Distill",
        "0-Slimpajama-800M-OpenR1-Math-220k/L5R",
        llama_scope_r1,
        {},
        LLAMA | {"model_name": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"},
    ),
    "mntss_clt": Case("mntss_clt_layer_transcoder", "mntss/clt-gemma-2-2b-2.5M", "3", mntss),
    "connor_rob": Case(
        "connor_rob_hook_z",
        "ckkissane/attn-saes-gpt2-small-all-layers",
        "gpt2-small_L3_Hcat_z_lr1.20e-03_l11.80e+00_ds24576_bs4096_dc1.00e-06_rsanthropic"
        "_rie25000_nr4_v9.pt",
        connor_rob,
    ),
    "temporal": Case(
        "temporal",
        "canrager/temporalSAEs",
        "gemma-2-2B/layer_12/temporal",
        temporal(True, 1),
        {},
        TEMPORAL,
    ),
    "temporal_untied": Case(
        "temporal",
        "canrager/temporalSAEs",
        "gemma-2-2B/layer_12/temporal",
        temporal(False, 2),
        {},
        TEMPORAL,
    ),
    "goodfire": Case(
        "goodfire",
        "Goodfire/Llama-3.1-8B-Instruct-SAE-l19",
        "Llama-3.1-8B-Instruct-SAE-l19.pth",
        goodfire,
        SMALL,
    ),
    "deepseek_r1": Case(
        "deepseek_r1",
        "qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19",
        "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt",
        deepseek,
        SMALL | {"dtype": "float32"},
    ),
}


def random_weights(rng: torch.Generator) -> Weights:
    """Every bias non-zero, decoder norms far from 1."""

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    return {
        "W_enc": randn(D_IN, D_SAE) / D_IN**0.5,
        "W_dec": randn(D_SAE, D_IN) / D_IN**0.5 * (0.3 + 2.0 * torch.rand(D_SAE, 1, generator=rng)),
        "W_skip": randn(D_IN, D_IN) / D_IN**0.5,
        "b_enc": 0.4 * randn(D_SAE) - 0.4,
        "b_dec": 0.5 * randn(D_IN),
        "b_gate": 0.4 * randn(D_SAE) - 0.4,
        "b_mag": 0.4 * randn(D_SAE) + 0.2,
        "r_mag": 0.4 * randn(D_SAE),
        "threshold": 0.1 + torch.rand(D_SAE, generator=rng),
    }


def load(case: Case, tree: Path) -> SAE[Any]:
    """What sae-lens makes of it, its downloads answered from the tree."""

    def local(repo_id: str, filename: str, *_: Any, subfolder: str = "", **__: Any) -> str:
        assert repo_id == case.repo_id
        file = tree / subfolder / filename
        if not file.is_file():
            raise EntryNotFoundError(f"no {filename}")
        return str(file)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        with safe_open(local(repo_id, filename), framework="pt") as file:
            names = [*file.keys()]  # it is no dict
            return {name: list(file.get_slice(name).get_shape()) for name in names}

    loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = local, shapes
    overrides = (
        {"device": "cpu", "dtype": "float32"}
        | dict(case.overrides)
        | {k: v for k, v in case.known.items() if k in TEMPORAL}
    )
    convert = loaders.NAMED_PRETRAINED_SAE_LOADERS[case.dialect]
    cfg, state, _ = convert(case.repo_id, case.path, "cpu", False, overrides)
    cfg = loaders.handle_config_defaulting(cfg)
    sae_class, cfg_class = get_sae_class(cfg["architecture"])
    sae = sae_class(cfg_class.from_dict(cfg))
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict(state, assign=True)
    if cfg.get("normalize_activations") == "expected_average_only_in":
        sae.fold_activation_norm_scaling_factor(case.known["norm_scaling_factor"])
    return sae


def random_input(rng: torch.Generator, *, heads: bool) -> Tensor:
    """Two sequences of positions with a mean, and with norms from 0.1 to 10 of the usual."""
    scale = torch.logspace(-1, 1, N_POS)[torch.randperm(N_POS, generator=rng)].unsqueeze(1)
    x = ((torch.randn(N_POS, D_IN, generator=rng) + 0.3) * scale).reshape(2, N_POS // 2, D_IN)
    return x.reshape(2, N_POS // 2, 4, 4) if heads else x


def is_clear_cut(sae: SAE[Any], x: Tensor, rng: torch.Generator) -> bool:
    """No activation sits so near its gate that rounding on another machine could flip it."""
    support = sae.encode(x) > 0
    noisy = (x * (1 + 1e-5 * torch.randn(x.shape, generator=rng)) for _ in range(8))
    return all(torch.equal(support, sae.encode(shaken) > 0) for shaken in noisy)


def make(name: str, case: Case, rng: torch.Generator) -> bool:
    folder = DATA / name
    tree = folder / case.repo_id.partition("/")[2]
    case.write(tree, random_weights(rng))
    said = {
        "dialect": case.dialect,
        "repo_id": case.repo_id,
        "path": case.path,
        "known": dict(case.known),
        "tree": tree.name,
    }
    (folder / "case.json").write_text(json.dumps(said, indent=1) + "\n")
    sae = load(case, tree)
    x = random_input(rng, heads=sae.cfg.reshape_activations == "hook_z")
    io = {"x": x, "feature_acts": sae.encode(x), "sae_out": sae(x)}
    save_file(
        {name: value.detach().contiguous() for name, value in io.items()}, folder / "io.safetensors"
    )
    return is_clear_cut(sae, x, rng)


def main() -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    shutil.rmtree(DATA, ignore_errors=True)
    for number, (name, case) in enumerate(CASES.items()):
        for attempt in range(100):
            shutil.rmtree(DATA / name, ignore_errors=True)
            with torch.no_grad():
                if make(name, case, torch.Generator().manual_seed(1000 * attempt + number)):
                    break
        else:
            raise SystemExit(f"{name}: no clear-cut seed found")
        acts = load_file(DATA / name / "io.safetensors")["feature_acts"]
        print(f"{name:22} l0 {(acts > 0).float().sum(-1).mean():5.1f}")
    print(f"{sum(file.stat().st_size for file in DATA.rglob('*') if file.is_file())} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
