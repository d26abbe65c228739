"""Damaged files of every format of SAEs: the right numbers, or an error with a code. npz and .pt
files carry checksums: there, one that loads computes what the whole one does."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.attack.conftest import Attack
from tests.attack.damage import damage
from tests.core.formats.test_authors_formulas import write_openai
from tests.core.formats.test_contradictions import SINCE_SKIP, TRANSCODES, sparsify
from tests.core.formats.trees import pickles_allowed, random_weights

from saescope.errors import SaescopeError
from saescope.load import load_sae

DATA = Path(__file__).parents[1] / "data"
DIALECTS = sorted(path.name for path in (DATA / "dialects").iterdir())
SAELENS = ["topk", "gated", "jumprelu", "legacy_topk", "standard_layer_norm", "batchtopk_training"]
MADE = ["sparsify", "openai_gpt2", "npz_packed"]
CASES = [
    pytest.param(case, n_mutants, marks=marks)
    for n_mutants, marks in ((16, []), (400, [pytest.mark.attack]))
    for case in (*DIALECTS, *(f"saelens/{name}" for name in SAELENS), *MADE)
]
CHECKED = {".npz", ".pt", ".pth"}


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / "home"))
    with pickles_allowed(monkeypatch.setenv, monkeypatch.setattr):
        yield


def made(case: str, root: Path) -> tuple[Path, dict[str, Any]]:
    """A whole SAE of the format below `root`, and what the catalogue knows of it."""
    if case == "sparsify":
        return sparsify(root, SINCE_SKIP, TRANSCODES), {}
    if case == "openai_gpt2":
        topk = {"k": 4, "postact_fn": "ReLU"}
        file = root / "resid_post_mlp_v5_32k" / "8.pt"
        return write_openai(file, random_weights(4), "TopK", activation_state_dict=topk), {}
    if case == "npz_packed":
        return packed(root), {}
    if case.startswith("saelens/"):
        return Path(shutil.copytree(DATA / case, root / "sae")), {}
    said = json.loads((DATA / "dialects" / case / "case.json").read_text())
    tree = shutil.copytree(DATA / "dialects" / case / said["tree"], root / said["tree"])
    single = {"gemma_3_clt": f"{said['path']}.safetensors", "mntss_clt": "W_enc_3.safetensors"}
    return Path(tree) / (single.get(case) or said["path"]), said["known"]


def packed(root: Path) -> Path:
    import numpy as np

    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    folder = root / "gemma-scope-2b-pt-res" / "layer_3"
    folder.mkdir(parents=True)
    arrays: dict[str, Any] = {name: random_weights()[name].numpy() for name in names}
    np.savez_compressed(folder / "params.npz", **arrays)
    return folder


@pytest.mark.parametrize(("case", "n_mutants"), CASES)
def test_a_damaged_sae_computes_the_same_or_is_refused(
    case: str, n_mutants: int, attack: Attack, tmp_path: Path
) -> None:
    place, known = made(case, tmp_path / "whole")
    files = sorted(f for f in (tmp_path / "whole").rglob("*") if f.is_file())
    files = [file for file in files if file.name != "io.safetensors"]
    whole = load_sae(place, device="cpu", known=known)
    x = torch.randn(5, whole.cfg.d_in)
    for n in range(n_mutants):
        file = attack.rng.choice(files)
        before = file.read_bytes()
        with attack.case(f"{n} {damage(attack.rng, file)}"):
            try:
                sae = load_sae(place, device="cpu", known=known)
            except SaescopeError as error:
                assert error.code not in ("INTERNAL", "ERROR") and error.message
            else:
                tensors = [tensor for _, tensor in sae.named_parameters()]
                assert all(bool(tensor.isfinite().all()) for tensor in tensors)
                if file.suffix in CHECKED:
                    assert torch.equal(sae(x), whole(x)), "other numbers in silence"
        file.write_bytes(before)
