"""Features by label, by the tokens that they write and by the texts that they fire on; neighbours:
all against whole matrices and loops."""

import math
import random

import numpy as np
import pytest
import torch
from tests.core.features.planted import WORDS, sentence
from tests.core.oracle import KINDS, Family, make_sae

from saescope.errors import ArgumentError
from saescope.features import (
    LabelStore,
    find_by_label,
    find_by_texts,
    logit_effects,
    nearest_features,
)
from saescope.features.index import FeatureIndex
from saescope.features.reading.search import token_scores
from saescope.hooks import record_activations
from saescope.models import LanguageModel
from saescope.saes import SAE

QUEEN = WORDS.index(" Queen")


def test_by_label_text_says_which_label_matched_and_that_it_is_untested() -> None:
    LabelStore().add_many("a", [(3, "queens and kings"), (5, "doors")], source="agent")
    found = find_by_label(LabelStore(), "a", "the queen")
    assert [(row.feature, row.why) for row in found.features] == [
        (3, "label: queens and kings (not tested)")
    ]
    assert found.total == 1 and "never tested" in found.warnings[0]
    assert find_by_label(LabelStore(), "a", "sea").features == []


@pytest.mark.parametrize("kind", ["standard", "hook_z", "skip_transcoder"])
def test_token_scores_are_those_of_the_whole_matrix_of_effects(family: Family, kind: str) -> None:
    if KINDS[kind].site not in family.hf.sites:
        pytest.skip("parallel blocks")
    sae, ids = make_sae(family, kind), [7, 300, 41]
    effects = logit_effects(family.model, sae, torch.arange(sae.cfg.d_sae))
    if effects is None:
        with pytest.raises(ArgumentError) as caught:
            token_scores(family.model, sae, ids)
        assert caught.value.code == "NO_LOGIT_EFFECTS"
        return
    dense = effects.double().numpy()
    expected = (dense - dense.mean(axis=1, keepdims=True)) / dense.std(axis=1, keepdims=True)
    assert np.allclose(token_scores(family.model, sae, ids).numpy(), expected[:, ids], atol=2e-3)


def test_by_texts_finds_what_fires_there_more_than_in_the_corpus(
    glass: LanguageModel, planted: SAE, planted_index: FeatureIndex
) -> None:
    rng = random.Random(0)
    texts = [
        glass.tokenize(sentence(rng, 20, [" Queen"], n=4) + " and", prepend_bos=True)
        for _ in range(3)
    ]
    found = find_by_texts(glass, planted, texts, index=planted_index)
    assert [row.feature for row in found.features] == [QUEEN, WORDS.index(" and")][
        : found.total
    ] and found.warnings == []
    n, fired, m = 75, 12, planted_index.manifest.n_tokens
    usual = (planted_index.statistics(QUEEN).n_fired + 0.5) / (m + 1)
    expected = fired * math.log(fired / n / usual) + (n - fired) * math.log(
        (1 - fired / n) / (1 - usual)
    )
    assert found.features[0].score == pytest.approx(expected, rel=1e-6)
    assert (
        found.features[0].why
        == f"fires on 12 of 75 tokens, {fired / n / usual:.3g} times as often as in the corpus"
    )


def test_by_texts_without_an_index_says_what_is_missing(glass: LanguageModel, planted: SAE) -> None:
    found = find_by_texts(
        glass, planted, [glass.tokenize(" Queen and Queen", prepend_bos=True)], index=None
    )
    assert [(row.feature, row.score) for row in found.features] == [
        (QUEEN, 2 / 3),
        (WORDS.index(" and"), 1 / 3),
    ]
    assert "index_features" in found.warnings[0]
    assert (
        find_by_texts(
            glass, planted, [glass.tokenize(" said that", prepend_bos=True)], index=None
        ).features
        == []
    )


def test_of_features_that_fire_equally_often_the_stronger_comes_first(
    glass: LanguageModel, planted: SAE
) -> None:
    text = glass.tokenize(" Queen and King", prepend_bos=True)
    rows = find_by_texts(glass, planted, [text], index=None).features
    hook_name = planted.cfg.metadata.hook_name
    x = record_activations(glass, text.ids[None], [hook_name])[hook_name][0]
    sums = planted.encode(x)[1:].sum(0).tolist()
    found = [row.feature for row in rows]
    assert len({row.score for row in rows}) < len(rows) == 3
    assert found == sorted(found, key=lambda feature: -sums[feature]) != sorted(found)


def test_neighbours_are_the_largest_cosines_of_all_pairs(gpt2: Family) -> None:
    sae = make_sae(gpt2, "standard")
    rows = sae.W_dec.double().numpy()
    for feature in (0, 5, len(rows) - 1):
        cosines = [
            float(row @ rows[feature] / np.linalg.norm(row) / np.linalg.norm(rows[feature]))
            for row in rows
        ]
        cosines[feature] = -math.inf
        best = np.argsort(cosines)[::-1][:4]
        found = nearest_features(sae, feature, 4)
        assert [row.feature for row in found] == best.tolist()
        assert [row.cosine for row in found] == pytest.approx([cosines[i] for i in best], abs=1e-5)


def test_a_dead_decoder_row_has_no_neighbours(gpt2: Family) -> None:
    sae = make_sae(gpt2, "standard")
    sae.decoder[3] = 0
    assert nearest_features(sae, 3) == [] and 3 not in [
        row.feature for row in nearest_features(sae, 4, 3)
    ]
