"""What transformer-lens cannot hold is told at the load, by family and cause; a norm without weight
is a norm."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
import transformers
from tests.attack.families import FAMILIES, GROUPED, build
from tests.attack.plain import Plain
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from saescope.cancel import cancellable
from saescope.errors import Cancelled, HookError, ModelError
from saescope.hooks import edit_activations, hook_shape, record_activations
from saescope.models import LanguageModel, load_model


def folder_of(family: str, tmp_path: Path, glass_dir: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(glass_dir)
    return build(family, tmp_path / family, tokenizer)


@pytest.mark.parametrize("family", ["falcon_new", "opt_post"])
def test_a_family_either_loads_with_its_own_logits_or_is_named_with_the_cause(
    family: str, tmp_path: Path, glass_dir: Path
) -> None:
    folder = folder_of(family, tmp_path, glass_dir)
    ids = torch.arange(3, 9)[None]
    try:
        model = load_model(folder, device="cpu")
    except ModelError as error:
        assert error.code == "UNSUPPORTED_MODEL" and error.hint
        assert "ForCausalLM" in str(error)
    else:
        assert torch.allclose(model.forward(ids)[0], Plain(folder).logits(ids), atol=1e-4)


def test_norms_without_weight_are_norms(tmp_path: Path, glass_dir: Path) -> None:
    folder = folder_of("olmo", tmp_path, glass_dir)
    model, plain = load_model(folder, device="cpu"), Plain(folder)
    ids = torch.arange(3, 9)[None]
    assert torch.allclose(model.forward(ids)[0], plain.logits(ids), atol=1e-4)
    assert model.readout.centred
    assert torch.allclose(model.readout.gain, torch.ones(model.d_model), atol=1e-3)


def test_a_model_that_sees_later_tokens_is_refused(tmp_path: Path, glass_dir: Path) -> None:
    """BERT as a masked model loads as a causal one, and computes something."""
    folder = tmp_path / "bert"
    config = BertConfig(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.2,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(glass_dir).save_pretrained(folder)
    with pytest.raises(ModelError, match="no causal language model") as refused:
        load_model(folder, device="cpu")
    assert refused.value.code == "UNSUPPORTED_MODEL"


SIZES = {
    "vocab_size": 1024,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
T5 = {"vocab_size": 1024, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("BartForConditionalGeneration", SIZES),
        ("PegasusForConditionalGeneration", SIZES),
        ("M2M100ForConditionalGeneration", SIZES),
        ("T5ForConditionalGeneration", T5),
    ],
)
def test_an_encoder_decoder_is_named_as_such(
    architecture: str, config: dict[str, int], tmp_path: Path, glass_dir: Path
) -> None:
    kind = getattr(transformers, architecture)
    kind(kind.config_class(**config)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(glass_dir).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="encoder-decoder") as refused:
        load_model(tmp_path, device="cpu")
    assert refused.value.code == "UNSUPPORTED_MODEL"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_bigcode"])
def test_attention_that_is_not_scaled_is_refused_with_the_switch(
    family: str, dtype: str, tmp_path: Path, glass_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights as small as transformers draws them hide it: the logits are off by 0.2 %."""
    architecture, own = FAMILIES[family]
    config = own | {"scale_attn_weights": False, "initializer_range": 0.02}
    monkeypatch.setitem(FAMILIES, family, (architecture, config))
    with pytest.raises(ModelError, match="scale_attn_weights=false") as refused:
        load_model(folder_of(family, tmp_path, glass_dir), device="cpu", dtype=dtype)
    assert refused.value.code == "UNSUPPORTED_MODEL"


def test_logits_that_are_off_by_a_thousandth_are_refused(
    tmp_path: Path, glass_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What transformer-lens leaves out may count little with small weights, and more with
    others."""
    monkeypatch.setattr("saescope.models.boot._UNKNOWN_SWITCHES", {})
    own = FAMILIES["gpt2"][1] | {"scale_attn_weights": False, "initializer_range": 0.02}
    monkeypatch.setitem(FAMILIES, "gpt2", ("GPT2LMHeadModel", own))
    monkeypatch.setattr("tests.attack.families.NOISE", 0.01)
    with pytest.raises(ModelError, match="other logits than transformers"):
        load_model(folder_of("gpt2", tmp_path, glass_dir), device="cpu")


def test_norms_whose_weight_is_none_are_norms(
    tmp_path: Path, glass_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = FAMILIES["opt"][1] | {"layer_norm_elementwise_affine": False}
    monkeypatch.setitem(FAMILIES, "opt", ("OPTForCausalLM", own))
    model = load_model(folder_of("opt", tmp_path, glass_dir), device="cpu")
    assert torch.allclose(model.readout.gain, torch.ones(model.d_model), atol=1e-3)


def test_tensors_that_the_configuration_has_no_place_for_are_said(
    tmp_path: Path, glass_dir: Path, glass: LanguageModel
) -> None:
    folder = Path(shutil.copytree(glass_dir, tmp_path / "model"))
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"num_hidden_layers": 3}))
    (warning,) = load_model(folder, device="cpu").warnings
    assert "config.json has no place for" in warning and "layers.3." in warning
    assert glass.warnings == ()


@pytest.fixture(scope="module")
def looped(tmp_path_factory: pytest.TempPathFactory, glass_dir: Path) -> LanguageModel:
    """A hierarchical reasoning model, which runs its layers again and again within a forward pass
    and has no blocks in one row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "hrm", ("HrmTextForCausalLM", GROUPED))
        folder = folder_of("hrm", tmp_path_factory.mktemp("looped"), glass_dir)
    return load_model(folder, device="cpu")


def test_a_hook_that_fires_several_times_is_refused_wherever_it_is_put(
    looped: LanguageModel,
) -> None:
    site, ids = "H_blocks.1.hook_out", torch.arange(3, 9)[None]
    for use in (
        lambda: hook_shape(looped, site),
        lambda: record_activations(looped, ids, ["unembed.hook_in", site]),
        lambda: edit_activations(looped, {site: lambda x: x + 1}).__enter__(),
    ):
        with pytest.raises(HookError, match="fires 2 times") as refused:
            use()
        assert refused.value.code == "HOOK_REPEATED"
    assert hook_shape(looped, "unembed.hook_in") == (32,)


def offers(error: HookError) -> list[str]:
    return [name for name in str(error.allowed or "").split(", ") if name]


@pytest.mark.parametrize("wrong", ["blocks.1.hook_resid_post", "H_blocks.1.hook_ou", "layer 2"])
def test_what_is_offered_instead_of_a_hook_can_be_used(looped: LanguageModel, wrong: str) -> None:
    with pytest.raises(HookError) as refused:
        hook_shape(looped, wrong)
    assert refused.value.code == "HOOK_NOT_FOUND" and "layers are" not in refused.value.hint
    for offered in offers(refused.value):
        assert hook_shape(looped, offered)


@pytest.mark.parametrize("family", ["mamba", "lfm2", "gpt_neox", "olmo2", "openai_gpt"])
def test_every_hook_that_a_family_offers_has_a_vector_at_each_position(
    family: str, tmp_path: Path, glass_dir: Path
) -> None:
    model = load_model(folder_of(family, tmp_path, glass_dir), device="cpu")
    offered = set[str]()
    for wrong in ("blocks.1.hook_resid", "blocks.0.hook_attn", "ln2.hook_normalized", "mlp_out"):
        with pytest.raises(HookError) as refused:
            hook_shape(model, wrong)
        offered |= set(offers(refused.value))
    assert offered
    for name in offered:
        assert hook_shape(model, name)


@pytest.mark.parametrize("module", ["layers.1.mlp", "model.H_module.layers.0", "L_module.layers.1"])
def test_a_module_that_is_run_again_and_again_is_named(looped: LanguageModel, module: str) -> None:
    with pytest.raises(HookError, match=f"{module}' . times in one forward pass") as refused:
        looped.hooks_of_module(module, "output")
    assert refused.value.code == "HOOK_REPEATED"
    assert looped.hooks_of_module("model.embed_tokens", "output")
    assert looped.hooks_of_module("layers.7.mlp", "output") == ()


def test_a_cancel_is_heard_between_two_layers_that_are_run_again(looped: LanguageModel) -> None:
    stop = threading.Event()

    def give_up(x: Tensor) -> Tensor:
        stop.set()
        return x

    with (
        cancellable(stop),
        pytest.raises(Cancelled),
        edit_activations(looped, {"embed.hook_out": give_up}),
    ):
        looped.forward(torch.arange(3, 9)[None])


@pytest.mark.parametrize("parallel", [True, False])
def test_a_joint_projection_without_bias_has_the_bias_zero(
    parallel: bool, tmp_path: Path, glass_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"attention_bias": False, "use_parallel_residual": parallel}
    monkeypatch.setitem(FAMILIES, "gpt_neox", ("GPTNeoXForCausalLM", config))
    folder, ids = folder_of("gpt_neox", tmp_path, glass_dir), torch.arange(3, 9)[None]
    model, plain = load_model(folder, device="cpu"), Plain(folder)
    assert torch.allclose(model.forward(ids)[0], plain.logits(ids), atol=1e-4)
    for site in ("blocks.1.attn.hook_z", "blocks.1.hook_resid_post"):
        found = record_activations(model, ids, [site])[site].flatten(2)[0]
        assert torch.allclose(found, plain.record(ids, site), atol=1e-4)


def test_an_assertion_of_transformer_lens_is_told_by_its_statement(
    tmp_path: Path, glass_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "gpt_neox", ("GPTNeoXForCausalLM", {"attention_bias": False}))
    monkeypatch.setattr("saescope.models.boot.give_joint_projections_a_bias", lambda model: None)
    folder = folder_of("gpt_neox", tmp_path, glass_dir)
    with pytest.raises(ModelError, match=r"AssertionError: assert isinstance\(qkv_bias") as refused:
        load_model(folder, device="cpu")
    assert refused.value.code == "UNSUPPORTED_MODEL"
