"""Whatever a configuration beside the weights says of the SAE is what it is read as, or the load is
refused."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from tests.core.formats.test_contradictions import DIALECTS, OLD, SAELENS, SINCE_SKIP, sparsify
from tests.core.formats.trees import assert_close, pickles_allowed

from saescope.errors import ConfigError
from saescope.load import load_sae


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / "home"))
    with pickles_allowed(monkeypatch.setenv, monkeypatch.setattr):
        yield


def refused(place: Path, *words: str, known: dict[str, Any] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_sae(place, device="cpu", known=known)
    assert caught.value.code == "CONFIG_INVALID", caught.value
    assert all(word in caught.value.message for word in words), caught.value.message
    return caught.value


def dialect(name: str, target: Path) -> Path:
    said = json.loads((DIALECTS / name / "case.json").read_text())
    return Path(copytree(DIALECTS / name, target)) / said["tree"] / said["path"]


def folder_of(place: Path) -> Path:
    return place if place.is_dir() else place.parent


def write(file: Path, said: dict[str, Any]) -> None:
    """The fields, added to those that the file has."""
    as_yaml = file.suffix == ".yaml"
    text = file.read_text() if file.exists() else "{}"
    merged = (yaml.safe_load(text) if as_yaml else json.loads(text)) | said
    file.write_text(yaml.safe_dump(merged) if as_yaml else json.dumps(merged))


SET: dict[str, dict[str, Any]] = {
    "k": {"k": 3},
    "activation_fn": {"activation_fn": "topk", "k": 3},
    "skip_connection": {"skip_connection": True},
    "d_model": {"d_model": 99},
    "d_sae": {"d_sae": 7},
    "transcoder": {"transcoder": False},
    "apply_b_dec_to_input": {"apply_b_dec_to_input": True},
    "normalize_activations": {"normalize_activations": "layer_norm"},
    "layer": {"layer": 6},
    "input_scale": {"input_scale": 2.0},
}


@pytest.mark.parametrize("key", SET)
@pytest.mark.parametrize("wandb", [False, True])
def test_a_transcoder_sets_config_yaml_is_compared(key: str, wandb: bool, tmp_path: Path) -> None:
    place = dialect("mwhanna", tmp_path / "t")
    said = {word: {"value": value} if wandb else value for word, value in SET[key].items()}
    write(place.parent / "config.yaml", said)
    refused(place, f"config.yaml{': ' if key != 'input_scale' else ' has keys'}", key)


def test_what_wandb_kept_of_a_transcoders_run_is_compared(tmp_path: Path) -> None:
    place = dialect("mwhanna", tmp_path / "t")
    kept = {"k": {"value": 3}, "activation": {"value": "topk"}}
    write(place.parent / "wandb-config.yaml", kept)
    refused(place, "wandb-config.yaml")


RUNNER: dict[str, tuple[str, dict[str, Any]]] = {
    "sae.k": ("topk", {"sae": {"k": 3}}),
    "sae.architecture": ("standard", {"sae": {"architecture": "topk"}}),
    "a gated one": ("jumprelu", {"sae": {"architecture": "gated"}}),
    "sae.normalize_activations": ("topk", {"sae": {"normalize_activations": "layer_norm"}}),
    "sae.rescale_acts_by_decoder_norm": ("topk", {"sae": {"rescale_acts_by_decoder_norm": True}}),
    "sae.reshape_activations": ("topk", {"sae": {"reshape_activations": "hook_z"}}),
    "sae.apply_b_dec_to_input": ("topk", {"sae": {"apply_b_dec_to_input": False}}),
    "a transcoder": ("standard", {"sae": {"architecture": "transcoder"}}),
    "hook_name_out": ("standard", {"hook_name_out": "blocks.1.hook_mlp_out"}),
    "model_name": ("standard", {"model_name": "gpt2"}),
    "sae.d_sae": ("standard", {"sae": {"d_sae": 64}}),
}


@pytest.mark.parametrize("case", RUNNER)
def test_what_a_training_run_of_sae_lens_was_asked_for_is_compared(
    case: str, tmp_path: Path
) -> None:
    template, runner = RUNNER[case]
    folder = Path(copytree(SAELENS / template, tmp_path / "sae"))
    write(folder / "runner_cfg.json", runner)
    refused(folder, "runner_cfg.json", case.rpartition(" ")[2] if "_" in case else "")


@pytest.mark.parametrize(
    ("exported", "training"),
    [
        ("batchtopk_exported", "batchtopk_training"),
        ("matryoshka_batchtopk_exported", "matryoshka_batchtopk_training"),
        ("topk_exported", "topk_training"),
        ("gated_exported", "gated_training"),
        ("standard", "standard_expected_average"),
        ("standard", "standard_whitening"),
    ],
)
def test_the_run_that_an_SAE_came_of_is_no_contradiction(
    exported: str, training: str, tmp_path: Path
) -> None:
    """sae-lens saves BatchTopK as JumpReLU, and folds the normalisation of training."""
    folder = Path(copytree(SAELENS / exported, tmp_path / "sae"))
    said = json.loads((SAELENS / training / "cfg.json").read_text())
    runner = {"sae": said, "hook_name": said["metadata"]["hook_name"], "model_name": "tiny"}
    write(folder / "runner_cfg.json", runner)
    io = load_file(folder / "io.safetensors")
    assert_close(load_sae(folder, device="cpu")(io["x"]), io["sae_out"])


def test_the_metadata_of_cfg_json_are_compared(tmp_path: Path) -> None:
    folder = Path(copytree(SAELENS / "standard", tmp_path / "sae"))
    said = json.loads((folder / "cfg.json").read_text())
    for more in ({"activation_fn": "topk"}, {"activation_fn_kwargs": {"k": 3}}):
        write(folder / "cfg.json", {"metadata": said["metadata"] | more})
        refused(folder, "cfg.json: metadata.activation_fn")


@pytest.mark.parametrize(
    "key", ["subtract_mean", "layer_norm_input", "activation_scale", "center_input", "out_scale"]
)
@pytest.mark.parametrize("form", ["legacy_standard", "sparsify", "gemma_2_res"])
def test_an_unknown_step_of_the_computation_is_refused(form: str, key: str, tmp_path: Path) -> None:
    if form == "sparsify":
        place = sparsify(tmp_path / "run", OLD, None)
    elif form == "gemma_2_res":
        place = dialect(form, tmp_path / "t")
    else:
        place = Path(copytree(SAELENS / form, tmp_path / "sae"))
    write(place / "cfg.json", {key: False})
    load_sae(place, device="cpu")
    for value in (True, 7):
        write(place / "cfg.json", {key: value})
        refused(place, key, "may change what the SAE computes")


def test_the_settings_of_a_training_run_change_nothing(tmp_path: Path) -> None:
    """Fields of sae-lens's own configuration before version 6."""
    folder = Path(copytree(SAELENS / "legacy_standard", tmp_path / "sae"))
    training = {
        "normalize_sae_decoder": True,
        "mse_loss_normalization": "dense_batch",
        "noise_scale": 0.1,
        "scale_sparsity_penalty_by_decoder_norm": True,
        "decoder_heuristic_init_norm": 0.1,
        "init_encoder_as_decoder_transpose": True,
        "dead_feature_threshold": 1e-8,
        "lp_norm": 1.0,
    }
    write(folder / "cfg.json", training)
    io = load_file(folder / "io.safetensors")
    assert_close(load_sae(folder, device="cpu")(io["x"]), io["sae_out"])


RUNS: dict[str, dict[str, Any]] = {
    "transcode": {"sae": {"transcode": True}},
    "expansion_factor": {"sae": {"expansion_factor": 8}},
    "num_latents": {"sae": {"num_latents": 99}},
    "layers": {"sae": {}, "layers": [7]},
}


@pytest.mark.parametrize("key", RUNS)
@pytest.mark.parametrize("beside", [False, True])
def test_the_run_of_a_sparsify_SAE_is_compared_beside_it_and_above(
    key: str, beside: bool, tmp_path: Path
) -> None:
    place = sparsify(tmp_path / "run", SINCE_SKIP | {"transcode": False, "num_latents": 48}, None)
    run = (place if beside else place.parent) / "config.json"
    write(run, {"sae": {"expansion_factor": 3, "k": 4}, "layers": [5], "hookpoints": []})
    load_sae(place, device="cpu")
    write(run, RUNS[key])
    refused(place, key, "one of them is wrong")


def test_a_run_beside_an_old_sparsify_SAE_says_that_it_is_a_transcoder(tmp_path: Path) -> None:
    place = sparsify(tmp_path / "run", OLD, None)
    write(place / "config.json", {"sae": {"k": 4}, "transcode": True})
    assert load_sae(place, device="cpu").cfg.transcoder


BESIDE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "b_dec": ("gemma_2_res", "cfg.json", {"apply_b_dec_to_input": True}),
    "norm": ("gemma_2_res", "cfg.json", {"normalize_activations": "layer_norm"}),
    "transcoder": ("gemma_2_res", "cfg.json", {"transcoder": True}),
    "writes": ("gemma_2_res", "cfg.json", {"hook_name_out": "blocks.20.hook_mlp_out"}),
    "layer": ("gemma_2_res", "cfg.json", {"layer": "3"}),
    "threshold": ("gemma_2_res", "cfg.json", {"threshold": 5.0}),
    "model": ("gemma_2_res", "cfg.json", {"model_name": "gpt2"}),
    "metadata": ("gemma_2_res", "cfg.json", {"metadata": {"hook_name": "blocks.3.hook_z"}}),
    "qwen k": ("qwen_scope", "cfg.json", {"k": "7"}),
    "qwen act": ("qwen_scope", "cfg.json", {"act": "relu"}),
    "qwen b_dec": ("qwen_scope", "cfg.json", {"apply_b_dec_to_input": True}),
    "dl b_dec": ("dl_jumprelu", "config.json", {"apply_b_dec_to_input": True}),
    "dl k": ("dl_topk", "config.json", {"k": 99}),
    "dl class": ("dl_jumprelu", "config.json", {"dict_class": "GatedAutoEncoder"}),
    "dl layer": ("dl_jumprelu", "config.json", {"layer": 9}),
    "goodfire norm": ("goodfire", "cfg.json", {"metadata": {"normalize_activations": True}}),
    "mntss skip": ("mntss_clt", "config.yaml", {"skip_connection": True}),
    "gemma_3 model": ("gemma_3_mlp_out", "cfg.json", {"model_name": "google/gemma-3-1b-it"}),
    "pre_bias": ("gemma_2_res", "cfg.json", {"pre_bias": True}),
    "top_k": ("gemma_2_res", "config.yaml", {"top_k": 3}),
    "k inside": ("gemma_2_res", "config.json", {"activation": {"name": "topk", "k": 3}}),
    "times": ("goodfire", "config.json", {"expansion_factor": 8}),
    "features": ("goodfire", "config.json", {"model": {"n_features": 7}}),
    "llama k": ("llama_scope", "hyperparams.json", {"k": 3}),
    "r1 norm": ("llama_scope_r1", "config.json", {"normalize_activations": "layer_norm"}),
    "temporal k": ("temporal", "config.json", {"d_sae": 64}),
}


@pytest.mark.parametrize("case", BESIDE)
def test_a_neighbour_that_contradicts_the_weights_is_refused(case: str, tmp_path: Path) -> None:
    name, file, said = BESIDE[case]
    place = dialect(name, tmp_path / "t")
    if name == "mntss_clt":
        place = place.parent / "W_enc_3.safetensors"
    known = json.loads((DIALECTS / name / "case.json").read_text())["known"]
    load_sae(place, device="cpu", known=known)
    write(folder_of(place) / file, said)
    refused(place, file, known=known)


def test_a_neighbour_that_agrees_is_fine(tmp_path: Path) -> None:
    place = dialect("gemma_2_res", tmp_path / "t")
    said = {"layer": "20", "model_name": "gemma-2-2b", "architecture": "jump_relu", "k": None}
    hook = {"hook_name": "blocks.20.hook_resid_post", "hook_name_out": "blocks.20.hook_resid_post"}
    write(place / "cfg.json", said | hook | {"d_in": 16, "transcoder": False, "layer_norm_eps": 1})
    load_sae(place, device="cpu")


def test_a_full_configuration_of_lm_saes_is_fine(tmp_path: Path) -> None:
    """Their training settings, of which some sound like a step of the computation."""
    training = {
        **{"top_k": 50, "use_batch_norm_mse": True, "decoder_exactly_fixed_norm": False},
        **{"init_encoder_norm": 1.0, "init_decoder_norm": 0.5, "lp": 1, "sae_type": "sae"},
        **{"dtype": "torch.bfloat16", "sparsity_threshold_for_csr": 0.05, "k_warmup_steps": 0.1},
    }
    for name, file in (("llama_scope", "hyperparams.json"), ("llama_scope_r1", "config.json")):
        said = json.loads((DIALECTS / name / "case.json").read_text())
        place = dialect(name, tmp_path / name)
        write(place / file, training)
        io = load_file(DIALECTS / name / "io.safetensors")
        known = said["known"] | {"gate": "saelens"}
        assert_close(load_sae(place, device="cpu", known=known)(io["x"]), io["sae_out"])


def test_keys_of_yaml_that_are_no_text_are_none_of_the_words(tmp_path: Path) -> None:
    place = dialect("gemma_2_res", tmp_path / "t")
    (place / "config.yaml").write_text("sae: {1: 2, true: [3], null: {4: 5}, k: null}")
    load_sae(place, device="cpu")


def test_the_configuration_of_a_language_model_beside_an_SAE_is_no_SAEs(tmp_path: Path) -> None:
    place = dialect("gemma_2_res", tmp_path / "t")
    model = {"architectures": ["Gemma2ForCausalLM"], "embedding_multiplier": 12.0, "k": 3}
    write(place / "config.json", model)
    load_sae(place, device="cpu")
