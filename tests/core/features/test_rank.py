"""Ranked features and what they promote, against NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.core.features.test_encode import counted_by_hand, numpy_of, tokens_of
from tests.core.oracle import KINDS, LAYER, Array, Family, NumpySAE, as_array, close, make_sae

from saescope.errors import ArgumentError
from saescope.features import logit_effects, promoted_tokens, rank_features
from saescope.features.index import FeatureIndex
from saescope.models import LanguageModel, Tokens
from saescope.records.features import TextToken
from saescope.saes import SAE

AGAINST = "Once upon a time there was a dog"


def acts_of(family: Family, sae: SAE, texts: list[Tokens]) -> Array:
    """Activations with everything that does not count set to zero, texts one after another."""
    return np.concatenate(
        [numpy_of(family, sae, tokens)[0] * counted_by_hand(tokens)[:, None] for tokens in texts]
    )


@pytest.mark.parametrize("rank_by", ["max", "mean", "count"])
def test_the_order_and_the_numbers_are_numpys(family: Family, rank_by: str) -> None:
    sae, texts = make_sae(family, "standard"), tokens_of(family)
    acts = acts_of(family, sae, texts)
    n = int(sum(counted_by_hand(tokens).sum() for tokens in texts))
    mean, count = acts.sum(axis=0) / n, (acts > 0).sum(axis=0)
    scores = {"max": acts.max(axis=0), "mean": mean, "count": count.astype(float)}[rank_by]
    firing = np.flatnonzero(count)
    ranking = rank_features(family.model, sae, texts, rank_by=rank_by, k=100)
    assert (
        ranking.total == len(firing) == len(ranking.features)
        and ranking.n_tokens == n
        and ranking.n_left_out == 3
    )
    found = [feature.feature for feature in ranking.features]
    assert sorted(found) == firing.tolist()
    close([feature.score for feature in ranking.features], np.sort(scores[firing])[::-1])
    close([feature.score for feature in ranking.features], scores[found])
    close([feature.max_activation for feature in ranking.features], acts.max(axis=0)[found])
    close([feature.mean_activation for feature in ranking.features], mean[found])
    assert [feature.n_tokens for feature in ranking.features] == count[found].tolist()
    close([feature.share for feature in ranking.features], count[found] / n)


def test_one_text_beside_one_other_is_ranked_by_the_difference_of_activation(
    family: Family,
) -> None:
    sae, texts = make_sae(family, "standard"), tokens_of(family)
    other = family.model.tokenize(AGAINST, prepend_bos=True)
    here, there = (acts_of(family, sae, [tokens]).max(axis=0) for tokens in (texts[0], other))
    rise = here - there
    found = rank_features(family.model, sae, texts[:1], against=[other], rank_by="contrast", k=100)
    assert found.total == len(found.features) == int((rise > 1e-6).sum()) > 0
    features = [row.feature for row in found.features]
    close([row.score for row in found.features], np.sort(rise)[::-1][: found.total])
    close([row.score for row in found.features], rise[features])
    levels = [row.levels for row in found.features]
    assert all(levels)
    close([each[0].mean for each in levels if each], here[features])
    close([each[1].mean for each in levels if each], there[features])
    assert "difference" in found.score_is and {r.confirmed for r in found.features} == {None}


def test_an_index_gives_the_density_in_its_corpus(
    glass: LanguageModel, planted: SAE, planted_index: FeatureIndex
) -> None:
    texts = [glass.tokenize("The child said that and the King and the Queen", prepend_bos=True)]
    for index in (planted_index, [planted_index]):
        for row in rank_features(glass, planted, texts, index=index).features:
            assert row.density == planted_index.density(row.feature) > 0
    assert {row.density for row in rank_features(glass, planted, texts).features} == {None}


def test_the_top_token_is_where_the_feature_fires_most(family: Family) -> None:
    sae, texts = make_sae(family, "standard"), tokens_of(family)
    acts = acts_of(family, sae, texts)
    for feature in rank_features(family.model, sae, texts, k=100).features:
        row = int(acts[:, feature.feature].argmax())
        text_index, pos = (0, row) if row < len(texts[0]) else (1, row - len(texts[0]))
        assert feature.top_token == TextToken(text_index, pos, texts[text_index].strings[pos])


def test_pages_are_the_whole_in_parts(gpt2: Family) -> None:
    sae, texts = make_sae(gpt2, "standard"), tokens_of(gpt2)
    whole = rank_features(gpt2.model, sae, texts, k=100)
    pages = [
        rank_features(gpt2.model, sae, texts, k=4, offset=offset)
        for offset in range(0, whole.total, 4)
    ]
    assert [feature for page in pages for feature in page.features] == whole.features
    assert rank_features(gpt2.model, sae, texts, offset=1000).features == []


@pytest.mark.parametrize("against", [True, False])
@pytest.mark.parametrize("rank_by", ["max", "contrast", "best"])
def test_contrast_goes_with_texts_to_contrast(gpt2: Family, rank_by: str, against: bool) -> None:
    sae, texts = make_sae(gpt2, "standard"), tokens_of(gpt2)
    others = [gpt2.model.tokenize(AGAINST, prepend_bos=True)]
    options: dict[str, Any] = {"rank_by": rank_by, "against": others if against else []}
    if rank_by != "best" and (rank_by == "contrast") == against:
        assert rank_features(gpt2.model, sae, texts, **options).total > 0
        return
    with pytest.raises(ArgumentError) as caught:
        rank_features(gpt2.model, sae, texts, **options)
    assert caught.value.code == "INVALID_CHOICE" and caught.value.field == "rank_by"


def test_special_positions_alone_leave_an_empty_list(gpt2: Family) -> None:
    ranking = rank_features(
        gpt2.model, make_sae(gpt2, "standard"), [gpt2.model.tokenize("<eos>", prepend_bos=True)]
    )
    assert ranking.features == [] and (ranking.total, ranking.n_tokens, ranking.n_left_out) == (
        0,
        0,
        2,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_promoted_tokens_are_those_whose_logits_the_decoder_row_raises(
    family: Family, kind: str
) -> None:
    if KINDS[kind].site not in family.hf.sites:
        pytest.skip("parallel blocks")
    sae = make_sae(family, kind)
    found = promoted_tokens(family.model, sae, [3, 11], 5)
    if kind == "hook_z" and family.name.startswith("gemma"):
        assert found == [[], []]  # a norm lies between: no linear write
        return
    rows = NumpySAE(sae).rows()[[3, 11]]
    if kind == "hook_z":
        weight = as_array(family.hf.module(f"blocks.{LAYER}.attn.hook_z").weight)
        rows = rows @ (weight if family.name == "gpt2" else weight.T)
    if family.hf.is_layer_norm:
        rows = rows - rows.mean(axis=1, keepdims=True)
    effects = (rows * family.hf.gain()) @ as_array(family.hf.unembed.weight).T
    top = np.argsort(-effects, axis=1)[:, :5]
    assert found == [[family.model.token_text(int(i)) for i in row] for row in top]
    told = logit_effects(family.model, sae, torch.tensor([3, 11]))
    assert told is not None
    close(as_array(told), effects - effects.mean(axis=1, keepdims=True), 1e-4)


def test_what_raises_all_logits_alike_is_no_effect(gpt2: Family) -> None:
    """A direction that lifts every logit as much as it can."""
    sae, readout = make_sae(gpt2, "standard"), gpt2.model.readout
    W_U = readout.W_U.double() * readout.gain.double()[:, None]
    lift = torch.linalg.lstsq(W_U.T, torch.ones(W_U.shape[1], 1).double()).solution[:, 0]
    rows = sae.W_dec.clone()
    rows[3] = lift - lift.mean()
    lifting = type(sae)(sae.cfg, sae.tensors() | {"W_dec": rows})
    raw, told = (
        readout.logit_effects(rows[3:4]),
        logit_effects(gpt2.model, lifting, torch.tensor([3])),
    )
    assert told is not None and float(told.double().mean()) == pytest.approx(0, abs=1e-6)
    assert float(raw.mean()) > 0.01
    close(as_array(told), as_array(raw - raw.mean()), 1e-3)
