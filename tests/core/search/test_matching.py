"""Features of two SAEs matched: a copy whose order is known, an SAE that shares nothing, and the
assignment against all permutations."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from agent_evals.bench import SAE as SAE_DIR
from tests.core.oracle import Family, NumpySAE, flat, make_sae

from saescope.errors import ArgumentError
from saescope.load import load_sae
from saescope.models import LanguageModel, Tokens
from saescope.saes import SAE
from saescope.search import match_features
from saescope.search.assignment import assign
from saescope.search.likeness import LEAST_TOKENS

D_SAE = 96
ORDER = torch.randperm(D_SAE, generator=torch.Generator().manual_seed(1))
"""Feature i of the copy is feature ORDER[i] of the original."""


def texts_of(family: Family, n: int = 12, n_tokens: int = 40) -> list[Tokens]:
    """Random tokens, which a random model takes like any others."""
    draw = torch.Generator().manual_seed(5)
    rows = torch.randint(4, 1000, (n, n_tokens), generator=draw)
    special = torch.zeros(n_tokens, dtype=torch.bool)
    return [Tokens(row, special, ("x",) * n_tokens, False) for row in rows]


def original(family: Family, **options: Any) -> SAE:
    return make_sae(family, "topk", d_sae=D_SAE, **options)


def shuffled(sae: SAE, noise: float, n_new: int = 0) -> SAE:
    """A copy with its features in another order, noise of this share of each row's norm added, and
    the first `n_new` replaced by random ones."""
    draw = torch.Generator().manual_seed(2)
    tensors = {name: tensor.clone() for name, tensor in sae.tensors().items()}

    def like(rows: torch.Tensor) -> torch.Tensor:
        drawn = torch.randn(rows.shape, generator=draw)
        return drawn * rows.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)

    for name in ("W_enc", "W_dec"):
        rows = tensors[name].T if name == "W_enc" else tensors[name]
        rows = rows[ORDER] + noise * like(rows[ORDER])
        rows[:n_new] = like(rows[:n_new])
        tensors[name] = (rows.T if name == "W_enc" else rows).contiguous()
    tensors["b_enc"] = tensors["b_enc"][ORDER]
    return type(sae)(sae.cfg, tensors)


def test_a_permuted_and_noised_copy_is_found_feature_by_feature(family: Family) -> None:
    sae = original(family)
    found = match_features(family.model, sae, shuffled(sae, 0.3), texts_of(family), k=D_SAE)
    truth = {int(old): new for new, old in enumerate(ORDER)}
    right = sum(truth[row.feature] == row.partner for row in found.features)
    assert found.n_features == found.n_other == D_SAE and right >= 0.95 * D_SAE
    assert found.low < found.n_matched / D_SAE <= found.high
    cosines = [row.cosine or 0 for row in found.features if truth[row.feature] == row.partner]
    assert np.mean(cosines) == pytest.approx(1 / (1 + 0.3**2) ** 0.5, abs=0.03)
    assert found.n_same_index <= 5 and not found.warnings


def test_what_was_replaced_has_no_partner(gpt2: Family) -> None:
    sae = original(gpt2)
    found = match_features(gpt2.model, sae, shuffled(sae, 0.1, n_new=30), texts_of(gpt2), k=D_SAE)
    gone = {*ORDER[:30].tolist()}
    wrong = [row for row in found.features if row.feature in gone]
    assert len(wrong) <= 3 and found.n_matched <= D_SAE - 27
    assert len(gone & {*found.unmatched}) >= len(found.unmatched) - 1
    assert len({*range(30)} & {*found.unmatched_other}) >= len(found.unmatched_other) - 1


def test_unrelated_saes_match_by_chance_alone(family: Family) -> None:
    one, other = original(family), original(family, seed=7)
    found = match_features(family.model, one, other, texts_of(family))
    assert found.n_matched <= 0.1 * D_SAE


def test_random_features_are_no_partners_of_trained_ones(glass: LanguageModel) -> None:
    """Both read the same tokens, so that some fire alike: a third of the trained ones are more like
    a random one than like any on shuffled tokens."""
    trained = load_sae(path=str(SAE_DIR))
    draw = torch.Generator().manual_seed(5)
    rows = torch.nn.functional.normalize(torch.randn(256, 128, generator=draw), dim=-1)
    zeros = {name: torch.zeros_like(trained.tensors()[name]) for name in ("b_enc", "b_dec")}
    weights = {"W_enc": rows.T.contiguous(), "W_dec": rows, **zeros}
    random = type(trained)(trained.cfg, weights)
    for one, other in ((trained, random), (random, trained)):
        assert match_features(glass, one, other).n_matched <= 0.03 * 256


def test_an_sae_that_began_with_the_same_weights_is_told(gpt2: Family) -> None:
    sae = original(gpt2)
    tensors = sae.tensors()
    tensors = tensors | {"W_dec": tensors["W_dec"] + 0.05 * torch.ones(())}
    found = match_features(gpt2.model, sae, type(sae)(sae.cfg, tensors), texts_of(gpt2))
    assert found.n_same_index > 0.9 * D_SAE
    assert any("change the seed" in warning for warning in found.warnings)


def test_correlation_and_cosine_are_numpys_own(gpt2: Family) -> None:
    sae, texts = original(gpt2), texts_of(gpt2)
    copy = shuffled(sae, 0.5)
    found = match_features(gpt2.model, sae, copy, texts, k=5)
    one, other = NumpySAE(sae), NumpySAE(copy)
    hook_name = sae.cfg.metadata.hook_name
    x = [flat(gpt2.hf.record(text.ids[None], [hook_name])[hook_name])[1:] for text in texts]
    acts = [np.concatenate([each.encode(rows) for rows in x]) for each in (one, other)]
    assert len(acts[0]) == found.n_tokens
    for row in found.features:
        assert row.partner is not None and row.cosine is not None
        assert row.correlation is not None
        f, g = acts[0][:, row.feature], acts[1][:, row.partner]
        assert row.correlation == pytest.approx(np.corrcoef(f, g)[0, 1], abs=1e-3)
        u, v = one.w["W_dec"][row.feature], other.w["W_dec"][row.partner]
        assert row.cosine == pytest.approx(u @ v / np.linalg.norm(u) / np.linalg.norm(v), abs=1e-4)
        assert row.score == pytest.approx((row.cosine + row.correlation) / 2, abs=1e-3)
        assert row.n_tokens == (f > 0).sum() and row.partner_tokens == (g > 0).sum()
        assert row.low is not None and row.high is not None
        assert row.low <= row.correlation <= row.high


def test_features_that_fire_alike_everywhere_are_not_alike_by_rounding(gpt2: Family) -> None:
    """Far from zero, the mean of squares and the square of the mean agree in seven digits."""
    one, other = original(gpt2), original(gpt2, seed=7)

    def shifted(sae: SAE) -> SAE:
        return type(sae)(sae.cfg, sae.tensors() | {"b_enc": sae.tensors()["b_enc"] + 3e4})

    found = match_features(gpt2.model, shifted(one), shifted(other), texts_of(gpt2), k=D_SAE)
    assert found.chance < 0.7 and found.n_matched <= 0.1 * D_SAE
    assert all(abs(row.correlation or 0) <= 1 for row in found.features)


def test_features_that_are_asked_for_are_told_with_and_without_partner(gpt2: Family) -> None:
    sae = original(gpt2)
    copy = shuffled(sae, 0.1, n_new=30)
    gone, kept = int(ORDER[0]), int(ORDER[60])
    found = match_features(gpt2.model, sae, copy, texts_of(gpt2), features=[gone, kept])
    without, partnered = found.features
    assert (without.feature, without.partner) == (gone, None) and without.score is not None
    assert (partnered.feature, partnered.partner) == (kept, 60)


def test_saes_of_another_width_are_matched_by_where_they_fire(gpt2: Family) -> None:
    sae, other = original(gpt2), make_sae(gpt2, "standard", layer=2)
    narrow = make_sae(gpt2, "hook_z") if gpt2.model.d_model != 32 else other
    found = match_features(gpt2.model, sae, narrow, texts_of(gpt2), k=3)
    assert all(row.n_tokens >= LEAST_TOKENS for row in found.features)


def test_an_sae_is_not_matched_with_itself(gpt2: Family) -> None:
    sae = original(gpt2)
    with pytest.raises(ArgumentError) as refused:
        match_features(gpt2.model, sae, sae)
    assert (refused.value.code, refused.value.field) == ("DUPLICATE_SAE", "match")


@pytest.mark.parametrize("seed", range(12))
def test_an_assignment_has_the_largest_sum_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    scores = rng.uniform(0.01, 1, size=(n, m)) * (rng.uniform(size=(n, m)) < 0.6)
    edges = [{j: float(s) for j, s in enumerate(row) if s} for row in scores]
    got = assign(edges, m)
    made = [(i, j) for i, j in enumerate(got) if j is not None]
    assert len({j for _, j in made}) == len(made) and all(scores[i, j] > 0 for i, j in made)
    padded = np.zeros((n, m + n))
    padded[:, :m] = scores
    best = max(
        sum(padded[i, j] for i, j in enumerate(columns))
        for columns in permutations(range(m + n), n)
    )
    assert sum(scores[i, j] for i, j in made) == pytest.approx(best)
