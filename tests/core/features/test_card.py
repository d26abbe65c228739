"""Cards: every field from its own source, whole as plain data, and nothing invented without an
index."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest
import torch
from tests.core.features.planted import WORDS

from saescope.errors import ArgumentError
from saescope.features import LabelStore, feature_briefs, feature_card, logit_effects
from saescope.features.index import FeatureIndex
from saescope.models import LanguageModel
from saescope.saes import SAE, StandardSAE

QUEEN = WORDS.index(" Queen")


def test_a_card_says_what_the_index_knows(
    glass: LanguageModel, planted: SAE, planted_index: FeatureIndex
) -> None:
    card = feature_card(glass, planted, QUEEN, index=planted_index, n_examples=6)
    row = planted_index.statistics(QUEEN)
    assert (card.density, card.n_fired, card.max_activation, card.mean_activation) == (
        row.density,
        row.n_fired,
        row.max,
        row.mean_firing,
    )
    assert (
        card.max_activation == pytest.approx(1, abs=1e-3)
        and sum(each.count for each in card.histogram) == card.n_fired
    )
    assert (
        card.corpus
        and card.corpus.n_tokens == planted_index.manifest.n_tokens
        and card.sae == planted.cfg.metadata.hook_name
    )
    assert len(card.examples) == 6 and card.warnings == []
    for example in card.examples:
        assert (
            example.token == " Queen" == example.tokens[example.pos]
            and example.activation == example.activations[example.pos]
        )
        fires = [token == " Queen" for token in example.tokens]
        assert [activation > 0 for activation in example.activations] == fires


def test_promoted_and_suppressed_tokens_are_the_ends_of_all_effects(
    glass: LanguageModel, planted: SAE
) -> None:
    card, effects = (
        feature_card(glass, planted, QUEEN),
        logit_effects(glass, planted, torch.tensor([QUEEN])),
    )
    assert effects is not None and len(card.promotes) == len(card.suppresses) == 10
    order = effects[0].argsort(descending=True).tolist()
    assert [row.id for row in card.promotes] == order[:10] and [
        row.id for row in card.suppresses
    ] == order[:-11:-1]
    assert card.promotes[0].token == " Queen" and card.promotes[0].effect == pytest.approx(
        float(effects[0].max())
    )
    assert "final norm's gain" in card.effects_through


def test_labels_come_best_first_and_with_neighbours(glass: LanguageModel, planted: SAE) -> None:
    store = LabelStore()
    store.add(planted.weights_hash, QUEEN, "queens", source="you")
    near = feature_card(glass, planted, QUEEN).neighbours[0].feature
    store.add(planted.weights_hash, near, "its neighbour", source="neuronpedia:x")
    card = feature_card(glass, planted, QUEEN)
    assert [(label.text, label.source, label.score, label.verdict) for label in card.labels] == [
        ("queens", "you", None, "not tested")
    ]
    label = card.neighbours[0].label
    assert label and (label.text, label.verdict) == ("its neighbour", "not tested")


def test_without_an_index_nothing_is_made_up(glass: LanguageModel, planted: SAE) -> None:
    card = feature_card(glass, planted, QUEEN)
    assert (card.density, card.n_fired, card.max_activation, card.mean_activation, card.corpus) == (
        None,
    ) * 5
    assert (
        card.examples == []
        and card.histogram == []
        and card.cofiring == []
        and "index_features" in card.warnings[0]
    )
    assert card.promotes and card.neighbours


def test_a_card_is_plain_data(
    glass: LanguageModel, planted: SAE, planted_index: FeatureIndex
) -> None:
    def parts(value: object) -> Iterator[object]:
        children = (
            value.values()
            if isinstance(value, dict)
            else value
            if isinstance(value, list | tuple)
            else []
        )
        yield value
        for child in children:
            yield from parts(child)

    document = asdict(feature_card(glass, planted, QUEEN, index=planted_index))
    assert json.loads(json.dumps(document)) == document
    assert not any(isinstance(part, torch.Tensor) for part in parts(document))


@pytest.mark.parametrize("feature", [-1, len(WORDS)])
def test_a_feature_that_is_not_there_is_refused(
    glass: LanguageModel, planted: SAE, feature: int
) -> None:
    with pytest.raises(ArgumentError) as caught:
        feature_card(glass, planted, feature)
    assert (
        caught.value.code == "FEATURE_OUT_OF_RANGE"
        and caught.value.allowed == f"0..{len(WORDS) - 1}"
    )


def test_the_address_on_neuronpedia_is_there_when_the_sae_has_one(
    glass: LanguageModel, planted: SAE
) -> None:
    assert feature_card(glass, planted, QUEEN).url == ""
    hosted = StandardSAE(
        replace(planted.cfg, metadata=replace(planted.cfg.metadata, neuronpedia_id="glass/0-res")),
        planted.tensors(),
    )
    assert (
        feature_card(glass, hosted, QUEEN).url == f"https://www.neuronpedia.org/glass/0-res/{QUEEN}"
    )


def test_relatives_are_named_by_the_token_that_they_fire_on_and_promote(
    glass: LanguageModel, planted: SAE, planted_index: FeatureIndex
) -> None:
    card = feature_card(glass, planted, QUEEN, index=planted_index)
    without = feature_card(glass, planted, QUEEN)
    assert card.neighbours and len(card.neighbours) == len(without.neighbours)
    for row, other in zip(card.neighbours, without.neighbours, strict=True):
        own = feature_card(glass, planted, row.feature)
        assert row.top_token == WORDS[row.feature] and other.top_token is None
        assert row.promoted == other.promoted == own.promotes[0].token


def test_short_cards_say_what_the_whole_ones_say(
    glass: LanguageModel, planted: SAE, planted_index: FeatureIndex
) -> None:
    LabelStore().add(planted.weights_hash, 2, "doors", source="you")
    briefs = feature_briefs(glass, planted, [2, QUEEN, 2], index=planted_index, n_examples=3)
    assert [brief.feature for brief in briefs] == [2, QUEEN]
    for brief in briefs:
        card = feature_card(glass, planted, brief.feature, index=planted_index, n_examples=3)
        assert (brief.density, brief.max_activation, brief.typical_activation) == (
            card.density,
            card.max_activation,
            card.typical_activation,
        )
        assert brief.examples == card.examples and len(brief.examples) == 3
        assert brief.promotes == [row.token for row in card.promotes[:4]]
        assert brief.top_tokens == [WORDS[brief.feature]]
    assert briefs[0].label and briefs[0].label.text == "doors" and briefs[1].label is None


def test_short_cards_without_an_index_have_what_the_decoder_tells(
    glass: LanguageModel, planted: SAE
) -> None:
    (brief,) = feature_briefs(glass, planted, [QUEEN])
    assert brief.promotes[0] == " Queen"
    assert (brief.density, brief.max_activation, brief.top_tokens, brief.examples) == (
        None,
        None,
        [],
        [],
    )
    with pytest.raises(ArgumentError) as caught:
        feature_briefs(glass, planted, [QUEEN, len(WORDS)])
    assert caught.value.code == "FEATURE_OUT_OF_RANGE" and caught.value.field == "features"
