"""An SAE is found by its folder, its configuration or its weights, in every dialect; files of no
dialect are said."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.core.formats.test_authors_formulas import write_openai
from tests.core.formats.test_contradictions import OLD, sparsify
from tests.core.formats.trees import assert_close, hub, pickles_allowed, random_weights

from saescope.errors import FormatError, SaescopeError
from saescope.formats import BY_NAME, pickles
from saescope.formats.detect import belongs_to, detect
from saescope.load import load_sae, peek_sae

DATA = Path(__file__).parents[2] / "data"
DIALECTS = sorted(path.name for path in (DATA / "dialects").iterdir())


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / "home"))
    with pickles_allowed(monkeypatch.setenv, monkeypatch.setattr):
        yield


def places(case: str) -> tuple[list[Path], dict[str, Any]]:
    """Every file of the tree, the folder that holds its weights, and what the catalogue knows."""
    said = json.loads((DATA / "dialects" / case / "case.json").read_text())
    tree = DATA / "dialects" / case / said["tree"]
    files = [file for file in tree.rglob("*") if file.is_file()]
    folder = tree / said["path"]
    return [*files, folder if folder.is_dir() else files[0].parent], said["known"]


@pytest.mark.parametrize("case", DIALECTS)
def test_every_file_of_an_SAE_leads_to_it(case: str) -> None:
    io = load_file(DATA / "dialects" / case / "io.safetensors")
    found, known = places(case)
    sources = set[str]()
    # A set of transcoders is no SAE, even where one layer of it was downloaded.
    for place in found[:-1] if case.startswith("mwhanna") else found:
        assert_close(load_sae(place, device="cpu", known=known)(io["x"]), io["sae_out"])
        sources.add(peek_sae(place, known=known).source)
    assert len(sources) == 1


@pytest.mark.parametrize("case", ["topk", "legacy_standard"])
def test_every_file_of_a_saelens_folder_leads_to_it(case: str) -> None:
    io = load_file(DATA / "saelens" / case / "io.safetensors")
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert_close(load_sae(DATA / "saelens" / case / name, device="cpu")(io["x"]), io["sae_out"])


def test_a_path_inside_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DATA / "saelens" / "topk")
    assert peek_sae("cfg.json").cfg == peek_sae(".").cfg


def test_every_file_of_sparsify_and_openai_leads_to_the_SAE(tmp_path: Path) -> None:
    place = sparsify(tmp_path / "s", OLD, {"sae": {"k": 4}})
    here, x = load_sae(place, device="cpu"), random_weights(3)["x"]
    for name in ("cfg.json", "sae.safetensors"):
        sae = load_sae(place / name, device="cpu")
        assert torch.equal(sae(x), here(x)) and sae.cfg.metadata == here.cfg.metadata
    file = write_openai(tmp_path / "resid_post_mlp" / "8.pt", random_weights(4), "ReLU")
    (file.parent / "config.json").write_text('{"layer": 8}')
    for place in (file, file.parent, file.parent / "config.json"):
        assert load_sae(place, device="cpu").cfg.metadata.hook_name == "blocks.8.hook_resid_post"


def test_a_repository_is_found_by_its_files_too() -> None:
    tree = DATA / "dialects" / "llama_scope" / "Llama3_1-8B-Base-LXR-8x"
    folder = "Llama3_1-8B-Base-L5R-8x"
    for path in ("hyperparams.json", "checkpoints/final.safetensors"):
        source = belongs_to(hub(tree, "OpenMOSS/LXR-8x", f"{folder}/{path}"))
        assert (source.path, detect(source)) == (folder, BY_NAME["llama_scope"])


@pytest.mark.parametrize("name", ["config.json", ""])
def test_a_file_that_several_SAEs_share_names_them(name: str, tmp_path: Path) -> None:
    tree = DATA / "dialects" / "qwen_scope" / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5"
    place = copytree(tree, tmp_path / tree.name)
    (place / "layer8.sae.pt").write_bytes((place / "layer7.sae.pt").read_bytes())
    (place / "config.json").write_text('{"k": 5}')
    with pytest.raises(FormatError, match=r"layer7\.sae\.pt, layer8\.sae\.pt") as caught:
        load_sae(place / name if name else place)
    assert caught.value.code == "AMBIGUOUS_SAE" and "layer7.sae.pt" in caught.value.hint


def test_a_pickle_of_no_known_form_says_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine" / "final_model.pt"
    file.parent.mkdir()
    torch.save({"enc": {"weight": torch.ones(48, 16)}, "l1": 0.5}, file)
    for place in (file, file.parent):
        with pytest.raises(FormatError) as caught:
            load_sae(place)
        assert caught.value.code == "UNKNOWN_FORMAT"
        assert "enc.weight [48, 16]" in caught.value.message and "l1=0.5" in caught.value.message
    monkeypatch.delenv(pickles.SETTING)
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / "another"))
    for place in (file, file.parent):
        with pytest.raises(FormatError, match="SAESCOPE_ALLOW_PICKLE") as caught:
            load_sae(place)
        assert (caught.value.code, caught.value.got) == ("PICKLE_REFUSED", "final_model.pt")


@pytest.mark.parametrize("name", ["x.bin", "x.pkl", "x.ckpt"])
def test_pickles_of_other_kinds_name_the_kinds_that_may_be_allowed(
    name: str, tmp_path: Path
) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / name)
    with pytest.raises(SaescopeError, match=r"only \.pt and \.pth") as caught:
        load_sae(tmp_path / name)
    assert caught.value.code == "PICKLE_REFUSED"


def test_a_file_beside_an_SAE_is_not_taken_for_it(tmp_path: Path) -> None:
    folder = copytree(DATA / "saelens" / "topk", tmp_path / "topk")
    (folder / "README.md").write_text("# An SAE")
    save_file({"vector": torch.ones(3)}, folder / "steering.safetensors")
    for name in ("README.md", "steering.safetensors"):
        with pytest.raises(SaescopeError) as caught:
            load_sae(folder / name)
        assert caught.value.code == "UNKNOWN_FORMAT"
        assert "such as ''" not in caught.value.hint
