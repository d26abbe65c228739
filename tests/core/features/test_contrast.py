"""Contrast: a planted difference is found, nothing is found where there is none, and what length
explains is said."""

import random
import threading
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.core.features.planted import FILLERS, WORDS, corpus, planted_sae, sentence
from tests.core.oracle import Family, make_sae
from torch import Tensor

from saescope.cancel import cancellable
from saescope.errors import ArgumentError, Cancelled
from saescope.features import contrast_models, contrast_texts, rank_features
from saescope.features.contrast.alike import counterparts
from saescope.features.contrast.baselines import PENALTIES, probe_auc
from saescope.features.contrast.contrast import contrast_scores
from saescope.features.contrast.designs import Groups, PairedTexts
from saescope.features.contrast.sets import groups_of
from saescope.features.reading.text_scores import TextScores, score_texts
from saescope.metrics import average_ranks
from saescope.models import LanguageModel, Tokens
from saescope.records.features import SideLevel

QUEEN, AND = WORDS.index(" Queen"), WORDS.index(" and")


def tokens_of(model: LanguageModel, texts: list[str]) -> list[Tokens]:
    return [model.tokenize(text, prepend_bos=True) for text in texts]


def made_up(n1: int, n2: int, n_features: int, *, seed: int) -> tuple[TextScores, Tensor]:
    """Scores like those of features that fire in some texts, with no difference between the
    sets."""
    rng = torch.Generator().manual_seed(seed)
    share = 0.05 + 0.9 * torch.rand(n_features, generator=rng) ** 2
    common = torch.rand(n1 + n2, 1, generator=rng)  # features of one text go together
    scores = torch.randn(n1 + n2, n_features, generator=rng).exp() * (
        common / 2 + torch.rand(n1 + n2, n_features, generator=rng) / 2 < share
    )
    lengths = torch.full((n1 + n2,), 20, dtype=torch.float64)
    return TextScores(
        torch.arange(n_features), scores, scores, 20, lengths, torch.zeros(n_features).double()
    ), torch.arange(n1 + n2) < n1


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[str]]:
    """Sets of equal lengths; one has the word Queen once in each text."""
    rng = random.Random(0)
    with_it = [sentence(rng, 24, [" Queen"]) + rng.choice(WORDS[1:]) for _ in range(16)]
    return with_it, [sentence(rng, 25) + rng.choice(WORDS[1:]) for _ in range(16)]


def test_scores_of_texts_are_maxima_and_means_over_counted_tokens(glass: LanguageModel) -> None:
    sae, texts = (
        planted_sae(glass),
        tokens_of(glass, [" Queen said door", " said that this look King"]),
    )
    for by in ("max", "mean"):
        found = score_texts(glass, sae, texts, by=by)
        assert found.features.tolist() == [
            WORDS.index(" Queen"),
            WORDS.index(" King"),
            WORDS.index(" door"),
        ]
        assert found.lengths.tolist() == [3, 5] and found.n_equal == 3
        n = [1, 1] if by == "max" else [3, 5]
        assert torch.allclose(
            found.scores, torch.tensor([[1 / n[0], 0, 1 / n[0]], [0, 1 / n[1], 0]]), atol=1e-3
        )
        assert found.equal_length[1].tolist() == [0, 0, 0]  # King is the fifth token


def test_the_correlation_with_position_is_numpys(glass: LanguageModel) -> None:
    sae, texts = (
        planted_sae(glass),
        tokens_of(glass, [" Queen said that", " said this look know have door Queen door"]),
    )
    found = score_texts(glass, sae, texts)
    positions = torch.tensor([1.0, 2, 3, 1, 2, 3, 4, 5, 6, 7, 8])
    fires = {" Queen": [0, 9], " door": [8, 10]}
    for word, rows in fires.items():
        acts = torch.zeros(11)
        acts[rows] = 1
        column = found.features.tolist().index(WORDS.index(word))
        expected = torch.corrcoef(torch.stack([acts, positions]))[0, 1]
        assert float(found.position_correlation[column]) == pytest.approx(float(expected), abs=1e-3)


def test_the_planted_difference_is_found_and_confirmed_on_held_out_texts(
    glass: LanguageModel, texts: tuple[list[str], list[str]]
) -> None:
    sae, one, other = planted_sae(glass), *(tokens_of(glass, part) for part in texts)
    found = contrast_texts(glass, sae, one, against=other, k=5)
    (best,) = found.features
    assert (best.feature, best.side, best.confirmed) == (QUEEN, "texts", True)
    assert best.held_out.auc == 1.0 and best.held_out.d > 5 and best.confounds == []
    assert 0.5 < best.held_out.low < 1 == best.held_out.high and best.p == 1 / 2000
    assert best.levels[0].share == 1 and best.levels[0].mean == pytest.approx(1, abs=1e-3)
    assert best.levels[1] == SideLevel(mean=0, share=0)
    assert found.held_out and found.n_confirmed == 1
    assert found.verdict.startswith("1 of 12 features is confirmed: it differs")
    more = contrast_texts(glass, sae, one, against=other, k=5, unconfirmed=True)
    assert more.features[0] == best and len(more.features) > 1
    assert not any(feature.confirmed for feature in more.features[1:])
    assert {feature.side for feature in more.features[1:]} == {"texts", "against"}


@pytest.mark.parametrize("n", [2, 5, 16])
def test_a_ranking_by_contrast_is_the_same_list_with_the_same_values(
    glass: LanguageModel, texts: tuple[list[str], list[str]], n: int
) -> None:
    sae = planted_sae(glass)
    one, other = (tokens_of(glass, side[:n]) for side in texts)
    contrast = contrast_texts(glass, sae, one, against=other, k=100, unconfirmed=True)
    ranked = rank_features(glass, sae, one, against=other, rank_by="contrast", k=100)
    there = [row for row in contrast.features if row.side == "texts"]
    assert [(r.feature, r.score, r.confirmed, r.levels) for r in ranked.features] == [
        (row.feature, row.held_out.auc, row.confirmed, row.levels) for row in there
    ]
    assert ranked.score_is == contrast.score_is and ranked.total == len(there) > 0
    assert ranked.features[0].feature == QUEEN
    assert ranked.features[0].confirmed is (n == 16)
    assert any("nothing is confirmed" in each for each in ranked.warnings) is (n < 8)


def test_a_feature_says_where_it_fires_most_in_the_texts_of_its_side(
    glass: LanguageModel, texts: tuple[list[str], list[str]]
) -> None:
    one, other = (tokens_of(glass, part) for part in texts)
    for mine, against in ((one, other), (other, one)):
        found = contrast_texts(glass, planted_sae(glass), mine, against=against)
        top = found.features[0].top
        assert top and top.token == " Queen" and top.activation == pytest.approx(1, abs=1e-3)
        assert [*mine, *against][top.text_index].strings[top.pos] == " Queen"
        assert (top.text_index < 16) == (found.features[0].side == "texts")


def test_the_other_way_round_the_sign_changes_and_nothing_else(
    glass: LanguageModel, texts: tuple[list[str], list[str]]
) -> None:
    sae, (one, other) = planted_sae(glass), (tokens_of(glass, part) for part in texts)
    there, back = (
        contrast_texts(glass, sae, a, against=b, k=1).features[0]
        for a, b in ((one, other), (other, one))
    )
    assert (there.feature, there.held_out.auc) == (
        back.feature,
        1 - back.held_out.auc,
    ) and there.held_out.d == -back.held_out.d


def test_what_only_length_explains_is_flagged_and_the_real_difference_is_not(
    glass: LanguageModel,
) -> None:
    rng = random.Random(1)
    long = [
        " Queen" + "".join(rng.choice([*FILLERS, " and"]) for _ in range(70)) for _ in range(20)
    ]
    short = ["".join(rng.choice([*FILLERS, " and"]) for _ in range(6)) for _ in range(20)]
    found = contrast_texts(
        glass,
        planted_sae(glass),
        tokens_of(glass, long),
        against=tokens_of(glass, short),
        unconfirmed=True,
    )
    by_feature = {feature.feature: feature for feature in found.features}
    assert by_feature[AND].held_out.auc > 0.7 and "length" in by_feature[AND].confounds
    assert abs(by_feature[AND].auc_equal_length - 0.5) < 0.2
    assert by_feature[QUEEN].confirmed and by_feature[QUEEN].confounds == []
    assert found.length_auc == 1.0 and "differ in length" in found.warnings[0]


def test_what_follows_the_position_is_flagged_where_lengths_differ(glass: LanguageModel) -> None:
    rng = random.Random(1)
    long = ["".join(rng.choice(FILLERS) for _ in range(30)) + " and" * 20 for _ in range(10)]
    short = ["".join(rng.choice(FILLERS) for _ in range(rng.randrange(20, 30))) for _ in range(10)]
    found = contrast_texts(
        glass, planted_sae(glass), tokens_of(glass, long), against=tokens_of(glass, short), k=1
    )
    assert found.features[0].feature == AND and found.features[0].confounds == [
        "length",
        "position",
    ]
    assert "may only reflect the length" in found.verdict


def test_every_effect_is_the_mean_of_what_loops_make_of_the_halves_that_chose_it() -> None:
    scores, first = made_up(16, 20, 60, seed=3)
    lengths = torch.rand(36, generator=torch.Generator().manual_seed(1)).double() * 30
    scores = replace(scores, lengths=lengths)
    scores.scores[first, :3] += 1
    scores.scores[::3] += 0.1  # no half without spread
    design = Groups(first, scores.lengths)
    folds = design.folds(5)
    for one, other in zip(folds[::2], folds[1::2], strict=True):
        assert sorted([*one.chosen_on.tolist(), *one.held_out.tolist()]) == list(range(36))
        assert torch.equal(one.chosen_on, other.held_out)
    found = contrast_scores(design, scores, k=60, seed=5, unconfirmed=True)
    table, ours = scores.scores.double().numpy(), first.numpy()
    assert len(folds) == 10 and len(found.features) == 60

    def area(a: NDArray[Any], b: NDArray[Any]) -> float:
        return float(np.mean([float(x > y) + 0.5 * float(x == y) for x in a for y in b]))

    def effect(a: NDArray[Any], b: NDArray[Any]) -> float:
        squares = (len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)
        return float((a.mean() - b.mean()) / np.sqrt(squares / (len(a) + len(b) - 2)))

    for feature in found.features:
        column = table[:, feature.feature]
        halves = [
            (column[rows][ours[rows]], column[rows][~ours[rows]])
            for rows in (fold.held_out.numpy() for fold in folds)
        ]  # with 60 features every half chooses all of them
        assert feature.held_out.auc == pytest.approx(np.mean([area(a, b) for a, b in halves]))
        assert feature.held_out.d == pytest.approx(np.mean([effect(a, b) for a, b in halves]))
        assert feature.levels[0].mean == pytest.approx(column[ours].mean())
        assert feature.levels[1].share == pytest.approx((column[~ours] > 0).mean())
        ranks = [rank_within(values, ours) for values in (column, lengths.numpy())]
        correlation = np.corrcoef(np.stack(ranks))[0, 1]
        assert feature.length_correlation == pytest.approx(correlation)


def rank_within(values: NDArray[Any], group: NDArray[Any]) -> NDArray[Any]:
    centred = np.where(group, values - values[group].mean(), values - values[~group].mean())
    return np.array([np.mean(np.flatnonzero(np.isclose(np.sort(centred), x))) for x in centred])


def test_p_is_the_share_of_regroupings_in_which_any_feature_differs_as_much() -> None:
    scores, first = made_up(4, 5, 12, seed=2)
    table = scores.scores[:, scores.scores.std(0) > 0]
    ranks = average_ranks(table.double())[0] - 5
    every = torch.stack(
        [
            ranks[list(rows)].mean(0) - ranks[[i for i in range(9) if i not in rows]].mean(0)
            for rows in combinations(range(9), 4)
        ]
    )
    spread = every.square().mean(0).sqrt()
    most = (every.abs() / spread).amax(1)
    observed = (every[0].abs() / spread)[:, None]  # the first draw is the grouping itself
    exact = (most >= observed - 1e-9).double().mean(1)
    assert bool(first[:4].all()) and float(exact.min()) < 0.5
    assert torch.allclose(Groups(first, torch.ones(9)).family_p(table, 0), exact, atol=0.04)


@pytest.mark.parametrize(
    "n1, n2", [(10, 30), *(pytest.param(n, n, marks=pytest.mark.slow) for n in (20, 8))]
)
def test_without_a_difference_hardly_ever_anything_is_confirmed(n1: int, n2: int) -> None:
    false, n_runs = 0, 15
    for seed in range(n_runs):
        scores, first = made_up(n1, n2, 400, seed=seed)
        found = contrast_scores(Groups(first, scores.lengths), scores, k=10, seed=seed)
        false += found.n_confirmed > 0
    assert false <= 0.05 * n_runs + 2 * (0.05 * 0.95 * n_runs) ** 0.5


def passages(n_documents: int, each: int, *, seed: int) -> tuple[TextScores, list[str]]:
    """Passages of documents, each document with features of its own strength, in its order."""
    rng = torch.Generator().manual_seed(seed)
    own = torch.randn(n_documents, 200, generator=rng).repeat_interleave(each, 0)
    noise = torch.randn(n_documents * each, 200, generator=rng)
    scores = (own + noise).clamp(min=0)
    ones = torch.ones(len(scores)).double()
    made = TextScores(torch.arange(200), scores, scores, 20, ones * 20, torch.zeros(200).double())
    return made, [f"document {i // each}" for i in range(len(scores))]


@pytest.mark.slow
def test_passages_of_documents_are_no_discoveries_once_their_documents_are_named() -> None:
    named, unnamed, warned, n_runs = 0, 0, 0, 10
    for seed in range(n_runs):
        scores, documents = passages(16, 5, seed=seed)
        first = torch.arange(80) < 40
        by_text = contrast_scores(Groups(first, scores.lengths), scores, seed=seed)
        by_document = contrast_scores(Groups(first, scores.lengths, documents), scores, seed=seed)
        unnamed += by_text.n_confirmed > 0
        named += by_document.n_confirmed > 0
        warned += any("Neighbouring texts" in warning for warning in by_text.warnings)
        assert not any("Neighbouring texts" in warning for warning in by_document.warnings)
    assert unnamed >= 5, "the trap is there: texts taken for independent find something"
    assert named <= 0.05 * n_runs + 2 * (0.05 * 0.95 * n_runs) ** 0.5
    assert warned >= 0.9 * n_runs


def test_a_difference_within_documents_is_found_where_each_has_texts_on_both_sides() -> None:
    scores, documents = passages(16, 4, seed=1)
    first = torch.arange(64) % 2 == 0
    scores.scores[first, 7] += 2
    found = contrast_scores(Groups(first, scores.lengths, documents), scores)
    assert [feature.feature for feature in found.features] == [7]


@pytest.mark.slow
def test_independent_texts_in_any_order_are_not_called_alike() -> None:
    warned = 0
    for seed in range(20):
        scores, first = made_up(20, 20, 200, seed=seed)
        found = contrast_scores(Groups(first, scores.lengths), scores, seed=seed)
        warned += any("Neighbouring texts" in warning for warning in found.warnings)
    assert warned <= 2


def test_among_many_features_the_planted_ones_are_confirmed_and_few_others() -> None:
    true, false = 0, 0
    for seed in range(10):
        scores, first = made_up(24, 24, 400, seed=seed)
        scores.scores[first, :5] += 2.5
        found = contrast_scores(Groups(first, scores.lengths), scores, k=10, seed=seed)
        confirmed = [feature.feature for feature in found.features if feature.confirmed]
        true += sum(feature < 5 for feature in confirmed)
        false += sum(feature >= 5 for feature in confirmed)
    assert true >= 45 and false <= 1


def test_which_features_are_listed_hardly_depends_on_the_seed() -> None:
    scores, first = made_up(24, 24, 400, seed=1)
    scores.scores[first, :5] += torch.linspace(1.5, 3.5, 5)
    design = Groups(first, scores.lengths)
    listed = [
        [feature.feature for feature in contrast_scores(design, scores, seed=seed).features]
        for seed in range(5)
    ]
    assert all({*features} == {*listed[0]} for features in listed) and len(listed[0]) >= 4


def test_words_that_tell_the_sets_apart_are_said_beside_the_features(
    glass: LanguageModel, texts: tuple[list[str], list[str]]
) -> None:
    one, other = (tokens_of(glass, part) for part in texts)
    found = contrast_texts(glass, planted_sae(glass), one, against=other)
    areas = {baseline.name: baseline.auc for baseline in found.baselines}
    assert list(areas) == [
        "best_feature",
        "all_features",
        "bag_of_words",
        "mean_activation",
        "length",
    ]
    assert areas["best_feature"] == pytest.approx(1) and areas["all_features"] > 0.95
    assert areas["bag_of_words"] > 0.8 and areas["mean_activation"] > 0.5
    nothing = contrast_texts(glass, planted_sae(glass), one[::2], against=one[1::2])
    assert all(abs(baseline.auc - 0.5) < 0.35 for baseline in nothing.baselines)


def test_a_probe_is_the_ridge_classifier_that_explicit_leaving_out_chooses() -> None:
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(24, 5, generator=rng).double()
    first = torch.arange(24) % 2 == 0
    x[first, 0] += 1
    design = Groups(first, torch.ones(24))
    (fold,) = design.folds(0)[:1]
    own, y = x[fold.chosen_on], first[fold.chosen_on].double() * 2 - 1
    scaled, y = (own - own.mean(0)) / own.std(0), y - y.mean()
    mean_eigenvalue = scaled.square().sum() / len(own)

    def fit(rows: Tensor, penalty: Tensor) -> Tensor:
        a = scaled[rows]
        return torch.linalg.solve(a.T @ a + penalty * torch.eye(5).double(), a.T @ y[rows])

    def error(penalty: Tensor) -> float:
        rows = torch.arange(len(own))
        left_out = [(y[i] - scaled[i] @ fit(rows[rows != i], penalty)) ** 2 for i in rows]
        return float(sum(left_out))

    best = min((penalty * mean_eigenvalue for penalty in PENALTIES), key=error)
    weights = fit(torch.arange(len(own)), best)
    scores = ((x - own.mean(0)) / own.std(0) @ weights)[fold.held_out]
    a, b = scores[first[fold.held_out]], scores[~first[fold.held_out]]
    naive = float((a[:, None] > b).double().mean())
    assert probe_auc(x, design, [fold]) == pytest.approx(naive)


def test_too_few_texts_are_said_to_be_too_few(
    glass: LanguageModel, texts: tuple[list[str], list[str]]
) -> None:
    one, other = (tokens_of(glass, part[:4]) for part in texts)
    found = contrast_texts(glass, planted_sae(glass), one, against=other)
    assert (
        not found.held_out
        and "Too few texts (4" in found.verdict
        and not any(f.confirmed for f in found.features)
    )
    assert found.features[0].feature == QUEEN and found.features[0].p == pytest.approx(
        2 / 70, rel=0.2
    )
    with pytest.raises(ArgumentError) as caught:
        contrast_texts(glass, planted_sae(glass), one[:1], against=other)
    assert caught.value.code == "TOO_FEW_TEXTS"


def test_copies_of_a_text_are_no_further_texts(
    glass: LanguageModel, texts: tuple[list[str], list[str]]
) -> None:
    sae, (one, other) = planted_sae(glass), (tokens_of(glass, side) for side in texts)
    few = contrast_texts(glass, sae, one[:3], against=other[:3], unconfirmed=True)
    copied = contrast_texts(
        glass, sae, [*one[:3]] * 10, against=[*other[:3]] * 10, unconfirmed=True
    )
    assert (copied.n_texts, copied.n_against, copied.n_confirmed) == (3, 3, 0)
    assert copied.features == few.features
    said = "54 of the 60 texts repeat others of the same set: each counts once."
    assert copied.warnings == [said, *few.warnings]
    ranked = rank_features(
        glass, sae, [*one[:3]] * 10, against=[*other[:3]] * 10, rank_by="contrast"
    )
    assert said in ranked.warnings and not any(row.confirmed for row in ranked.features)
    with pytest.raises(ArgumentError, match="2 different texts"):
        contrast_texts(glass, sae, [one[0]] * 10, against=other)
    documents = [f"d{i % 3}" for i in range(30)]  # what is independent is then said
    named = contrast_texts(
        glass, sae, [*one[:3]] * 10, against=other[:3], documents=[*documents, "a", "b", "c"]
    )
    assert named.n_texts == 30


def test_sentences_that_differ_by_a_word_are_ranked_as_they_are_contrasted(gpt2: Family) -> None:
    words = [
        "old",
        "little",
        "big",
        "good",
        "young",
        "happy",
        "poor",
        "rich",
        "great",
        "tall",
        "small",
        "new",
        "kind",
    ]
    one, other = (
        tokens_of(gpt2.model, [f"The {word} {who} saw the {word} house" for word in words])
        for who in ("queen", "king")
    )
    sae = make_sae(gpt2, "standard")
    contrast = contrast_texts(gpt2.model, sae, one, against=other, k=100, unconfirmed=True)
    ranked = rank_features(gpt2.model, sae, one, against=other, rank_by="contrast", k=100)
    rows = [row for row in contrast.features if row.side == "texts"]
    assert [row.feature for row in ranked.features] == [row.feature for row in rows]
    assert [row.score for row in ranked.features] == [row.held_out.auc for row in rows]


def test_texts_on_which_nothing_fires_give_an_empty_list(glass: LanguageModel) -> None:
    quiet = tokens_of(glass, [" said that" * n for n in range(1, 11)])
    found = contrast_texts(glass, planted_sae(glass), quiet, against=quiet)
    assert (found.features, found.total, found.baselines) == ([], 0, [])
    assert "No feature fires" in found.verdict


def test_a_fine_tuned_model_differs_where_it_was_changed(
    glass: LanguageModel, glass_dir: str
) -> None:
    from saescope.models import load_model

    sae, tuned = planted_sae(glass), load_model(str(glass_dir), device="cpu")
    embedding = tuned.bridge.original_model.get_input_embeddings().weight
    with torch.no_grad():  # " door" now looks like " Queen"
        embedding[tuned.single_token(" door")] = embedding[tuned.single_token(" Queen")].clone()
    texts = tokens_of(glass, [text + " door" for text in corpus(16, n_words=25)])
    found = contrast_models(tuned, sae, texts, other=glass, k=3)
    signs = {feature.feature: feature.held_out.d for feature in found.features if feature.confirmed}
    assert signs[WORDS.index(" door")] < 0 and set(signs) <= {WORDS.index(" door"), QUEEN}
    same = contrast_models(glass, sae, texts, other=glass)
    assert same.n_confirmed == 0
    door = next(row for row in found.features if row.feature == WORDS.index(" door"))
    assert door.side == "against" and door.levels[0].mean == 0
    assert door.levels[1].mean == pytest.approx(1, abs=1e-3) and door.levels[1].share == 1


def test_a_change_that_all_texts_share_is_none_beside_other_texts(
    glass: LanguageModel, glass_dir: str
) -> None:
    from saescope.models import load_model

    sae, tuned = planted_sae(glass), load_model(str(glass_dir), device="cpu")
    embedding = tuned.bridge.original_model.get_input_embeddings().weight
    with torch.no_grad():
        embedding[tuned.single_token(" door")] = embedding[tuned.single_token(" Queen")].clone()
    one, other = (
        tokens_of(glass, [text + " door" for text in corpus(12, n_words=25, share=0, seed=seed)])
        for seed in (1, 2)
    )
    alone = contrast_models(tuned, sae, one, other=glass)
    assert {row.feature for row in alone.features} == {WORDS.index(" door"), QUEEN}
    beside = contrast_models(tuned, sae, one, other=glass, against=other)
    assert beside.n_confirmed == 0
    without = tokens_of(glass, corpus(12, n_words=26, share=0, seed=2))
    beside = contrast_models(tuned, sae, one, other=glass, against=without)
    assert {row.feature for row in beside.features} == {WORDS.index(" door"), QUEEN}


def test_changes_without_direction_are_not_confirmed() -> None:
    false = 0
    for seed in range(20):
        scores, first = made_up(24, 24, 300, seed=seed)
        changes = scores.scores[first] - scores.scores[~first]
        made = replace(scores, scores=changes, equal_length=changes, lengths=scores.lengths[first])
        found = contrast_scores(PairedTexts(24), made, k=10, seed=seed)
        false += found.n_confirmed > 0
    assert false <= 0.05 * 20 + 2 * (0.05 * 0.95 * 20) ** 0.5


def test_a_probe_of_thousands_of_texts_is_fitted_to_a_sample_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    def seen(kernel: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(kernel))
        return y

    monkeypatch.setattr("saescope.features.contrast.baselines._ridge", seen)
    first = torch.arange(5000) % 2 == 0
    design = Groups(first, torch.ones(5000))
    inputs = first.double()[:, None] + torch.arange(5000)[:, None] / 1e4
    assert probe_auc(inputs, design, design.folds(0)[:2]) > 0.99
    assert sizes == [834, 834]


def test_a_contrast_stops_when_it_is_cancelled() -> None:
    scores, first = made_up(12, 12, 50, seed=0)
    stop = threading.Event()
    stop.set()
    with cancellable(stop), pytest.raises(Cancelled):
        contrast_scores(Groups(first, scores.lengths), scores)


def test_counterparts_are_each_others_nearest_and_share_half_of_their_words() -> None:
    rng = torch.Generator().manual_seed(2)
    words = (torch.rand(40, 30, generator=rng) < 0.5).double()
    words[20:30] = words[:10]
    words[20:30, 0] = 1 - words[:10, 0]
    first = torch.arange(40) < 20

    def share(i: int, j: int) -> float:
        return float((words[i] * words[j]).sum() / (words[i] + words[j]).clamp(max=1).sum())

    expected = list(range(40))
    for i in range(20):
        j = max(range(20, 40), key=lambda j: (share(i, j), i == j - 20, -j))
        back = max(range(20), key=lambda k: (share(k, j), k == j - 20, -k))
        if back == i and share(i, j) >= 0.5:
            expected[j] = i
    assert expected[20:30] == list(range(10))
    assert counterparts(words, first).tolist() == expected


def test_words_that_counterparts_share_do_not_count_for_the_wrong_side(
    glass: LanguageModel,
) -> None:
    rng = random.Random(5)
    one = [sentence(rng, 12) + rng.choice(WORDS[1:]) for _ in range(24)]
    other = [text.rsplit(" ", 1)[0] + rng.choice(WORDS[1:]) for text in one]
    a, b = tokens_of(glass, one), tokens_of(glass, other)
    found = contrast_texts(glass, planted_sae(glass), a, against=b[5:] + b[:5])
    areas = {baseline.name: baseline.auc for baseline in found.baselines}
    # nothing tells these apart; with the halves drawn text by text the words got 0.1
    assert areas["bag_of_words"] == pytest.approx(0.5, abs=0.15)
    assert areas["mean_activation"] == pytest.approx(0.5, abs=0.15)


def test_documents_that_are_named_take_the_place_of_counterparts() -> None:
    first, halved = torch.arange(32) < 16, torch.arange(16).repeat(2)
    for fold in Groups(first, torch.ones(32), halved=halved).folds(0):
        assert fold.held_out[:8].tolist() == (fold.held_out[8:] - 16).tolist()
    documents = [f"d{i // 2}" for i in range(32)]
    for fold in Groups(first, torch.ones(32), documents, halved=halved).folds(0):
        assert (fold.held_out[::2] + 1).tolist() == fold.held_out[1::2].tolist()


def test_a_search_for_counterparts_stops_when_its_call_is_cancelled() -> None:
    stop = threading.Event()
    stop.set()
    with cancellable(stop), pytest.raises(Cancelled):
        counterparts(torch.eye(8, dtype=torch.float64), torch.arange(8) < 4)


def test_where_documents_are_named_no_counterparts_are_looked_for(
    glass: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tokens_of(glass, ["a cat ran", "a dog ran", "a king sat", "a queen sat"])
    monkeypatch.setattr("saescope.features.contrast.sets.counterparts", None)
    design = groups_of(texts[:2], texts[2:], torch.ones(4), documents=["a", "b", "c", "c"])
    assert design.unit.tolist() == design.halved.tolist()
