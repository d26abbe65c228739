"""Every dialect that sae-lens reads right, against its numbers
(scripts/make_dialect_references.py)."""

import codecs
import json
from fnmatch import fnmatch
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.core.formats.trees import assert_close, detect, hub, load, load_place, pickles_allowed
from torch import Tensor

from saescope.formats import BY_NAME, DIALECTS, FileSource
from saescope.saes import ARCHITECTURES, SAE

DATA = Path(__file__).parents[2] / "data" / "dialects"
CASES = sorted(path.name for path in DATA.iterdir())
SITES = {
    "gemma_2_res": ("google/gemma-2-2b", "blocks.20.hook_resid_post", ""),
    "gemma_2_att": ("google/gemma-2-9b", "blocks.3.attn.hook_z", ""),
    "gemma_2_mlp": ("google/gemma-2-9b-it", "blocks.9.hook_mlp_out", ""),
    "gemma_2_embedding": ("google/gemma-2-2b", "hook_embed", ""),
    "gemma_2_transcoder": (
        "google/gemma-2-2b",
        "blocks.4.ln2.hook_normalized",
        "blocks.4.hook_mlp_out",
    ),
    "gemma_3_resid_post": ("google/gemma-3-270m", "blocks.1.hook_resid_post", ""),
    "gemma_3_attn_out": ("google/gemma-3-270m", "blocks.1.attn.hook_z", ""),
    "gemma_3_mlp_out": ("google/gemma-3-4b-it", "blocks.1.hook_mlp_out", ""),
    "gemma_3_transcoder": ("google/gemma-3-270m", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"),
    "gemma_3_affine": ("google/gemma-3-270m", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"),
    "gemma_3_inferred": ("google/gemma-3-27b-pt", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"),
    "gemma_3_clt": ("google/gemma-3-1b-pt", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"),
    **{
        f"dl_{name}": ("EleutherAI/pythia-70m-deduped", "blocks.3.hook_resid_post", "")
        for name in ("standard", "gated", "topk", "batchtopk", "matryoshka", "jumprelu")
    },
    "qwen_scope": ("Qwen/Qwen3-1.7B-Base", "blocks.7.hook_resid_post", ""),
    "mwhanna": ("Qwen/Qwen3-4B", "blocks.5.mlp.hook_in", "blocks.5.hook_mlp_out"),
    "mwhanna_no_config": ("Qwen/Qwen3-14B", "blocks.5.mlp.hook_in", "blocks.5.hook_mlp_out"),
    "llama_scope": ("meta-llama/Llama-3.1-8B", "blocks.5.hook_resid_post", ""),
    "llama_scope_r1": ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "blocks.5.hook_resid_post", ""),
    "mntss_clt": ("google/gemma-2-2b", "blocks.3.hook_resid_mid", "blocks.3.hook_mlp_out"),
    "connor_rob": ("gpt2-small", "blocks.3.attn.hook_z", ""),
    "temporal": ("gemma-2-2b", "blocks.12.hook_resid_post", ""),
    "temporal_untied": ("gemma-2-2b", "blocks.12.hook_resid_post", ""),
    "goodfire": ("meta-llama/Llama-3.1-8B-Instruct", "blocks.19.hook_resid_post", ""),
    "deepseek_r1": ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "blocks.19.hook_resid_post", ""),
}


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / "home"))
    with pickles_allowed(monkeypatch.setenv, monkeypatch.setattr):
        yield


def said(case: str) -> dict[str, Any]:
    return json.loads((DATA / case / "case.json").read_text())


def as_repository(case: str) -> tuple[Any, FileSource]:
    facts = said(case)
    return BY_NAME[facts["dialect"]], hub(
        DATA / case / facts["tree"], facts["repo_id"], facts["path"], facts["known"]
    )


def is_text(path: Path) -> bool:
    return path.suffix in (".json", ".yaml")


def local_place(case: str) -> Path:
    """What a user would name after downloading the repository."""
    facts = said(case)
    path = {"gemma_3_clt": f"{facts['path']}.safetensors", "mntss_clt": "W_enc_3.safetensors"}.get(
        case, facts["path"]
    )
    return DATA / case / facts["tree"] / path


def check(sae: SAE, io: dict[str, Tensor]) -> None:
    acts = sae.encode(io["x"])
    assert torch.equal(acts > 0, io["feature_acts"] > 0)
    assert_close(acts, io["feature_acts"])
    assert_close(sae(io["x"]), io["sae_out"])


@pytest.mark.parametrize("case", CASES)
def test_a_repository_gives_the_numbers_of_sae_lens(case: str) -> None:
    check(load(*as_repository(case)), load_file(DATA / case / "io.safetensors"))


@pytest.mark.parametrize("case", CASES)
def test_a_local_copy_is_recognised_and_gives_the_same_numbers(case: str) -> None:
    dialect, source = detect(local_place(case), said(case)["known"])
    same = {"mwhanna_transcoder": "circuit_tracer", "gemma_2_transcoder": "gemma_2"}
    assert same.get(said(case)["dialect"], said(case)["dialect"]) == dialect.name
    check(load(dialect, source), load_file(DATA / case / "io.safetensors"))


TEXTS = {
    case: files
    for case in CASES
    if (files := [path for path in (DATA / case / said(case)["tree"]).rglob("*") if is_text(path)])
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_byte_order_mark_in_a_configuration_changes_nothing(case: str, tmp_path: Path) -> None:
    copytree(DATA / case, tmp_path / case)
    for file in TEXTS[case]:
        copy = tmp_path / file.relative_to(DATA)
        copy.write_bytes(codecs.BOM_UTF8 + copy.read_bytes())
    dialect, source = detect(tmp_path / local_place(case).relative_to(DATA), said(case)["known"])
    check(load(dialect, source), load_file(DATA / case / "io.safetensors"))


@pytest.mark.parametrize("case", CASES)
def test_saved_again_it_loads_with_the_same_numbers(case: str, tmp_path: Path) -> None:
    sae = load(*as_repository(case))
    again = load_place(sae.save(tmp_path / "again"))
    check(again, load_file(DATA / case / "io.safetensors"))
    site, then = sae.cfg.metadata, again.cfg.metadata
    assert (then.model_name, then.hook_name, then.hook_name_out, then.note) == (
        site.model_name,
        site.hook_name,
        site.hook_name_out,
        site.note,
    )
    assert then.fold_value_biases == site.fold_value_biases


@pytest.mark.parametrize("case", CASES)
def test_it_knows_its_site(case: str) -> None:
    for dialect, source in (as_repository(case), detect(local_place(case), said(case)["known"])):
        meta = dialect.peek(source)[0].metadata
        assert (meta.model_name, meta.hook_name, meta.hook_name_out) == SITES[case]


@pytest.mark.parametrize("case", CASES)
def test_peek_says_what_read_gives(case: str) -> None:
    for dialect, source in (as_repository(case), detect(local_place(case), said(case)["known"])):
        if case in ("qwen_scope", "goodfire", "deepseek_r1") and source.repo_id:
            continue  # there the published width is said before the file is opened
        described_cfg, infos = dialect.peek(source)
        cfg, tensors = dialect.read(source, torch.float32)
        assert described_cfg == cfg
        assert {name: info.shape for name, info in infos.items()} == {
            name: tuple(tensor.shape) for name, tensor in tensors.items()
        }


@pytest.mark.parametrize("case", CASES)
def test_the_encoder_is_made_once(case: str) -> None:
    """W_enc arrives feature-major: the SAE takes its memory over."""
    dialect, source = as_repository(case)
    cfg, tensors = dialect.read(source, torch.float32)
    sae = ARCHITECTURES[cfg.architecture][1](cfg, tensors)
    assert sae.W_dec.data_ptr() == tensors["W_dec"].data_ptr()
    if "W_enc" in tensors:
        assert sae.W_enc.data_ptr() == tensors["W_enc"].data_ptr()


@pytest.mark.parametrize("case", CASES)
def test_a_load_reads_only_what_it_announces(case: str) -> None:
    dialect, source = as_repository(case)
    read: set[str] = set()

    def noted(name: str) -> Path:
        read.add(name)
        return source.local(name)

    watched = hub(DATA / case / said(case)["tree"], source.repo_id, source.path, source.known)
    watched = type(source)(
        opener=lambda name: noted(name).open("rb"),
        local=noted,
        names=watched.names,
        path=source.path,
        repo_id=source.repo_id,
        known=source.known,
    )
    load(dialect, watched)
    patterns = dialect.wanted(source.path)
    assert read and all(any(fnmatch(name, pattern) for pattern in patterns) for name in read)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "case", ["gemma_2_res", "gemma_3_affine", "dl_topk", "llama_scope", "temporal_untied"]
)
def test_any_dtype(case: str, dtype: torch.dtype) -> None:
    sae = load(*as_repository(case), dtype)
    assert {tensor.dtype for tensor in sae.tensors().values()} == {dtype}
    io = load_file(DATA / case / "io.safetensors")
    x = io["x"].to(dtype)
    tolerance = {torch.float16: 2e-2, torch.bfloat16: 2e-1, torch.float64: 1e-5}[dtype]
    exact = load(*as_repository(case))
    assert torch.allclose(
        sae.decode(exact.encode(io["x"]).to(dtype), like=x).float(),
        exact.decode(exact.encode(io["x"]), like=io["x"]),
        rtol=tolerance,
        atol=10 * tolerance,
    )


def test_every_dialect_is_named_once_and_has_a_case_or_a_test_of_its_own() -> None:
    own = {"sae_lens", "circuit_tracer", "sparsify", "openai_gpt2"}
    assert {dialect.name for dialect in DIALECTS} == own | {said(case)["dialect"] for case in CASES}
    assert len(BY_NAME) == len(DIALECTS)
