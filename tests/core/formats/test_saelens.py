"""SAELens folders read and written: what we save is what sae-lens would have saved."""

import functools
import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from saescope.formats import saelens
from saescope.load import load_sae, peek_sae
from saescope.saes import SAE, BatchTopKSAE, JumpReLUSAE

DATA = Path(__file__).parents[2] / "data" / "saelens"
CASES = sorted(path.name for path in DATA.iterdir())
LEGACY = [case for case in CASES if case.startswith("legacy")]
TRAINING = [case for case in CASES if "_training" in case]
CURRENT = [case for case in CASES if case not in LEGACY + TRAINING]
BATCHTOPK = [case for case in TRAINING if "batchtopk" in case]


def cfg_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "cfg.json").read_text())


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "sae_weights.safetensors")


@functools.cache
def loaded(case: str) -> SAE:
    return load_sae(DATA / case, device="cpu")


def resave(case: str, folder: Path) -> Path:
    return loaded(case).save(folder / case)


def assert_same_tensors(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor.float(), rtol=0, atol=0)


@pytest.mark.parametrize("case", CURRENT)
def test_saving_what_was_loaded_gives_the_same_files(case: str, tmp_path: Path) -> None:
    saved = resave(case, tmp_path)
    assert_same_tensors(tensors_of(saved), tensors_of(DATA / case))
    assert cfg_of(saved) | {"dtype": ""} == cfg_of(DATA / case) | {"dtype": ""}


@pytest.mark.parametrize("case", CASES)
def test_what_was_saved_loads_to_the_same_numbers(case: str, tmp_path: Path) -> None:
    x = load_file(DATA / case / "io.safetensors")["x"]
    before, after = loaded(case), load_sae(resave(case, tmp_path), device="cpu")
    torch.testing.assert_close(after.encode(x), before.encode(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after(x), before(x), rtol=1e-5, atol=1e-6)
    assert after.cfg.metadata.hook_name == before.cfg.metadata.hook_name != ""


@pytest.mark.parametrize("case", CASES)
def test_the_saved_dtype_is_that_of_the_saved_weights(case: str, tmp_path: Path) -> None:
    saved = resave(case, tmp_path)
    stored = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors_of(saved).values()}
    assert stored == {cfg_of(saved)["dtype"]}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_saved_in_half_precision(dtype: str, tmp_path: Path) -> None:
    saved = load_sae(DATA / "standard", device="cpu", dtype=dtype).save(tmp_path / "half")
    assert cfg_of(saved)["dtype"] == dtype
    assert {tensor.dtype for tensor in tensors_of(saved).values()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("case", LEGACY)
def test_a_legacy_configuration_is_saved_in_the_form_of_today(case: str, tmp_path: Path) -> None:
    saved = cfg_of(resave(case, tmp_path))
    assert saved["metadata"]["sae_lens_version"].startswith("6.")
    today = next(
        name for name in CURRENT if cfg_of(DATA / name)["architecture"] == saved["architecture"]
    )
    assert saved.keys() == cfg_of(DATA / today).keys()


@pytest.mark.parametrize("case", BATCHTOPK)
def test_a_batchtopk_checkpoint_is_saved_as_sae_lens_exports_it(case: str, tmp_path: Path) -> None:
    exported = DATA / case.replace("_training", "_exported")
    assert isinstance(loaded(case), BatchTopKSAE)
    saved = resave(case, tmp_path)
    assert isinstance(load_sae(saved, device="cpu"), JumpReLUSAE)
    assert cfg_of(saved) == cfg_of(exported)
    ours, expected = tensors_of(saved), tensors_of(exported)
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor)


@pytest.mark.parametrize(
    "case", ["standard_training", "gated_training", "jumprelu_training", "topk_training"]
)
def test_any_other_checkpoint_is_saved_as_an_SAE_for_inference(case: str, tmp_path: Path) -> None:
    exported = DATA / case.replace("_training", "_exported")
    saved = resave(case, tmp_path)
    assert cfg_of(saved).keys() == cfg_of(exported).keys()
    assert tensors_of(saved).keys() == tensors_of(exported).keys()


def test_saving_over_the_folder_that_was_loaded(tmp_path: Path) -> None:
    folder = Path(copytree(DATA / "jumprelu", tmp_path / "jumprelu"))
    sae = load_sae(folder, device="cpu")
    before = sae.weights_hash
    sae.save(folder)
    assert (
        load_sae(folder, device="cpu").weights_hash
        == before
        == load_sae(DATA / "jumprelu", device="cpu").weights_hash
    )
    assert {path.name for path in folder.iterdir()} == {
        "cfg.json",
        "sae_weights.safetensors",
        "io.safetensors",
    }


def test_a_file_overwritten_later_changes_nothing_that_was_loaded(tmp_path: Path) -> None:
    """Weights that stay mapped from the file would change in silence, and a truncated file would
    kill the process (SIGBUS)."""
    folder = Path(copytree(DATA / "standard", tmp_path / "standard"))
    sae = load_sae(folder, device="cpu")
    before = sae.W_dec.clone()
    with (folder / "sae_weights.safetensors").open("r+b") as file:
        file.seek(600)
        file.write(bytes(6000))
    assert torch.equal(sae.W_dec, before)


def test_a_folded_SAE_is_saved_with_its_new_weights(tmp_path: Path) -> None:
    io = load_file(DATA / "jumprelu" / "io.safetensors")
    folded = load_sae(
        load_sae(DATA / "jumprelu", device="cpu").fold_W_dec_norm().save(tmp_path / "folded"),
        device="cpu",
    )
    torch.testing.assert_close(folded.encode(io["x"]), io["folded_acts"])


def test_a_folded_half_precision_SAE_loses_nothing_in_the_file(tmp_path: Path) -> None:
    folded = load_sae(DATA / "standard_float16", device="cpu").fold_W_dec_norm()
    saved = folded.save(tmp_path / "folded")
    assert cfg_of(saved)["dtype"] == "float32", (
        "sae-lens would round the float32 weights to the float16 that cfg.json claims"
    )
    assert load_sae(saved, device="cpu").weights_hash == folded.weights_hash


@pytest.mark.parametrize("case", CASES)
def test_peek_says_what_load_finds(case: str) -> None:
    info, sae = peek_sae(DATA / case), load_sae(DATA / case, device="cpu")
    assert info.cfg == sae.cfg
    # A checkpoint stores one threshold for all features, an old file a scaling_factor of ones.
    assert info.weights_bytes == sae.weights_bytes or case in (*BATCHTOPK, "legacy_scaling_factor")


def test_the_words_of_the_oldest_configurations() -> None:
    metadata = peek_sae(DATA / "legacy_oldest").cfg.metadata
    assert (metadata.model_name, metadata.hook_name) == ("tiny", "blocks.1.hook_resid_pre")
    assert (metadata.context_size, metadata.prepend_bos) == (64, True)


def test_legacy_fields_that_change_the_numbers() -> None:
    cfg = {case: peek_sae(DATA / case).cfg for case in LEGACY}
    assert cfg["legacy_standard"].metadata.prepend_bos is False
    assert cfg["legacy_standard"].metadata.neuronpedia_id == "tiny/1-res"
    assert (
        cfg["legacy_oldest"].normalize_activations
        == cfg["legacy_oldest_activation"].normalize_activations
        == "none"
    )
    assert cfg["legacy_normalize_true"].normalize_activations == "expected_average_only_in"
    assert cfg["legacy_no_b_dec_in"].apply_b_dec_to_input is False
    assert cfg["legacy_hook_z"].reshape_activations == "hook_z"
    assert {cfg[name].architecture for name in LEGACY if "topk" in name} == {"topk"}


def test_metadata_that_saescope_does_not_use_is_kept(tmp_path: Path) -> None:
    folder = Path(copytree(DATA / "topk", tmp_path / "topk"))
    cfg = cfg_of(folder)
    cfg["metadata"] |= {
        "dataset_path": "tiny/tokens",
        "seqpos_slice": [1, None],
        "l0": 31.5,
        "hf_hook_name": "model.layers.1",
    }
    (folder / "cfg.json").write_text(json.dumps(cfg))
    assert (
        cfg_of(load_sae(folder, device="cpu").save(tmp_path / "again"))["metadata"]
        == cfg["metadata"]
    )


def test_matches_wants_both_files() -> None:
    assert saelens.DIALECT.matches({"cfg.json", "sae_weights.safetensors", "sparsity.safetensors"})
    assert not saelens.DIALECT.matches({"cfg.json", "sae.safetensors"})
