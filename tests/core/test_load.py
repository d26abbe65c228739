"""The front door: a folder, a file or the embedded SAE; the dialect is found by what is there."""

import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest
import torch

from saescope.errors import ArgumentError, FormatError, NotFoundError
from saescope.formats import DIALECTS, local_source
from saescope.load import load_sae, peek_sae
from saescope.saes import StandardConfig, StandardSAE

DATA = Path(__file__).parents[1] / "data" / "saelens"
CASES = sorted(folder.name for folder in DATA.iterdir())


@pytest.mark.parametrize("case", CASES)
def test_a_peek_says_what_a_load_finds(case: str) -> None:
    info, sae = peek_sae(DATA / case), load_sae(DATA / case, device="cpu", dtype="float32")
    assert (info.cfg, info.weights_bytes) == (sae.cfg, sae.weights_bytes)
    assert (info.dialect, info.repo_id, info.revision) == ("sae_lens", "", "")


def test_without_arguments_it_is_the_embedded_sae() -> None:
    assert load_sae(device="cpu").cfg.metadata.hook_name == "blocks.14.hook_resid_post"


def test_what_the_user_says_wins() -> None:
    info = peek_sae(
        DATA / "topk", known={"hook_name": "blocks.3.hook_mlp_out", "model_name": "mine"}
    )
    assert (info.cfg.metadata.hook_name, info.cfg.metadata.model_name) == (
        "blocks.3.hook_mlp_out",
        "mine",
    )


def test_what_the_user_says_wins_in_every_dialect(tmp_path: Path) -> None:
    tree = Path(__file__).parents[1] / "data" / "dialects" / "gemma_2_res" / "gemma-scope-2b-pt-res"
    folder = next(tree.rglob("params.npz")).parent
    assert peek_sae(folder).cfg.metadata.hook_name == "blocks.20.hook_resid_post"
    sae = load_sae(folder, device="cpu", known={"hook_name": "blocks.3.hook_resid_pre"})
    assert sae.cfg.metadata.hook_name == "blocks.3.hook_resid_pre"
    assert (
        peek_sae(sae.save(tmp_path / "again")).cfg.metadata.hook_name == "blocks.3.hook_resid_pre"
    )


def test_path_and_release_together_are_refused() -> None:
    with pytest.raises(ArgumentError):
        load_sae(DATA / "topk", release="gpt2-small-res-jb")


def test_a_folder_of_saes_names_them() -> None:
    with pytest.raises(FormatError) as caught:
        load_sae(DATA)
    assert (
        caught.value.code == "UNKNOWN_FORMAT"
        and "further down" in caught.value.hint
        and "batchtopk" in caught.value.allowed
    )


@pytest.mark.parametrize("name", ["nothing", "nothing.safetensors"])
def test_a_place_that_is_not_there_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        load_sae(tmp_path / name)
    assert caught.value.code == "FILE_MISSING"


def test_an_empty_folder_is_said_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        load_sae(tmp_path)
    assert caught.value.code == "UNKNOWN_FORMAT" and caught.value.hint


def test_a_home_folder_is_not_searched_to_its_ends(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*"abcdef")
    deep.mkdir(parents=True)
    for folder in (tmp_path, *list(deep.parents)[:-1]):
        if folder.is_relative_to(tmp_path):
            (folder / "file").touch()
    assert max(name.count("/") for name in local_source(tmp_path).names) == 2


def test_saelens_files_are_read_as_saelens() -> None:
    names = {"cfg.json", "sae_weights.safetensors"}
    assert next(dialect.name for dialect in DIALECTS if dialect.matches(names)) == "sae_lens"


def test_dialects_have_names_of_their_own() -> None:
    assert len({dialect.name for dialect in DIALECTS}) == len(DIALECTS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_load_is_independent_of_its_files(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = copytree(DATA / "topk", tmp_path / "sae")
    sae = load_sae(folder, device="cpu", dtype=str(dtype).removeprefix("torch."))
    before = sae.weights_hash
    (folder / "sae_weights.safetensors").write_bytes(
        b"\0" * (folder / "sae_weights.safetensors").stat().st_size
    )
    del sae.weights_hash
    assert sae.weights_hash == before and sae.dtype == dtype


def test_the_encoder_is_made_once() -> None:
    sae = load_sae(DATA / "topk", device="cpu")
    assert (
        sae.W_enc.T.is_contiguous() and sae.encoder.untyped_storage().nbytes() == sae.encoder.nbytes
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_load_peaks_at_its_weights(tmp_path: Path, dtype: str) -> None:
    cfg = StandardConfig(architecture="standard", d_in=1024, d_sae=16384)
    StandardSAE(
        cfg, {name: torch.zeros(shape) for name, shape in StandardSAE.shapes(cfg).items()}
    ).save(tmp_path)
    code = f"""
import re
from pathlib import Path
from saescope.load import load_sae
def now(key):
    said = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(key + r":\\s+(\\d+)", said)[1])
load_sae(device="cpu")
Path("/proc/self/clear_refs").write_text("5")
before = now("VmRSS")
sae = load_sae({str(tmp_path)!r}, device="cpu", dtype={dtype!r})
print((now("VmHWM") - before) / sae.weights_bytes)
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert float(done.stdout) < 1.2
