"""What transformer-lens cannot hold is told at the load, by family and cause; a norm without weight is a norm."""

from pathlib import Path

import pytest
import torch
from tests.attack.families import build
from tests.attack.plain import Plain
from transformers import AutoTokenizer

from saescope.errors import ModelError
from saescope.models import load_model


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
