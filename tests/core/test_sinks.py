"""Attention sinks are left out wherever special tokens are, by a rule that depends on nothing but
the position's own past."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.core.oracle import Family, as_array, make_sae

from saescope.activations import ContextConfig, Dataset
from saescope.activations.sources import TextSource
from saescope.attribution import attribute
from saescope.evals import check_sae, evaluate
from saescope.features import encode_texts, find_by_texts, rank_features
from saescope.features.index import index_features
from saescope.features.reading.text_scores import score_changes, score_texts
from saescope.hooks import edit_activations, record_activations
from saescope.models import LanguageModel, Tokens, load_model
from saescope.saes import SAE
from saescope.sinks import PROBE_TEXT, find_sinks, many_sinks, typical_norm
from saescope.splice import read_hook, read_site
from saescope.stack import as_stack
from saescope.steering import FeatureEdit, intervene, steer
from saescope.steering.edits import make_plan
from saescope.steering.generate import Cursor, steered_by

SINK, AT = 77, 5
"""A token whose embedding is a hundred times as long as it was, and where it stands."""


@pytest.fixture
def sinking(gpt2: Family) -> Family:
    """A model of which one token is a sink wherever it stands."""
    model = load_model(str(gpt2.folder), device="cpu")
    with torch.no_grad():
        model.bridge.original_model.get_input_embeddings().weight[SINK] *= 100
    return replace(gpt2, model=model)


def tokens_with(family: Family, *, sinks: tuple[int, ...] = (AT,), n: int = 12) -> Tokens:
    ids = torch.arange(40, 40 + n)
    ids[list(sinks)] = SINK
    return Tokens(ids, torch.zeros(n, dtype=torch.bool), tuple(map(str, ids.tolist())), False)


@pytest.fixture
def sae(gpt2: Family) -> SAE:
    return make_sae(gpt2, "standard")


def test_the_typical_norm_is_the_probe_texts_median(gpt2: Family) -> None:
    tokens = gpt2.model.tokenize(PROBE_TEXT, limit=gpt2.model.n_ctx)
    x = as_array(
        gpt2.hf.record(tokens.ids[None], ["blocks.1.hook_resid_pre"])["blocks.1.hook_resid_pre"]
    )
    counted = ~tokens.special.numpy() & (np.arange(len(tokens)) > 0)
    norms = np.sort(np.linalg.norm(x[0], axis=1)[counted])
    expected = norms[(len(norms) - 1) // 2]
    assert typical_norm(gpt2.model, "blocks.1.hook_resid_pre") == pytest.approx(expected, rel=1e-4)


def test_the_typical_norm_of_an_edited_model_is_not_kept(gpt2: Family) -> None:
    model, hook = gpt2.model, "blocks.0.hook_mlp_out"
    model.typical_norms.pop(hook, None)
    with edit_activations(model, {hook: torch.zeros_like}):
        assert typical_norm(model, hook) == 0
    assert typical_norm(model, hook) > 0


def test_a_position_is_a_sink_by_its_own_past_alone(sinking: Family, sae: SAE) -> None:
    hook, tokens = read_hook(sae), tokens_with(sinking)
    alone = record_activations(sinking.model, tokens.ids[None], [hook])
    assert find_sinks(sinking.model, alone)[0].nonzero().flatten().tolist() == [AT]
    short = record_activations(sinking.model, tokens.ids[None, : AT + 1], [hook])
    assert find_sinks(sinking.model, short)[0].nonzero().flatten().tolist() == [AT]
    rows = torch.stack([tokens_with(sinking, sinks=tuple(range(12))).ids, tokens.ids])
    batch = record_activations(sinking.model, rows, [hook])
    assert find_sinks(sinking.model, batch)[1].nonzero().flatten().tolist() == [AT]


def test_maxima_means_and_lists_leave_it_out_unless_it_is_named(sinking: Family, sae: SAE) -> None:
    model, tokens = sinking.model, tokens_with(sinking)
    acts = read_site(model, sae, tokens.ids[None]).acts.to_dense()
    kept = [pos for pos in range(1, 12) if pos != AT]
    encoded = encode_texts(model, sae, [tokens])
    assert encoded.texts[0].counted.nonzero().flatten().tolist() == kept
    assert (encoded.n_tokens, encoded.n_left_out, encoded.n_sinks) == (10, 2, 1)
    ranking = rank_features(model, sae, [tokens], k=48)
    assert ranking.n_sinks == 1 and ranking.features
    for row in ranking.features:
        assert row.max_activation == pytest.approx(float(acts[kept, row.feature].max()), rel=1e-5)
        assert row.top_token.pos != AT
    assert encode_texts(model, sae, [tokens], positions=[AT]).n_tokens == 1
    whole = encode_texts(model, sae, [tokens], include_special=True)
    assert (whole.n_tokens, whole.n_sinks) == (12, 0)


def test_text_scores_and_searches_leave_it_out(sinking: Family, sae: SAE) -> None:
    model, texts = sinking.model, [tokens_with(sinking), tokens_with(sinking, sinks=(3, 8))]
    acts = [read_site(model, sae, text.ids[None]).acts.to_dense() for text in texts]
    kept = [[p for p in range(1, 12) if p != AT], [p for p in range(1, 12) if p not in (3, 8)]]
    scores = score_texts(model, sae, texts)
    assert scores.lengths.tolist() == [10, 9] and scores.n_sinks == 3 and scores.n_equal == 9
    for i in range(2):
        expected = acts[i][kept[i]].amax(0)[scores.features]
        torch.testing.assert_close(scores.scores[i], expected, rtol=1e-5, atol=1e-6)
        early = acts[i][kept[i][:9]].amax(0)[scores.features]
        torch.testing.assert_close(scores.equal_length[i], early, rtol=1e-5, atol=1e-6)
    found = find_by_texts(model, sae, texts, index=None)
    assert any("attention sinks" in warning for warning in found.warnings)


def test_two_models_are_compared_at_the_positions_that_count_in_both(
    gpt2: Family, sinking: Family, sae: SAE
) -> None:
    """The token is a sink in one of them alone."""
    texts = [tokens_with(sinking), tokens_with(sinking, sinks=(3, 8))]
    kept = [[p for p in range(1, 12) if p != AT], [p for p in range(1, 12) if p not in (3, 8)]]
    for one, other in ((sinking.model, gpt2.model), (gpt2.model, sinking.model)):
        found = score_changes(one, other, sae, texts)
        assert (found.n_sinks, found.n_equal, found.lengths.tolist()) == (3, 9, [10, 9])
        for i, text in enumerate(texts):
            here, there = (
                read_site(model, sae, text.ids[None]).acts.to_dense()[kept[i]]
                for model in (one, other)
            )
            expected = (here.amax(0) - there.amax(0))[found.features]
            torch.testing.assert_close(found.scores[i], expected, rtol=1e-5, atol=1e-6)
            early = (here[:9].amax(0) - there[:9].amax(0))[found.features]
            torch.testing.assert_close(found.equal_length[i], early, rtol=1e-5, atol=1e-6)


def test_sinks_of_the_texts_that_a_ranking_compares_with_are_said(
    sinking: Family, sae: SAE
) -> None:
    clean, sunk = tokens_with(sinking, sinks=()), tokens_with(sinking, sinks=(3, 8))
    found = rank_features(sinking.model, sae, [clean], against=[sunk], rank_by="contrast")
    assert found.n_sinks == 0
    assert [warning for warning in found.warnings if warning.startswith("`against`: 2 of 11 ")]


def test_edits_units_and_attributions_leave_it_out(sinking: Family, sae: SAE) -> None:
    model, tokens = sinking.model, tokens_with(sinking)
    acts = read_site(model, sae, tokens.ids[None]).acts.to_dense()
    kept = [pos for pos in range(1, 12) if pos != AT]
    feature = int((acts[AT] - acts[kept].amax(0) * (acts[kept].amax(0) > 0)).argmax())
    edited = intervene(model, sae, tokens, [FeatureEdit(feature, 1.0)], n_controls=0)
    assert (edited.n_tokens, edited.n_left_out, edited.n_sinks) == (10, 2, 1)
    assert any("attention sinks" in warning for warning in edited.warnings)
    assert edited.unit_values[0] < float(acts[AT, feature])
    named = intervene(model, sae, tokens, [FeatureEdit(feature, 1.0, positions=(AT,))])
    assert (named.n_tokens, named.n_sinks) == (1, 0)
    found = attribute(model, sae, tokens, k=200, n_controls=0, validate=False)
    assert found.n_sinks == 1 and {row.pos for row in found.features} <= set(kept)
    assert attribute(model, sae, tokens, validate=False, include_special=True).n_sinks == 0
    steered = steer(model, sae, tokens, [FeatureEdit(feature)], max_new_tokens=3, n_controls=1)
    assert (steered.n_left_out, steered.n_sinks) == (2, 1)


def test_a_generated_sink_is_not_edited_while_its_neighbours_are(sinking: Family, sae: SAE) -> None:
    model, hook = sinking.model, read_hook(sae)
    ids = tokens_with(sinking, sinks=(AT, 9)).ids[None]
    mask = torch.ones(1, 7, dtype=torch.bool)  # a prompt of seven tokens, the sink among them named
    plan = make_plan(sae, [FeatureEdit(4, 1.0)], [1.0], mask)
    seen: list[torch.Tensor] = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return x

    with edit_activations(model, {hook: keep}):
        model.forward(ids)
    with (
        steered_by(
            as_stack(model, sae), [{0: plan}], Cursor(torch.ones_like(ids, dtype=torch.bool))
        ),
        edit_activations(model, {hook: keep}),
    ):
        model.forward(ids)
    changed = (seen[1] - seen[0])[0].norm(dim=1) > 1e-6
    assert changed.nonzero().flatten().tolist() == [*range(7), 7, 8, 10, 11]


def documents() -> Iterator[str]:
    return iter(f"The cat number {i} sat on mat {i % 7} and saw {i * i} birds." for i in range(300))


def test_training_evaluation_and_index_leave_it_out(sinking: Family, sae: SAE) -> None:
    model, data = sinking.model, Dataset("cats", "print", documents)
    common = model.tokenizer.hf(" cat", add_special_tokens=False).input_ids[0]
    with torch.no_grad():
        model.bridge.original_model.get_input_embeddings().weight[common] *= 100
    hook = read_hook(sae)
    source = TextSource(model, [hook], data, ContextConfig(context_size=16))
    limit = 10 * typical_norm(model, hook)
    rows = source.next_rows()[hook]
    assert float(rows.norm(dim=1).max()) <= limit
    model.sink_factor = 0
    every = TextSource(model, [hook], data, ContextConfig(context_size=16)).next_rows()[hook]
    beyond = every.norm(dim=1) > limit
    assert bool(beyond.any()) and torch.equal(every[~beyond], rows)
    loud = index_features(model, sae, data, n_tokens=2000, context_size=16)
    model.sink_factor = 10.0
    index = index_features(model, sae, data, n_tokens=2000, context_size=16)
    assert index.manifest.n_sinks > 0 and loud.manifest.n_sinks == 0
    assert index.manifest.n_tokens + index.manifest.n_sinks == loud.manifest.n_tokens
    assert float(index.maxima.max()) < float(loud.maxima.max())
    found = evaluate(model, sae, data, n_tokens=500, baselines=False)
    assert found.n_sinks > 0 and any("attention sinks" in warning for warning in found.warnings)
    contexts = torch.tensor([[40, 41, common, 43, 44, 45]])
    kept = evaluate(model, sae, contexts, baselines=False)
    site = read_site(model, sae, contexts)
    assert (kept.n_tokens, kept.n_sinks) == (4, 1)
    assert kept.l0 == pytest.approx(float(site.acts.l0[[1, 3, 4, 5]].double().mean()))
    assert evaluate(model, sae, contexts, baselines=False, include_special=True).n_sinks == 0


def test_a_text_without_sinks_has_the_same_bits_as_with_the_rule_off(
    gpt2: Family, sae: SAE
) -> None:
    model = load_model(str(gpt2.folder), device="cpu")
    tokens = tokens_with(gpt2, sinks=())

    def numbers() -> list[object]:
        ranked = rank_features(model, sae, [tokens])
        edited = intervene(model, sae, tokens, [FeatureEdit(1, 2.0)])
        check = check_sae(model, sae)
        return [ranked, edited, attribute(model, sae, tokens), check.ce_score, check.l0]

    with_rule = numbers()
    model.sink_factor = 0
    assert numbers() == with_rule


def test_many_sinks_are_worth_a_warning_and_few_are_not() -> None:
    assert many_sinks(0, 0) == many_sinks(0, 10) == many_sinks(1, 99) == []
    assert "2 of 100 positions (2%)" in many_sinks(2, 98)[0]


@pytest.mark.model
def test_smollm2s_second_position_is_a_sink_after_some_words(
    smollm: LanguageModel, embedded_sae: SAE
) -> None:
    tokens = smollm.tokenize(" Let it be said that the keeper saw the ships.")
    assert tokens.strings[:2] == (" Let", " it")
    site = read_site(smollm, embedded_sae, tokens.ids[None])
    norms = site.x.norm(dim=1)
    assert float(norms[1]) > 10_000 > 1000 > float(norms[2:].max())
    encoded = encode_texts(smollm, embedded_sae, [tokens])
    assert encoded.n_sinks == 1 and not bool(encoded.texts[0].counted[1])
    short = smollm.tokenize(" Let it")
    sinks = read_site(smollm, embedded_sae, short.ids[None]).sinks
    assert sinks is not None and bool(sinks[1])
