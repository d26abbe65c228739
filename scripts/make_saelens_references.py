"""Make tests/data/saelens with sae-lens itself, or let sae-lens read what saescope saved.

sae-lens pins transformer-lens < 4, so this runs in an environment of its own (pip install
sae-lens==6.54.12):

    PYTHONHASHSEED=0 python scripts/make_saelens_references.py
    python scripts/make_saelens_references.py --check-ours FOLDER

The first rewrites tests/data/saelens, the same bytes each time; the second reads every SAE below
FOLDER that has an io.safetensors beside it.

Each case folder holds cfg.json and sae_weights.safetensors as sae-lens wrote them, and
io.safetensors with what sae-lens computes:
x, feature_acts, sae_out; folded_* after fold_W_dec_norm; scaled_* after
fold_activation_norm_scaling_factor(scaling_factor); whitened_* after
fold_activation_whitening(mean, whitening, unwhitening); batch_* in training mode (exact top-k over
the batch).
"""

import argparse
import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.registry import SAE_CLASS_REGISTRY, get_sae_class, get_sae_training_class
from sae_lens.saes.sae import SAEConfig, SAEMetadata
from safetensors.torch import load_file, save_file
from torch import Tensor

DATA = Path(__file__).parent.parent / "tests" / "data" / "saelens"
D_IN, D_OUT, D_SAE, N_POS, K = 16, 12, 48, 12, 5
SCALING_FACTOR = 0.7
WIDTHS = [8, 20, D_SAE]
TOLERANCE = 1e-5
METADATA = {
    "model_name": "tiny",
    "hook_name": "blocks.1.hook_resid_post",
    "context_size": 64,
    "prepend_bos": True,
}
HOOK_Z = METADATA | {"hook_name": "blocks.1.attn.hook_z"}
MLP = METADATA | {
    "hook_name": "blocks.1.ln2.hook_normalized",
    "hook_name_out": "blocks.1.hook_mlp_out",
}
TRANSCODER = {"d_out": D_OUT, "apply_b_dec_to_input": False, "metadata": MLP}

INFERENCE: dict[str, dict[str, Any]] = {
    "standard": {},
    "standard_no_b_dec_in": {"apply_b_dec_to_input": False},
    "standard_layer_norm": {"normalize_activations": "layer_norm"},
    "standard_constant_norm_rescale": {"normalize_activations": "constant_norm_rescale"},
    "standard_expected_average": {"normalize_activations": "expected_average_only_in"},
    "standard_whitening": {"normalize_activations": "covariance_whitening"},
    "standard_whitening_no_b_dec_in": {
        "normalize_activations": "covariance_whitening",
        "apply_b_dec_to_input": False,
    },
    "standard_hook_z": {"reshape_activations": "hook_z", "metadata": HOOK_Z},
    "standard_float16": {"dtype": "float16"},
    "gated": {},
    "gated_layer_norm": {"normalize_activations": "layer_norm"},
    "gated_whitening_no_b_dec_in": {
        "normalize_activations": "covariance_whitening",
        "apply_b_dec_to_input": False,
    },
    "topk": {"k": K},
    "topk_few_positive": {"k": 30},
    "topk_constant_norm_rescale": {"k": K, "normalize_activations": "constant_norm_rescale"},
    "topk_rescale": {"k": K, "rescale_acts_by_decoder_norm": True},
    "topk_rescale_expected_average": {
        "k": K,
        "rescale_acts_by_decoder_norm": True,
        "normalize_activations": "expected_average_only_in",
    },
    "topk_rescale_whitening": {
        "k": K,
        "rescale_acts_by_decoder_norm": True,
        "normalize_activations": "covariance_whitening",
    },
    "topk_rescale_hook_z": {
        "k": K,
        "rescale_acts_by_decoder_norm": True,
        "reshape_activations": "hook_z",
        "metadata": HOOK_Z,
    },
    "jumprelu": {},
    "jumprelu_no_b_dec_in": {"apply_b_dec_to_input": False},
    "jumprelu_layer_norm": {"normalize_activations": "layer_norm"},
    "jumprelu_layer_norm_hook_z": {
        "normalize_activations": "layer_norm",
        "reshape_activations": "hook_z",
        "metadata": HOOK_Z,
    },
    "jumprelu_expected_average": {"normalize_activations": "expected_average_only_in"},
    "jumprelu_bfloat16": {"dtype": "bfloat16"},
    "transcoder": TRANSCODER,
    "skip_transcoder": TRANSCODER,
    "jumprelu_transcoder": TRANSCODER,
    "jumprelu_skip_transcoder": TRANSCODER,
}
TRAINING: dict[str, dict[str, Any]] = {
    "standard_training": {"l1_coefficient": 2.0},
    "gated_training": {},
    "jumprelu_training": {},
    "topk_training": {"k": K},
    "batchtopk_training": {"k": 4.5},
    "batchtopk_training_no_rescale": {"k": 4, "rescale_acts_by_decoder_norm": False},
    "matryoshka_batchtopk_training": {"k": 4.5, "matryoshka_widths": WIDTHS},
}

OLDEST = {
    "model_name": "tiny",
    "hook_point": "blocks.1.hook_resid_pre",
    "hook_point_layer": 1,
    "hook_point_head_index": None,
}
OLDEST |= {
    "dataset_path": "tiny/tokens",
    "context_size": 64,
    "d_in": D_IN,
    "d_sae": D_SAE,
    "dtype": "torch.float32",
    "device": "mps",
}
OLDEST |= {
    "l1_coefficient": 8e-5,
    "lr": 4e-4,
    "expansion_factor": 3,
    "b_dec_init_method": "geometric_median",
}
V3 = {
    "model_name": "tiny",
    "hook_name": "blocks.1.hook_resid_pre",
    "hook_layer": 1,
    "hook_head_index": None,
    "prepend_bos": False,
}
V3 |= {
    "context_size": 64,
    "d_in": D_IN,
    "d_sae": D_SAE,
    "dtype": "float32",
    "device": "cuda:0",
    "activation_fn_str": "relu",
}
V3 |= {
    "finetuning_scaling_factor": False,
    "apply_b_dec_to_input": True,
    "sae_lens_training_version": "3.18.2",
}
HEADS = {"hook_name": "blocks.1.attn.hook_z"}
TOP_K = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
VERSIONLESS = {
    "d_in": D_IN,
    "d_sae": D_SAE,
    "dtype": "float32",
    "device": "cpu",
    "normalize_activations": "none",
    "metadata": METADATA,
}
LEGACY: dict[str, dict[str, Any]] = {
    "legacy_oldest": OLDEST,
    "legacy_oldest_activation": OLDEST
    | {"activation_fn_str": "relu", "normalize_activations": None, "noise_scale": 0.0},
    "legacy_standard": V3
    | {"architecture": "standard", "normalize_activations": "none", "neuronpedia_id": "tiny/1-res"},
    "legacy_no_b_dec_in": V3
    | {"architecture": "standard", "apply_b_dec_to_input": False, "normalize_activations": False},
    "legacy_normalize_true": V3 | {"normalize_activations": True},
    "legacy_layer_norm": V3
    | {
        "architecture": "standard",
        "normalize_activations": "layer_norm",
        "activation_fn_kwargs": {},
    },
    "legacy_topk": V3 | TOP_K | {"normalize_activations": "none"},
    "legacy_topk_architecture": V3
    | TOP_K
    | {"architecture": "topk", "normalize_activations": "none"},
    "legacy_topk_layer_norm": V3
    | TOP_K
    | {"architecture": "standard", "normalize_activations": "layer_norm"},
    "legacy_gated": V3 | {"architecture": "gated", "normalize_activations": "none"},
    "legacy_jumprelu": V3 | {"architecture": "jumprelu", "normalize_activations": "none"},
    "legacy_hook_z": V3 | HEADS | {"normalize_activations": "none"},
    "legacy_versionless_topk": VERSIONLESS
    | {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True},
    "legacy_versionless_transcoder": VERSIONLESS
    | {"architecture": "skip_transcoder", "d_out": D_IN, "apply_b_dec_to_input": False},
    "legacy_scaling_factor": V3 | {"architecture": "standard", "normalize_activations": "none"},
}


def random_weights(names: dict[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
    """Weights for these parameters with every bias non-zero and decoder norms far from 1."""

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    d_out = names["b_dec"].shape[0]
    norms = 0.3 + 2.0 * torch.rand(D_SAE, 1, generator=rng)
    drawn = {
        "W_enc": randn(D_IN, D_SAE) / D_IN**0.5,
        "W_dec": randn(D_SAE, d_out) / d_out**0.5 * norms,
        "W_skip": randn(d_out, D_IN) / D_IN**0.5,
        "b_enc": 0.4 * randn(D_SAE) - 0.4,
        "b_dec": 0.5 * randn(d_out),
        "b_gate": 0.4 * randn(D_SAE) - 0.4,
        "b_mag": 0.4 * randn(D_SAE) + 0.2,
        "r_mag": 0.4 * randn(D_SAE),
        "threshold": 0.1 + torch.rand(D_SAE, generator=rng),
        "topk_threshold": torch.tensor(0.9, dtype=torch.float64),
    }
    return {name: drawn[name].to(old.dtype) for name, old in names.items()}


def random_input(rng: torch.Generator, *, per_head: bool) -> Tensor:
    """Positions with a mean and with norms from 0.1 to 10 of the usual; [2, 6, 4, 4] for hook_z."""
    scale = torch.logspace(-1, 1, N_POS)[torch.randperm(N_POS, generator=rng)].unsqueeze(1)
    x = (torch.randn(N_POS, D_IN, generator=rng) + 0.3) * scale
    return x.reshape(2, N_POS // 2, 4, 4) if per_head else x


def is_clear_cut(sae: SAE[Any], x: Tensor, rng: torch.Generator) -> bool:
    """No activation sits so near its gate that rounding on another machine could flip it."""
    support = sae.encode(x) > 0
    noisy = (x * (1 + 1e-5 * torch.randn(x.shape, generator=rng)) for _ in range(8))
    return all(torch.equal(support, sae.encode(shaken) > 0) for shaken in noisy)


def read(folder: Path, **options: Any) -> SAE[Any]:
    """What sae-lens makes of a folder, computed in float32; the training class where there is no
    other."""
    architecture = json.loads((folder / "cfg.json").read_text()).get("architecture", "standard")
    cls = SAE if architecture in SAE_CLASS_REGISTRY else TrainingSAE
    return cls.load_from_disk(folder, dtype="float32", **options)


def outputs(prefix: str, sae: SAE[Any], x: Tensor) -> dict[str, Tensor]:
    acts, out = ("feature_acts", "sae_out") if not prefix else (f"{prefix}_acts", f"{prefix}_out")
    return {acts: sae.encode(x), out: sae(x)}


def folds(folder: Path, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
    """The outputs after each fold that sae-lens allows for this SAE."""
    io: dict[str, Tensor] = {}
    mode = read(folder).cfg.normalize_activations
    try:
        io |= outputs("folded", read(folder, fold_W_dec_norm=True), x)
    except NotImplementedError:
        assert "topk" in folder.name, folder.name
    if mode == "expected_average_only_in":
        sae = read(folder)
        sae.fold_activation_norm_scaling_factor(SCALING_FACTOR)
        io |= {"scaling_factor": torch.tensor(SCALING_FACTOR)} | outputs("scaled", sae, x)
    if mode == "covariance_whitening":
        sae = read(folder)
        mean = torch.randn(D_IN, generator=rng)
        whitening = torch.eye(D_IN) + 0.2 * torch.randn(D_IN, D_IN, generator=rng)
        matrices = {
            "mean": mean,
            "whitening": whitening,
            "unwhitening": torch.linalg.inv(whitening),
        }
        sae.fold_activation_whitening(*matrices.values())
        io |= matrices | outputs("whitened", sae, x)
    return io


def save_io(folder: Path, io: dict[str, Tensor]) -> None:
    save_file(
        {name: value.detach().contiguous() for name, value in io.items()}, folder / "io.safetensors"
    )


def new_sae(
    classes: tuple[type[SAE[Any]], type[SAEConfig]], options: dict[str, Any], rng: torch.Generator
) -> SAE[Any]:
    """An SAE of sae-lens with random weights."""
    sae_class, cfg_class = classes
    metadata = SAEMetadata(**options.get("metadata", METADATA))
    sae = sae_class(cfg_class(d_in=D_IN, d_sae=D_SAE, **options | {"metadata": metadata}))
    sae.load_state_dict(random_weights(sae.state_dict(), rng))
    return sae


def make_inference(name: str, options: dict[str, Any], rng: torch.Generator) -> bool:
    folder = DATA / name
    architecture = max((known for known in SAE_CLASS_REGISTRY if name.startswith(known)), key=len)
    new_sae(get_sae_class(architecture), options, rng).save_model(folder)
    x = random_input(rng, per_head="hook_z" in name)
    save_io(folder, {"x": x} | outputs("", read(folder), x) | folds(folder, x, rng))
    return is_clear_cut(read(folder), x, rng)


def make_training(name: str, options: dict[str, Any], rng: torch.Generator) -> bool:
    """A training checkpoint (save_model), and its export for inference (save_inference_model) as
    <name>_exported."""
    folder, exported = DATA / name, DATA / name.replace("_training", "_exported")
    x = random_input(rng, per_head=False)
    sae = new_sae(get_sae_training_class(name.split("_training")[0]), options, rng)
    sae.save_model(folder)
    sae.save_inference_model(exported)
    inference, training = read(exported), TrainingSAE.load_from_disk(folder)
    save_io(exported, {"x": x} | outputs("", inference, x) | folds(exported, x, rng))
    save_io(folder, {"x": x} | outputs("", inference, x) | in_training(folder, x))
    return is_clear_cut(inference, x, rng) and is_clear_cut(training, x, rng)


def in_training(folder: Path, x: Tensor) -> dict[str, Tensor]:
    """Training mode: the batch's own top-k, each matryoshka prefix, and the export after folding a
    scaling factor (SAELens issue 763)."""
    sae = TrainingSAE.load_from_disk(folder)
    io = outputs("batch", sae, x)
    if "matryoshka" in folder.name:
        io |= {
            f"prefix_out_{width}": out
            for width, out in sae._iterable_decode(io["batch_acts"], include_outer_loss=True)
        }
    if "batchtopk" in folder.name:
        sae.fold_activation_norm_scaling_factor(SCALING_FACTOR)
        with tempfile.TemporaryDirectory() as temporary:
            sae.save_inference_model(temporary)
            io |= {"scaling_factor": torch.tensor(SCALING_FACTOR)} | outputs(
                "scaled", read(Path(temporary)), x
            )
    return io


def make_legacy(name: str, cfg: dict[str, Any], rng: torch.Generator) -> bool:
    """A folder as sae-lens before 6.0 wrote it (configs by hand), read by the sae-lens of today."""
    folder = DATA / name
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps(cfg))
    shared = {name: cfg[name] for name in ("d_out", "apply_b_dec_to_input") if name in cfg}
    weights = new_sae(get_sae_class(cfg.get("architecture", "standard")), shared, rng).state_dict()
    if name == "legacy_scaling_factor":
        weights["scaling_factor"] = torch.ones(D_SAE)
    save_file(weights, folder / "sae_weights.safetensors")
    if name == "legacy_oldest":
        save_file(
            {"sparsity": -3 * torch.rand(D_SAE, generator=rng)}, folder / "sparsity.safetensors"
        )
    x = random_input(rng, per_head="hook_z" in name)
    save_io(folder, {"x": x} | outputs("", read(folder), x) | folds(folder, x, rng))
    return is_clear_cut(read(folder), x, rng)


def make_all() -> None:
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    groups = (INFERENCE, make_inference), (TRAINING, make_training), (LEGACY, make_legacy)
    for cases, make in groups:
        for number, (name, options) in enumerate(cases.items()):
            for attempt in range(100):
                shutil.rmtree(DATA / name, ignore_errors=True)
                if make(name, options, torch.Generator().manual_seed(1000 * attempt + number)):
                    break
            else:
                raise SystemExit(f"{name}: no clear-cut seed found")
    for folder in sorted(DATA.iterdir()):
        io = load_file(folder / "io.safetensors")
        print(
            f"{folder.name:40} l0 "
            f"{(io['feature_acts'] > 0).float().sum(-1).mean():5.1f}  "
            f"{' '.join(sorted(io))}"
        )


def worst_error(ours: Tensor, reference: Tensor) -> float:
    """The largest error of a position over the norm of that position."""
    norm = reference.norm(dim=-1).clamp(min=1e-6)
    return float(((ours - reference).norm(dim=-1) / norm).max())


def check_folder(folder: Path) -> tuple[float, float]:
    io = load_file(folder / "io.safetensors")
    sae = read(folder)
    prefix = "batch" if isinstance(sae, TrainingSAE) else ""
    acts, out = outputs(prefix, sae, io["x"]).items()
    return worst_error(acts[1], io[acts[0]]), worst_error(out[1], io[out[0]])


def check_all(root: Path) -> int:
    """Print how far sae-lens on each saved folder is from the io.safetensors beside it; the number
    of failures."""
    folders = sorted(
        path.parent for path in root.rglob("cfg.json") if (path.parent / "io.safetensors").exists()
    )
    failures = 0 if folders else 1
    print(f"{len(folders)} SAE folders with an io.safetensors below {root}")
    for folder in folders:
        try:
            acts, out = check_folder(folder)
            verdict = "ok" if max(acts, out) <= TOLERANCE else "DIFFERS"
            line = f"acts {acts:8.1e}  out {out:8.1e}  {verdict}"
        except (
            Exception
        ) as error:  # whatever sae-lens raises is the finding, and the next folder still counts
            line = verdict = f"REFUSED {type(error).__name__}: {error}"
        failures += verdict != "ok"
        print(f"{folder.relative_to(root)!s:40} {line}")
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check-ours", type=Path, metavar="FOLDER", help="compare instead of making the references"
    )
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with torch.no_grad():
        if args.check_ours:
            return 1 if check_all(args.check_ours) else 0
        make_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
