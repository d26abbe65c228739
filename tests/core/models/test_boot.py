"""What transformer-lens cannot hold is told at the load, by family and cause; a norm without weight is a norm."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.attack.families import FAMILIES, GROUPED, build
from tests.attack.plain import Plain
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from saescope.errors import HookError, ModelError
from saescope.hooks import hook_shape
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


def test_tensors_that_the_configuration_has_no_place_for_are_said(
    tmp_path: Path, glass_dir: Path, glass: LanguageModel
) -> None:
    folder = Path(shutil.copytree(glass_dir, tmp_path / "model"))
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"num_hidden_layers": 3}))
    (warning,) = load_model(folder, device="cpu").warnings
    assert "config.json has no place for" in warning and "layers.3." in warning
    assert glass.warnings == ()


def test_a_hook_that_fires_several_times_is_no_site(
    tmp_path: Path, glass_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hierarchical reasoning model runs its layers again and again within a forward pass."""
    monkeypatch.setitem(FAMILIES, "hrm", ("HrmTextForCausalLM", GROUPED))
    model = load_model(folder_of("hrm", tmp_path, glass_dir), device="cpu")
    with pytest.raises(HookError, match="fires 2 times") as refused:
        hook_shape(model, "H_blocks.1.hook_out")
    assert refused.value.code == "HOOK_REPEATED"
    assert hook_shape(model, "unembed.hook_in") == (32,)
