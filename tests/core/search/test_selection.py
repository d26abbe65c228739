"""Choosing a feature: planted truth, decoys that fire and write nothing, writers that never fire,
a concept spread over several features, and concepts that no feature has."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tests.core.features.planted import FILLERS, WORDS, planted_sae, sentence

from saescope.errors import ArgumentError
from saescope.features.reading.text_scores import score_texts
from saescope.hooks import record_activations
from saescope.models import LanguageModel, Tokens
from saescope.records.search import Selection
from saescope.saes import SAE, SAEMetadata, StandardConfig, StandardSAE
from saescope.search import select_features
from saescope.search.bench import CausalBench
from saescope.search.concept import ConceptTexts
from saescope.search.text_bench import TextBench
from saescope.steering.units import IndexedActivations
from saescope.verdicts import Choice

TRUE, DECOY, SILENT, N_ALL = 0, 12, 13, 90
PROMPTS = ("They said that", "Here is the", "It was a", "And then we", "She took the")


def aim(sae: SAE, model: LanguageModel, word: str) -> torch.Tensor:
    """The direction at the site that raises a word most, through all layers."""
    concept = ConceptTexts.of(model, [word], over=[], metric="logprob")
    prompts = [model.tokenize(text, prepend_bos=True) for text in PROMPTS]
    bench = CausalBench.of(model, sae, concept, prompts, fired=(None, None), draw=(1, 0))
    return (bench.gradient / bench.gradient.norm()).float()


def world(model: LanguageModel, *, seed: int = 0, true: bool = True, silent: bool = True) -> SAE:
    """Features of words, a decoy that fires as the first one does and writes nothing, a writer
    that never fires, and random ones."""
    small, rng = planted_sae(model), torch.Generator().manual_seed(seed)
    n_more = N_ALL - len(WORDS)
    size = float(small.W_dec.norm(dim=1).mean())
    W_dec = torch.cat([small.W_dec, torch.randn(n_more, model.d_model, generator=rng)])
    W_dec[len(WORDS) :] *= size / model.d_model**0.5
    W_enc = torch.cat([small.W_enc.T, torch.randn(n_more, model.d_model, generator=rng)]).T.clone()
    b_enc = torch.cat([small.get_buffer("b_enc"), torch.full((n_more,), -3.0)])
    W_enc[:, DECOY], b_enc[DECOY] = W_enc[:, TRUE], b_enc[TRUE]
    b_enc[SILENT] = -1e6
    for i, word in enumerate(WORDS[:4]):
        W_dec[i] = size * aim(small, model, word)
    if silent:
        W_dec[SILENT] = W_dec[TRUE]
    if not true:
        W_dec[TRUE] = W_dec[N_ALL - 1]
    cfg = replace(small.cfg, d_sae=N_ALL)
    tensors = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": torch.zeros(model.d_model)}
    return StandardSAE(cfg, tensors)  # pyright: ignore[reportArgumentType]


def tokens_of(model: LanguageModel, texts: Sequence[str]) -> list[Tokens]:
    return [model.tokenize(text, prepend_bos=True) for text in texts]


def sides(
    model: LanguageModel, words: Sequence[str] = (" Queen",), n: int = 12, n_wide: int = 0
) -> tuple[list[Tokens], list[Tokens]]:
    """Texts with these words, and texts with others; `n_wide` of the latter have these too."""
    rng = random.Random(0)
    ours = [sentence(rng, 8, words, n=9 if len(words) > 1 else 1) for _ in range(n)]
    theirs = [sentence(rng, 8, words if i < n_wide else [" voice", " eyes"]) for i in range(2 * n)]
    one, other = (
        [model.tokenize(text, prepend_bos=True) for text in each] for each in (ours, theirs)
    )
    return one, other


def chosen(
    model: LanguageModel,
    sae: SAE,
    causes: Sequence[str],
    words: Sequence[str] = (" Queen",),
    *,
    n_wide: int = 0,
) -> Selection:
    texts, against = sides(model, words, n_wide=n_wide)
    typical = torch.ones(N_ALL)
    typical[SILENT] = 0
    prompts = [model.tokenize(text, prepend_bos=True) for text in PROMPTS]
    known = IndexedActivations(typical, typical, "a corpus")
    return select_features(
        model, sae, texts, against=against, causes=causes, prompts=prompts, indexed=known, k=30
    )


def test_the_feature_that_fires_and_writes_is_chosen_and_each_other_says_why_not(
    glass: LanguageModel,
) -> None:
    done = chosen(glass, world(glass), [" Queen"])
    assert done.features[0].feature == TRUE and done.choice.verdict == Choice.ONE
    assert done.features[0].lost is None and "fires on the concept" in done.why
    rows = {row.feature: row for row in done.features}
    assert rows[DECOY].separates and not rows[DECOY].causes
    assert rows[DECOY].auc == pytest.approx(rows[TRUE].auc, abs=0.02)
    assert "does not clearly write it" in (rows[DECOY].lost or "")
    assert rows[SILENT].causes and not rows[SILENT].separates
    assert "never fires" in (rows[SILENT].lost or "")
    assert done.features[1].feature == SILENT, "what a push shows counts for more than the texts"
    assert rows[TRUE].perplexity
    assert any("give texts away" in fault and "' Queen'" in fault for fault in done.choice.faults)


@pytest.mark.parametrize(("n_wide", "verdict"), [(1, Choice.ONE), (4, Choice.NONE)])
def test_what_fires_on_more_than_the_concept_is_not_good_enough(
    glass: LanguageModel, n_wide: int, verdict: Choice
) -> None:
    """Of 24 hard negatives and neutral texts one may be a slip, four are not."""
    done = chosen(glass, world(glass), [" Queen"], n_wide=n_wide)
    first = done.features[0]
    assert first.feature == TRUE and first.causes and first.separates and first.also_on == n_wide
    assert done.choice.verdict == verdict and first.clean is (verdict == Choice.ONE)
    assert first.auc == pytest.approx(1 - n_wide / 48, abs=0.03)
    assert ("of 24 of against" in done.why) is (verdict == Choice.NONE)


@pytest.mark.parametrize("seed", range(4))
def test_where_no_feature_does_both_none_is_good_enough(glass: LanguageModel, seed: int) -> None:
    """The decoys fire on the concept; what would write it is absent, or silent."""
    sae = world(glass, seed=seed + 1, true=False, silent=seed % 2 == 1)
    done = chosen(glass, sae, [" Queen"])
    assert done.choice.verdict == Choice.NONE and "no feature both" in done.why
    assert not any(row.causes and row.separates for row in done.features)


@pytest.mark.slow
def test_of_texts_without_a_difference_hardly_a_feature_that_they_chose_separates(
    glass: LanguageModel,
) -> None:
    """The best of thousands tell any two halves apart: all texts judge only what they did not
    choose."""
    small, rng = planted_sae(glass), torch.Generator().manual_seed(0)
    W_enc = torch.randn(glass.d_model, 3000, generator=rng) / glass.d_model**0.5
    rows = {"W_dec": W_enc.T.clone(), "b_dec": torch.zeros(glass.d_model)}
    tensors = {"W_enc": W_enc, "b_enc": torch.zeros(3000), **rows}
    cfg = replace(small.cfg, d_sae=3000)
    wide = StandardSAE(cfg, tensors)  # pyright: ignore[reportArgumentType]
    n_chosen = n_separating = n_best = 0
    for seed in range(6):
        draws = random.Random(seed)
        alike = tokens_of(glass, [sentence(draws, 8) for _ in range(24)])
        bench = TextBench.of(glass, wide, alike[:12], alike[12:], seed=seed)
        columns = {i: bench.column(i) for i in bench.by_texts}
        judged = [bench.separates(each, i, by_texts=True) for i, each in columns.items()]
        n_chosen, n_separating = n_chosen + len(judged), n_separating + sum(j.clear for j in judged)
        n_best += sum(bench.separates(c, i, by_texts=False).clear for i, c in columns.items())
    assert n_chosen >= 20 and n_separating <= 2
    assert n_best > 2 * n_separating, "judged by all texts, more of them would pass"


def parts(model: LanguageModel, words: Sequence[str], *, beside: float = 4.0) -> SAE:
    """At the last layer: a feature for each word, which writes that word and, `beside` times as
    much, something else, and fires where the texts of all of them differ from the others. Together
    what else they write cancels."""
    hook, (texts, against) = "blocks.3.hook_resid_post", sides(model, words)
    means = [
        torch.cat(
            [record_activations(model, model.batch(t.ids), [hook])[hook][0, 1:] for t in side]
        )
        for side in (texts, against)
    ]
    apart = means[0].mean(0) - means[1].mean(0)
    W_U = (model.readout.W_U.double() * model.readout.gain.double()[:, None]).float()
    rows = 0.1 * torch.randn(N_ALL, model.d_model, generator=torch.Generator().manual_seed(0))
    rows *= W_U.norm(dim=0).mean() / rows.norm(dim=1, keepdim=True)
    own = [model.single_token(word) for word in words]
    rows[: len(words)] = W_U[:, own].T - W_U.mean(1)
    else_too = torch.randn(len(words), model.d_model, generator=torch.Generator().manual_seed(1))
    else_too -= else_too.mean(0)
    else_too *= beside * W_U.norm(dim=0).mean() / else_too.norm(dim=1, keepdim=True)
    rows[: len(words)] += else_too
    b_enc = torch.full((N_ALL,), -1e6)
    b_enc[: len(words)] = -float((means[1] @ apart).quantile(0.99))
    meta = SAEMetadata(model_name=model.name, hook_name=hook, prepend_bos=True)
    cfg = StandardConfig(d_in=model.d_model, d_sae=N_ALL, metadata=meta, apply_b_dec_to_input=False)
    tensors = {
        "W_enc": apart[:, None].repeat(1, N_ALL),
        "b_enc": b_enc,
        "W_dec": rows,
        "b_dec": torch.zeros(model.d_model),
    }
    return StandardSAE(cfg, tensors)


def test_features_whose_other_effects_cancel_are_a_group(glass: LanguageModel) -> None:
    """Each of three features fires on the texts and writes one word of the concept beside much
    that the others take away."""
    words = [" Queen", " door", " child"]
    done = chosen(glass, parts(glass, words), words, words)
    group = done.choice.group
    assert done.choice.verdict == Choice.GROUP and group is not None, done.why
    assert {*group.features} == {0, 1, 2} and group.causes and group.clean
    best = max(row.effect for row in done.features)
    assert group.effect >= 1.25 * best and len(group.strengths) == 3


def test_of_features_that_each_write_a_word_and_nothing_else_one_is_enough(
    glass: LanguageModel,
) -> None:
    """The concept is any of its words: pushing three at once does little more at the same KL."""
    words = [" Queen", " door", " child"]
    done = chosen(glass, parts(glass, words, beside=0.0), words, words)
    assert done.choice.verdict == Choice.ONE and done.choice.group is None, done.why
    assert done.features[0].feature in (0, 1, 2)


def test_a_text_counts_as_one_that_a_feature_is_also_on_from_half_its_usual_strength(
    glass: LanguageModel,
) -> None:
    texts, against = sides(glass)
    bench = TextBench.of(glass, world(glass), texts, against, seed=0)
    usual = torch.linspace(1, 3, len(texts)).double()  # the median is 2
    for strength, n in ((0.9, 0), (1.1, len(against))):
        column = torch.cat([usual, torch.full((len(against),), strength).double()])
        assert bench.separates(column, None, by_texts=False).also_on == n
    one = torch.cat([usual, torch.zeros(len(against)).double()])
    one[-1] = 1.1
    assert bench.separates(one, None, by_texts=False).keeps_off
    one[-3:] = 1.1
    assert not bench.separates(one, None, by_texts=False).keeps_off


def test_a_text_scores_the_mean_of_its_three_largest_activations(glass: LanguageModel) -> None:
    sae = world(glass)
    texts = sides(glass)[0][:3]
    scores = score_texts(glass, sae, texts, by="top3")
    from saescope.splice import read_site

    for row, tokens in zip(scores.scores, texts, strict=True):
        acts = read_site(glass, sae, glass.batch(tokens.ids)).acts.to_dense()
        counted = acts[1:][:, scores.features]
        expected = counted.topk(3, dim=0).values.mean(0)
        assert row.tolist() == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-5)


def test_faults_of_the_texts_are_said(glass: LanguageModel) -> None:
    rng = random.Random(1)
    long = [glass.tokenize(sentence(rng, 14, [" Queen"]), prepend_bos=True) for _ in range(9)]
    other = [" hand", " room", " question", " herself", " himself"]
    short = [
        glass.tokenize("".join(rng.choice(other) for _ in range(4)), prepend_bos=True)
        for _ in range(9)
    ]
    assert not {*other} & {*FILLERS}
    sae = world(glass)
    asked = {"against": short, "causes": [" Queen"], "prompts": long[:1]}
    done = select_features(glass, sae, long, **asked)  # pyright: ignore[reportArgumentType]
    said = " ".join(done.choice.faults)
    assert "texts are longer than against" in said and "speaks of other things" in said
    assert "Few texts (9 and" in said
    with pytest.raises(ArgumentError) as caught:
        select_features(glass, sae, long[:1], **asked)  # pyright: ignore[reportArgumentType]
    assert caught.value.code == "TOO_FEW_TEXTS"
