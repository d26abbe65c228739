"""The check of a load finds the layer and the scale at which an SAE fits, on planted cases."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.core.oracle import Family, as_array, make_sae

from saescope.evals import PROBE_TEXT, LayerFit, check_sae
from saescope.evals.layers import (
    best_elsewhere,
    best_scale,
    moved,
    n_positions,
    tried_at,
)
from saescope.hooks import record_activations
from saescope.metrics import LEAST_POSITIONS
from saescope.models import LanguageModel
from saescope.saes import SAE, SAEMetadata, StandardConfig, StandardSAE


def site(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_post"


def probe(model: LanguageModel) -> torch.Tensor:
    return model.tokenize(PROBE_TEXT, limit=model.n_ctx).ids[None]


def planted(model: LanguageModel, layer: int, share: float = 0.5, gain: float = 1.0) -> SAE:
    """Both signs of the principal directions of a layer's activations on the probe text."""
    x = record_activations(model, probe(model), [site(layer)])[site(layer)][0, 1:]
    mean, n = x.mean(0), int(share * x.shape[1])
    rows = torch.linalg.svd(x - mean)[2][:n]
    rows = torch.cat([rows, -rows])
    meta = SAEMetadata(hook_name=site(layer))
    cfg = StandardConfig(d_in=len(mean), d_sae=len(rows), metadata=meta)
    zeros = torch.zeros(len(rows))
    made = {"W_enc": gain * rows.T, "W_dec": rows, "b_enc": zeros, "b_dec": mean}
    return StandardSAE(cfg, made)


def at(sae: SAE, layer: int) -> SAE:
    return sae.with_metadata(replace(sae.cfg.metadata, hook_name=site(layer)))


def test_every_layer_is_measured_as_numpy_measures_it(glass: LanguageModel) -> None:
    sae = planted(glass, 1)
    check = check_sae(glass, sae)
    ids = probe(glass)
    counted = np.array([pos > 0 and token > 3 for pos, token in enumerate(ids[0].tolist())])
    assert [fit.hook_name for fit in check.layers] == [site(i) for i in range(glass.n_layers)]
    for fit in check.layers:
        recorded = record_activations(glass, ids, [fit.hook_name])[fit.hook_name][0]
        target, out = (as_array(each).astype(float)[counted] for each in (recorded, sae(recorded)))
        centred, made = target - target.mean(0), out - out.mean(0)
        expected = 1 - ((target - out) ** 2).sum() / (centred**2).sum()
        assert fit.explained_variance == pytest.approx(expected, abs=1e-4)
        assert fit.scale == pytest.approx((centred * made).sum() / (made**2).sum(), rel=1e-4)
        assert fit.ce_score is None


def test_an_sae_at_its_own_layer_is_good_and_its_layer_the_peak(glass: LanguageModel) -> None:
    check = check_sae(glass, planted(glass, 1))
    assert check.peak is not None and check.peak.hook_name == site(1)
    assert check.verdict.level == "good" and check.scale == pytest.approx(1, abs=0.02)


def test_an_sae_of_another_layer_is_told_the_layer_where_it_fits(glass: LanguageModel) -> None:
    last = glass.n_layers - 1
    check = check_sae(glass, at(planted(glass, last, 0.6), last - 2))
    assert check.peak is not None and check.peak.hook_name == site(last)
    assert check.verdict.level in ("doubtful", "wrong")
    if check.verdict.level == "doubtful":
        assert f"at {site(last)}" in check.verdict.why and "its own" in check.verdict.why


@pytest.mark.parametrize(("gain", "level"), [(1.3, "doubtful"), (1 / 1.3, "fair"), (1.02, "good")])
def test_an_encoder_of_another_scale_is_named(
    glass: LanguageModel, gain: float, level: str
) -> None:
    check = check_sae(glass, planted(glass, 1, gain=gain))
    assert check.scale == pytest.approx(1 / gain, rel=0.02)
    assert check.verdict.level == level
    assert ("as large as fits" in check.verdict.why) is (level == "doubtful")
    assert ("too small" in check.verdict.why) is (level == "fair")


def test_a_random_model_and_a_random_sae_name_no_other_layer(gpt2: Family) -> None:
    check = check_sae(gpt2.model, make_sae(gpt2, "standard"))
    assert "its own" not in check.verdict.why
    on_random = check_sae(gpt2.model, planted(gpt2.model, 1))
    assert on_random.verdict.level in ("good", "fair"), on_random.verdict


def test_a_scan_adds_the_ce_score_of_every_layer(glass: LanguageModel) -> None:
    sae = planted(glass, 1)
    scanned, clean = check_sae(glass, sae, scan=True), glass.forward(probe(glass))[0]
    assert all(fit.ce_score is not None for fit in scanned.layers)
    own = next(fit for fit in scanned.layers if fit.hook_name == site(1))
    assert own.ce_score == pytest.approx(scanned.ce_score, abs=1e-3)  # one text, one length
    assert torch.equal(glass.forward(probe(glass))[0], clean)


def test_layers_without_the_site_are_left_out(
    gpt2: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, fires = make_sae(gpt2, "standard"), gpt2.model.fires
    lacking = replace(fires, sites=fires.sites - {site(2)})
    monkeypatch.setattr(gpt2.model, "fires", lacking)
    tried = tried_at(gpt2.model, at(sae, 1))
    assert [each.cfg.metadata.hook_name for each in tried] == [site(0), site(1)]
    elsewhere = sae.with_metadata(replace(sae.cfg.metadata, hook_name="hook_embed"))
    assert tried_at(gpt2.model, elsewhere) == []


def test_a_transcoder_moves_with_both_of_its_sites(gpt2: Family) -> None:
    sae = make_sae(gpt2, "skip_transcoder")
    meta = moved(sae, sae.cfg.metadata.hook_name.replace("blocks.1", "blocks.2")).cfg.metadata
    assert meta.hook_name.startswith("blocks.2.") and meta.hook_name_out.startswith("blocks.2.")
    layers = check_sae(gpt2.model, sae).layers
    assert [fit.hook_name.split(".")[1] for fit in layers] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("own", "other", "named"),
    [(0.76, 0.83, True), (0.79, 0.83, False), (0.985, 0.99, False), (0.3, 0.9, True)],
)
def test_neighbouring_layers_are_not_told_apart(own: float, other: float, named: bool) -> None:
    fits = [LayerFit(site(2), own, 1.0), LayerFit(site(4), other, 1.0)]
    assert (best_elsewhere(fits, site(2)) is not None) is named
    assert best_elsewhere(fits, site(4)) is None and best_elsewhere([], site(4)) is None


def test_a_wide_sae_is_tried_on_fewer_positions() -> None:
    assert n_positions(StandardConfig(d_in=576, d_sae=4608), 30) == 128
    assert 32 < n_positions(StandardConfig(d_in=2304, d_sae=2**14), 100) < 128
    assert n_positions(StandardConfig(d_in=4096, d_sae=2**17), 32) == 2 * LEAST_POSITIONS


def test_the_scale_of_few_positions_or_of_a_constant_is_none() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    assert best_scale(x[:15], x[:15]) is None and best_scale(x, torch.ones(20, 3)) is None
    found = best_scale(x, 2 * x + 5)
    assert found is not None and found.factor == pytest.approx(0.5)
    assert found.gain == pytest.approx(1)  # doubled, it explained nothing: 1 - (1 - 2)^2
