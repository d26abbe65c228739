"""Our numbers against sae-lens's own, for every case that scripts/make_saelens_references.py
stored."""

import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from saescope.errors import ConfigError
from saescope.load import load_sae
from saescope.saes import SAE, BatchTopKSAE, MatryoshkaSAE

DATA = Path(__file__).parents[2] / "data" / "saelens"
CASES = sorted(path.name for path in DATA.iterdir())


def cases_with(tensor: str) -> list[str]:
    return [case for case in CASES if tensor in reference(case)]


@functools.cache
def reference(case: str) -> dict[str, Tensor]:
    return load_file(DATA / case / "io.safetensors")


def fresh(case: str) -> SAE:
    return load_sae(DATA / case, device="cpu")


load = functools.cache(fresh)
"""Nothing that an SAE computes changes it."""


def assert_close(ours: Tensor, expected: Tensor) -> None:
    """Each position within 1e-5 of its own norm, and activations zero where sae-lens's are."""
    assert ours.shape == expected.shape
    error = (ours - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-6)
    assert error.max() <= 1e-5, (
        f"off by {error.max():.1e} of the norm at position {int(error.argmax())}"
    )


def test_every_architecture_has_a_reference() -> None:
    assert len(CASES) > 50
    assert {case.split("_")[0] for case in CASES} >= {
        "standard",
        "gated",
        "topk",
        "jumprelu",
        "batchtopk",
        "matryoshka",
        "legacy",
        "skip",
    }


@pytest.mark.parametrize("case", CASES)
def test_encode(case: str) -> None:
    io, sae = reference(case), load(case)
    acts = sae.encode(io["x"])
    assert_close(acts, io["feature_acts"])
    assert torch.equal(acts > 0, io["feature_acts"] > 0)


@pytest.mark.parametrize("case", CASES)
def test_what_fires_is_what_the_activation_function_saw(case: str) -> None:
    """sae-lens's hook_sae_acts_pre: before a decoder's norm comes onto it."""
    io, sae = reference(case), load(case)
    pre, acts = sae.hidden_pre(io["x"]), io["feature_acts"]
    norm = sae.W_dec.norm(dim=-1) if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else 1
    assert_close(torch.where(acts > 0, pre * norm, 0.0), acts)
    if sae.cfg.architecture == "standard":
        assert torch.equal(pre > 0, acts > 0)


@pytest.mark.parametrize("case", CASES)
def test_encode_sparse_is_encode(case: str) -> None:
    io, sae = reference(case), load(case)
    sparse = sae.encode_sparse(io["x"])
    dense = io["feature_acts"].reshape(-1, sae.cfg.d_sae)
    assert_close(sparse.to_dense(), dense)
    assert sparse.l0.tolist() == (dense > 0).sum(-1).tolist()


@pytest.mark.parametrize("case", CASES)
def test_decode_needs_no_encode_before_and_can_be_repeated(case: str) -> None:
    io, sae = reference(case), load(case)
    x, acts = io["x"], io["feature_acts"]
    for given in (acts, acts, sae.encode_sparse(x)):
        assert_close(sae.skip_path(x, sae.decode(given, like=x)), io["sae_out"])


@pytest.mark.parametrize("case", CASES)
def test_call(case: str) -> None:
    io, sae = reference(case), load(case)
    assert_close(sae(io["x"]), io["sae_out"])


@pytest.mark.parametrize("case", CASES)
def test_other_leading_shapes_give_the_same_numbers(case: str) -> None:
    io, sae = reference(case), load(case)
    x = io["x"].reshape(3, -1, *io["x"].shape[-2 if "hook_z" in case else -1 :])
    assert_close(
        sae.encode(x).reshape(-1, sae.cfg.d_sae), io["feature_acts"].reshape(-1, sae.cfg.d_sae)
    )
    assert_close(sae(x).reshape(io["sae_out"].shape), io["sae_out"])
    assert_close(
        sae(x[1, 0]),
        io["sae_out"].reshape(3, -1, *io["sae_out"].shape[-2 if "hook_z" in case else -1 :])[1, 0],
    )


@pytest.mark.parametrize("case", CASES)
def test_changed_activations_change_the_output_by_decode_change(case: str) -> None:
    io, sae = reference(case), load(case)
    x, acts = io["x"], sae.encode_sparse(io["x"])
    halves = acts.select(acts.features % 2 == 0)
    change = sae.decode(acts, like=x) - sae.decode(acts.select(acts.features % 2 == 1), like=x)
    torch.testing.assert_close(
        sae.decode_change(halves, like=x).reshape(change.shape), change, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "case", [case for case in CASES if "norm_rescale" in case or "layer_norm" in case]
)
def test_decode_without_the_input_is_refused_where_each_position_is_normalised(case: str) -> None:
    io, sae = reference(case), load(case)
    with pytest.raises(ConfigError) as caught:
        sae.decode(io["feature_acts"])
    assert "like=x" in caught.value.hint


@pytest.mark.parametrize("case", cases_with("folded_acts"))
def test_fold_W_dec_norm(case: str) -> None:
    io, sae = reference(case), load(case)
    before = sae.weights_hash
    folded = sae.fold_W_dec_norm()
    assert_close(folded.encode(io["x"]), io["folded_acts"])
    assert_close(folded(io["x"]), io["folded_out"])
    torch.testing.assert_close(folded.W_dec.norm(dim=-1), torch.ones(sae.cfg.d_sae))
    assert (
        fresh(case).weights_hash == before == sae.weights_hash != folded.weights_hash
        or "exported" in case
    )


@pytest.mark.parametrize(
    "case", ["topk", "topk_constant_norm_rescale", "topk_few_positive", "legacy_topk"]
)
def test_fold_W_dec_norm_is_refused_where_it_would_change_the_selection(case: str) -> None:
    with pytest.raises(ConfigError, match="which k features"):
        load(case).fold_W_dec_norm()


@pytest.mark.parametrize("case", cases_with("scaled_acts"))
def test_fold_activation_norm_scaling_factor(case: str) -> None:
    io = reference(case)
    folded = load(case).fold_activation_norm_scaling_factor(float(io["scaling_factor"]))
    assert_close(folded.encode(io["x"]), io["scaled_acts"])
    assert_close(folded(io["x"]), io["scaled_out"])
    assert folded.cfg.normalize_activations == "none"


@pytest.mark.parametrize("case", cases_with("whitened_acts"))
def test_fold_activation_whitening(case: str) -> None:
    io = reference(case)
    folded = load(case).fold_activation_whitening(io["mean"], io["whitening"], io["unwhitening"])
    assert_close(folded.encode(io["x"]), io["whitened_acts"])
    assert_close(folded(io["x"]), io["whitened_out"])
    assert folded.cfg.normalize_activations == "none"


@pytest.mark.parametrize("case", [case for case in cases_with("batch_acts") if "batchtopk" in case])
def test_encode_batch_keeps_the_batch_top_k(case: str) -> None:
    io, sae = reference(case), load(case)
    assert isinstance(sae, BatchTopKSAE)
    acts = sae.encode_batch(io["x"])
    assert_close(acts.to_dense(), io["batch_acts"])
    assert acts.l0.sum() == int(sae.cfg.k * len(io["x"]))
    assert_close(sae.decode(acts, like=io["x"]), io["batch_out"])


def test_each_matryoshka_prefix() -> None:
    io, sae = reference("matryoshka_batchtopk_training"), load("matryoshka_batchtopk_training")
    assert isinstance(sae, MatryoshkaSAE)
    acts = sae.encode_batch(io["x"])
    assert sae.cfg.matryoshka_widths == (8, 20, 48)
    for width in sae.cfg.matryoshka_widths:
        prefix = sae.decode(acts.select(acts.features < width), like=io["x"])
        assert_close(prefix, io[f"prefix_out_{width}"])


@pytest.mark.parametrize("case", CASES)
def test_on_a_CPU_auto_computes_in_float32(case: str) -> None:
    sae = load(case)
    assert sae.dtype == torch.float32 == sae.encode(reference(case)["x"].half()).dtype
