"""What is written for sae-lens: a form that it has, wherever an equal one exists."""

import json
from pathlib import Path

import pytest
import torch
from tests.core.formats.trees import random_weights

from saescope.load import load_sae
from saescope.saes import (
    GatedConfig,
    GatedSAE,
    GroupMaxConfig,
    GroupMaxSAE,
    SAEConfig,
    TopKConfig,
    TopKSAE,
)
from saescope.saes.disk import SAELENS_ARCHITECTURES, not_in_saelens, saelens_name


def gated_transcoder(*, skip: bool) -> GatedSAE:
    w = random_weights(5)
    rng = torch.Generator().manual_seed(1)
    tensors = {name: w[name] for name in ("W_enc", "W_dec", "b_dec")}
    for name in ("b_gate", "b_mag", "r_mag"):
        tensors[name] = 0.5 * torch.randn(48, generator=rng)
    tensors |= {"W_skip": w["W_skip"]} if skip else {}
    cfg = GatedConfig(d_in=16, d_sae=48, apply_b_dec_to_input=False, transcoder=True, skip=skip)
    return GatedSAE(cfg, tensors)


@pytest.mark.parametrize("skip", [False, True])
def test_a_gated_transcoder_is_written_as_the_jumprelu_transcoder_that_computes_the_same(
    skip: bool, tmp_path: Path
) -> None:
    sae, x = gated_transcoder(skip=skip), random_weights(5)["x"]
    said = json.loads((sae.save(tmp_path) / "cfg.json").read_text())
    assert said["architecture"] == f"jumprelu_{'skip_' if skip else ''}transcoder"
    assert said["metadata"]["training_architecture"] == "gated"
    again = load_sae(tmp_path, device="cpu")
    assert torch.equal(again.encode(x) > 0, sae.encode(x) > 0) and bool((sae.encode(x) > 0).any())
    torch.testing.assert_close(again(x), sae(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "transcoder", "skip", "name"),
    [
        ("gated", False, False, "gated"),
        ("gated", True, True, "jumprelu_skip_transcoder"),
        ("standard", True, False, "transcoder"),
        ("batchtopk", True, True, "jumprelu_skip_transcoder"),
        ("matryoshka_batchtopk", False, False, "jumprelu"),
    ],
)
def test_forms_that_sae_lens_reads(
    architecture: str, transcoder: bool, skip: bool, name: str
) -> None:
    assert saelens_name(architecture, transcoder=transcoder, skip=skip) == name
    assert name in SAELENS_ARCHITECTURES and not_in_saelens(name) == ""


def test_forms_that_it_does_not_read_name_the_nearest_that_it_does() -> None:
    w = random_weights()
    plain = {name: w[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    of: dict[str, SAEConfig] = {
        "topk_transcoder": TopKConfig(
            d_in=16, d_sae=48, k=4, apply_b_dec_to_input=False, transcoder=True
        ),
        "groupmax": GroupMaxConfig(d_in=16, d_sae=48, k=4),
    }
    for (name, cfg), kind in zip(of.items(), (TopKSAE, GroupMaxSAE), strict=True):
        assert kind(cfg, plain).to_saelens()[0]["architecture"] == name
        assert name in not_in_saelens(name) and 'architecture="batchtopk"' in not_in_saelens(name)
    assert "jumprelu_skip_transcoder" in not_in_saelens("topk_skip_transcoder")
