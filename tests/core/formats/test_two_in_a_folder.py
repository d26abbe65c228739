"""Two SAEs of two formats in one folder: neither is taken in silence."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.core.formats.test_contradictions import DIALECTS, OLD, SAELENS, sparsify
from tests.core.formats.trees import assert_close, hub, pickles_allowed

from saescope.errors import FormatError
from saescope.formats.detect import belongs_to
from saescope.load import load_sae


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / "home"))
    with pickles_allowed(monkeypatch.setenv, monkeypatch.setattr):
        yield


def lay(name: str, folder: Path) -> None:
    """The files of one SAE, into the folder; a configuration that is there already stays."""
    if name == "sae_lens":
        copytree(SAELENS / "standard", folder, dirs_exist_ok=True)
        return
    if name == "sparsify":
        place = sparsify(folder.parent / "sparsify", OLD, None)
    else:
        said = json.loads((DIALECTS / name / "case.json").read_text())
        place = DIALECTS / name / said["tree"] / said["path"]
        place = place if place.is_dir() else place.parent
    copytree(place, folder, dirs_exist_ok=True)


PAIRS = [
    ("sae_lens", "gemma_2_res", "params.npz"),
    ("sae_lens", "dl_standard", "ae.pt"),
    ("sae_lens", "gemma_3_resid_post", "params.safetensors"),
    ("sae_lens", "temporal", "latest_ckpt.safetensors"),
    ("sae_lens", "llama_scope", "final.safetensors"),
    ("sae_lens", "goodfire", "Llama-3.1-8B-Instruct-SAE-l19.pth"),
    ("sparsify", "sae_lens", "sae.safetensors"),
    ("sparsify", "gemma_2_res", "sae.safetensors"),
    ("gemma_2_res", "dl_standard", "ae.pt"),
    ("mwhanna", "gemma_2_res", "layer_5.safetensors"),
    ("mntss_clt", "gemma_2_res", "W_enc_3.safetensors"),
]


@pytest.mark.parametrize(("one", "other", "named"), PAIRS)
@pytest.mark.parametrize("remote", [False, True])
def test_two_SAEs_of_two_formats_in_one_folder_are_both_named(
    one: str, other: str, named: str, remote: bool, tmp_path: Path
) -> None:
    for name in (one, other):
        lay(name, tmp_path / "both")
    with pytest.raises(FormatError) as caught:
        if remote:
            belongs_to(hub(tmp_path, "someone/saes", "both"))
        else:
            load_sae(tmp_path / "both", device="cpu")
    assert caught.value.code == "AMBIGUOUS_SAE" and named in caught.value.message
    assert (
        caught.value.message.startswith("There are 2 SAEs")
        and "its own folder" in caught.value.hint
    )


def test_a_configuration_that_two_SAEs_share_is_neither_ones(tmp_path: Path) -> None:
    for name in ("sparsify", "sae_lens"):
        lay(name, tmp_path / "both")
    with pytest.raises(FormatError) as caught:
        load_sae(tmp_path / "both" / "cfg.json", device="cpu")
    assert caught.value.code == "AMBIGUOUS_SAE"


def test_the_one_whose_weights_are_named_is_loaded(tmp_path: Path) -> None:
    for name in ("gemma_2_res", "sae_lens"):
        lay(name, tmp_path / "both")
    io = load_file(tmp_path / "both" / "io.safetensors")
    sae = load_sae(tmp_path / "both" / "sae_weights.safetensors", device="cpu")
    assert_close(sae(io["x"]), io["sae_out"])


@pytest.mark.parametrize("name", ["sae_lens", "gemma_2_res", "dl_standard", "gemma_3_resid_post"])
def test_what_lies_beside_one_SAE_and_is_none_changes_nothing(name: str, tmp_path: Path) -> None:
    lay(name, tmp_path / "one")
    numbers = load_file(SAELENS / "standard" / "io.safetensors")
    for file in ("sparsity", "activations", "model", "io"):
        save_file(numbers, tmp_path / "one" / f"{file}.safetensors")
    for file in ("README.md", "eval_results.json", "optimizer.pt", "log_feature_sparsity.npz"):
        (tmp_path / "one" / file).write_text("{}")
    load_sae(tmp_path / "one", device="cpu")
