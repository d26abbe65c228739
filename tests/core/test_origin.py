"""An SAE that was trained on a module is read and written where that module is, whatever the family
puts behind it."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.attack.families import build
from tests.attack.plain import Plain
from tests.core.formats.trees import hub
from transformers import AutoTokenizer

from saescope.errors import HookError, MismatchError
from saescope.formats import BY_NAME
from saescope.hooks import record_activations
from saescope.load import load_sae
from saescope.models import LanguageModel, load_model
from saescope.origin import settle
from saescope.saes import SAE, SAEMetadata, StandardConfig, StandardSAE
from saescope.splice import check_fits, read_site
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

IDS = torch.arange(3, 12)[None]
D, D_SAE = 32, 48
FAMILIES = {
    "bloom": ("blocks.1.hook_resid_post", "blocks.1.hook_resid_mid"),  # its modules add the stream
    "exaone4": ("blocks.1.mlp.hook_out", "blocks.1.attn.hook_out"),
    "falcon": ("blocks.1.hook_mlp_out", "blocks.1.hook_attn_out"),
    "gemma2": ("blocks.1.mlp.hook_out", "blocks.1.attn.hook_out"),
    "glm4": ("blocks.1.mlp.hook_out", "blocks.1.attn.hook_out"),
    "gptj": ("blocks.1.hook_mlp_out", "blocks.1.hook_attn_out"),
    "llama": ("blocks.1.hook_mlp_out", "blocks.1.hook_attn_out"),
    "olmo2": ("blocks.1.mlp.hook_out", "blocks.1.attn.hook_out"),
    "olmo3": ("blocks.1.mlp.hook_out", "blocks.1.attn.hook_out"),
}


@pytest.fixture
def folder_of(tmp_path: Path, glass_dir: Path) -> Callable[[str], Path]:
    return lambda family: build(family, tmp_path / family, AutoTokenizer.from_pretrained(glass_dir))


@pytest.fixture(scope="module")
def pair_of(
    tmp_path_factory: pytest.TempPathFactory, glass_dir: Path
) -> Callable[[str], tuple[LanguageModel, Plain]]:
    """A family's model, loaded by us and as a plain Hugging Face model."""
    place = tmp_path_factory.mktemp("families")

    @functools.cache
    def pair(family: str) -> tuple[LanguageModel, Plain]:
        folder = build(family, place / family, AutoTokenizer.from_pretrained(glass_dir))
        return load_model(folder, device="cpu"), Plain(folder)

    return pair


def write_sparsify(folder: Path, **said: object) -> Path:
    """A folder as sparsify writes it, called as the module."""
    draw = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True)
    weights = {
        "encoder.weight": torch.randn(D_SAE, D, generator=draw),
        "encoder.bias": torch.zeros(D_SAE),
        "W_dec": torch.randn(D_SAE, D, generator=draw),
        "b_dec": torch.zeros(D),
    }
    save_file(weights, folder / "sae.safetensors")
    cfg = {"d_in": D, "num_latents": D_SAE, "expansion_factor": 1, "k": 4} | said
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return folder


def load(folder: Path) -> SAE:
    return load_sae(folder, device="cpu")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("part", "index"), [("mlp", 0), ("attn", 1), ("", 2)])
def test_an_sae_reads_what_its_module_gives(
    family: str,
    part: str,
    index: int,
    pair_of: Callable[[str], tuple[LanguageModel, Plain]],
    tmp_path: Path,
) -> None:
    (model, plain), module = pair_of(family), f"layers.1.{part}".rstrip(".")
    sae = settle(model, load(write_sparsify(tmp_path / "saes" / module)))
    wanted = (*FAMILIES[family], "blocks.1.hook_resid_post")[index]
    assert sae.cfg.metadata.hook_name == wanted
    expected = plain.module(IDS, module, "output")
    assert torch.allclose(read_site(model, sae, IDS).x, expected, atol=1e-4)


def test_a_norm_behind_a_module_is_not_taken_for_it(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """What was read in silence before: off by more than half of its norm."""
    folder = folder_of("olmo3")
    model, plain = load_model(folder, device="cpu"), Plain(folder)
    expected = plain.module(IDS, "layers.1.mlp", "output")
    behind = record_activations(model, IDS, ["blocks.1.hook_mlp_out"])["blocks.1.hook_mlp_out"][0]
    assert float((behind - expected).norm() / expected.norm()) > 0.5
    sae = settle(model, load(write_sparsify(tmp_path / "saes" / "layers.1.mlp")))
    assert torch.allclose(read_site(model, sae, IDS).x, expected, atol=1e-4)


def test_an_sae_at_another_hook_than_its_modules_is_refused(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """dictionary_learning and sparsify on OLMo 2: `hook_mlp_out` is there what comes out of a
    norm."""
    model = load_model(folder_of("olmo2"), device="cpu")
    write_sparsify(tmp_path / "saes" / "layers.1.mlp")
    (tmp_path / "saes" / "config.json").write_text(
        json.dumps({"model": "allenai/OLMo-2-0425-1B", "ctx_len": 64})
    )
    sae = load(tmp_path / "saes" / "layers.1.mlp")
    assert sae.cfg.metadata.hook_name == "blocks.1.hook_mlp_out"
    with pytest.raises(MismatchError, match=r"at blocks\.1\.mlp\.hook_out, not") as raised:
        check_fits(model, sae, allow_mismatch=True)
    assert raised.value.code == "SITE_UNSETTLED" and "settle" in raised.value.hint
    check_fits(model, settle(model, sae), allow_mismatch=True)


def test_a_transcoder_reads_and_writes_at_its_module(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = folder_of("olmo2")
    model, plain = load_model(folder, device="cpu"), Plain(folder)
    sae = settle(model, load(write_sparsify(tmp_path / "saes" / "layers.1.mlp", transcode=True)))
    site = read_site(model, sae, IDS)
    assert torch.allclose(site.x, plain.module(IDS, "layers.1.mlp", "input"), atol=1e-4)
    assert torch.allclose(site.target, plain.module(IDS, "layers.1.mlp", "output"), atol=1e-4)


def write_dictionary(folder: Path, submodule: str, io: str) -> SAEMetadata:
    trainer = {
        "dict_class": "AutoEncoder",
        "activation_dim": D,
        "dict_size": D_SAE,
        "layer": 1,
        "lm_name": "allenai/OLMo-2-0425-1B",
        "submodule_name": submodule,
    }
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"io": io}}))
    (folder / "ae.pt").touch()
    return BY_NAME["dictionary_learning_1"].peek(hub(folder, "a/b", ""))[0].metadata


def write_saelens(folder: Path, **said: object) -> SAEMetadata:
    blank_sae(SAEMetadata()).save(folder)
    document = json.loads((folder / "cfg.json").read_text())
    document["metadata"] |= {"model_class_name": "AutoModelForCausalLM"} | said
    (folder / "cfg.json").write_text(json.dumps(document))
    return load(folder).cfg.metadata


def write_circuit_tracer(folder: Path) -> SAEMetadata:
    draw = torch.Generator().manual_seed(0)
    weights = {
        "W_enc": torch.randn(D_SAE, D, generator=draw),
        "W_dec": torch.randn(D_SAE, D, generator=draw),
        "b_enc": torch.zeros(D_SAE),
        "b_dec": torch.zeros(D),
    }
    save_file(weights, folder / "layer_1.safetensors")
    said = "model_name: allenai/OLMo-2-0425-1B\nfeature_output_hook: mlp.hook_out\n"
    (folder / "config.yaml").write_text(said)
    return load(folder / "layer_1.safetensors").cfg.metadata


def blank_sae(metadata: SAEMetadata) -> SAE:
    weights = {
        "W_enc": torch.zeros(D, D_SAE),
        "W_dec": torch.zeros(D_SAE, D),
        "b_enc": torch.zeros(D_SAE),
        "b_dec": torch.zeros(D),
    }
    transcoder = bool(metadata.hook_name_out)
    cfg = StandardConfig(
        d_in=D,
        d_sae=D_SAE,
        transcoder=transcoder,
        apply_b_dec_to_input=not transcoder,
        metadata=metadata,
    )
    return StandardSAE(cfg, weights)


WRITERS: dict[str, tuple[Callable[[Path], SAEMetadata], str, str, str]] = {
    # name: writer; module read, its side; module written
    "dictionary_learning, mlp": (
        lambda folder: write_dictionary(folder, "mlp_out_layer_1", "out"),
        *("layers.1.mlp", "output", ""),
    ),
    "dictionary_learning, attention": (
        lambda folder: write_dictionary(folder, "model.layers.1.self_attn", "out"),
        *("layers.1.attn", "output", ""),
    ),
    "dictionary_learning, input": (
        lambda folder: write_dictionary(folder, "model.layers.1.mlp", "in"),
        *("layers.1.mlp", "input", ""),
    ),
    "sae-lens on a module": (
        lambda folder: write_saelens(folder, hook_name="model.layers.1.mlp"),
        *("layers.1.mlp", "output", ""),
    ),
    "circuit-tracer": (write_circuit_tracer, "layers.1.mlp", "", "layers.1.mlp"),
}


@pytest.mark.parametrize("case", WRITERS)
@pytest.mark.parametrize("family", ["exaone4", "granite", "llama", "olmo2"])
def test_every_format_that_names_a_module_gets_its_tensor(
    case: str, family: str, pair_of: Callable[[str], tuple[LanguageModel, Plain]], tmp_path: Path
) -> None:
    write, module, side, written = WRITERS[case]
    (model, plain), place = pair_of(family), tmp_path / "sae"
    place.mkdir()
    metadata = settle(model, blank_sae(write(place))).cfg.metadata
    for hook_name, path, at in (
        (metadata.hook_name, module, side),
        (metadata.hook_name_out, written, "output"),
    ):
        if path and at:
            found = record_activations(model, IDS, [hook_name])[hook_name].reshape(IDS.shape[1], D)
            assert torch.allclose(found, plain.module(IDS, path, at), atol=1e-4)


def test_gemma_scope_2_stays_where_its_modules_are(folder_of: Callable[[str], Path]) -> None:
    model = load_model(folder_of("gemma3"), device="cpu")
    for module, side, hook_name in (
        ("model.layers.1", "output", "blocks.1.hook_resid_post"),
        ("model.layers.1.self_attn.o_proj", "input", "blocks.1.attn.hook_z"),
        ("model.layers.1.post_feedforward_layernorm", "output", "blocks.1.hook_mlp_out"),
        ("model.layers.1.pre_feedforward_layernorm", "output", "blocks.1.mlp.hook_in"),
    ):
        assert model.hooks_of_module(module, side)[0] == hook_name


def test_a_module_that_no_hook_carries_is_said(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load_model(folder_of("llama"), device="cpu")
    sae = load(write_sparsify(tmp_path / "saes" / "layers.1.mlp.experts.3"))
    with pytest.raises(HookError, match=r"layers\.1\.mlp\.experts\.3") as raised:
        settle(model, sae)
    assert raised.value.code == "SITE_NOT_FOUND"


async def test_load_sae_places_an_sae_at_its_module_or_says_that_it_cannot(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    model = folder_of("olmo2")
    state = AppState(Settings(read_roots=(tmp_path,), offline=True))
    for part, field, said in (
        ("layers.1.mlp", "sae", "olmo2/1.mlp.out/layers.1.mlp"),
        ("layers.1.self_attn.rotary", "code", "SITE_NOT_FOUND"),
        ("somewhere", "code", "HOOK_UNKNOWN"),
    ):
        folder = write_sparsify(tmp_path / "saes" / part)
        tool = next(tool for tool in ALL_TOOLS if tool.name == "load_sae")
        outcome = await tool.call(state, {"path": str(folder), "model": str(model)})
        assert outcome.document[field] == said
    state.close()


def test_a_hook_that_the_user_names_is_taken(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load_model(folder_of("olmo2"), device="cpu")
    folder = write_sparsify(tmp_path / "saes" / "layers.1.mlp")
    sae = load_sae(folder, device="cpu", known={"hook_name": "blocks.1.hook_mlp_out"})
    assert settle(model, sae) is sae
    assert record_activations(model, IDS, [sae.cfg.metadata.hook_name])
