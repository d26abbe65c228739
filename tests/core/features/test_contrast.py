"""Contrast: a planted difference is found, nothing is found where there is none, and what length
explains is said."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.core.features.planted import FILLERS, WORDS, corpus, planted_sae, sentence
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.features import contrast_models, contrast_texts
from saescope.features.contrast.contrast import HeldOut, contrast_scores
from saescope.features.contrast.designs import Groups, PairedTexts
from saescope.features.reading.text_scores import TextScores, score_texts
from saescope.models import LanguageModel, Tokens

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
    found = contrast_texts(
        glass,
        planted_sae(glass),
        tokens_of(glass, texts[0]),
        against=tokens_of(glass, texts[1]),
        k=5,
    )
    best, *rest = found.features
    assert (
        best.feature == QUEEN
        and best.confirmed
        and best.held_out.auc == 1.0
        and best.held_out.d > 5
    )
    assert (
        0.5 < best.held_out.low < 1 == best.held_out.high
        and best.q <= 0.05
        and best.confounds == []
    )
    assert not any(feature.confirmed for feature in rest)
    assert found.n_held_out == (8, 8) and found.verdict.startswith("1 of the 5 features")


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
        glass, planted_sae(glass), tokens_of(glass, long), against=tokens_of(glass, short), k=5
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


def test_every_number_of_the_held_out_half_is_what_loops_make_of_it() -> None:
    scores, first = made_up(16, 20, 60, seed=3)
    scores = replace(
        scores, lengths=torch.rand(36, generator=torch.Generator().manual_seed(1)).double() * 30
    )
    design = Groups(first, scores.lengths)
    chosen_on, held_out, split = design.halves(5)
    assert split and sorted([*chosen_on.tolist(), *held_out.tolist()]) == list(range(36))
    found, table = contrast_scores(design, scores, k=4, seed=5), scores.scores.double().numpy()
    rows, half = held_out.numpy(), chosen_on.numpy()
    ours = first.numpy()

    def check(held: HeldOut, column: NDArray[Any]) -> None:
        a, b = column[rows][ours[rows]], column[rows][~ours[rows]]
        assert held.auc == pytest.approx(
            np.mean([float(x > y) + 0.5 * float(x == y) for x in a for y in b])
        )
        pooled = np.sqrt(
            ((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(rows) - 2)
        )
        assert held.d == pytest.approx((a.mean() - b.mean()) / pooled)
        lengths = scores.lengths.numpy()[rows]
        ranks = [rank_within(values, ours[rows]) for values in (column[rows], lengths)]
        assert held.length_correlation == pytest.approx(np.corrcoef(np.stack(ranks))[0, 1])

    def rank_within(values: NDArray[Any], group: NDArray[Any]) -> NDArray[Any]:
        centred = np.where(group, values - values[group].mean(), values - values[~group].mean())
        return np.array([np.mean(np.flatnonzero(np.isclose(np.sort(centred), x))) for x in centred])

    total = np.zeros(36)
    for feature in found.features:
        column = table[:, feature.feature]
        check(feature.held_out, column)
        a, b = column[half][ours[half]], column[half][~ours[half]]
        rises = np.mean([float(x > y) + 0.5 * float(x == y) for x in a for y in b]) > 0.5
        total += (1 if rises else -1) * column / column[half].std()
    assert found.together
    check(found.together, total)


@pytest.mark.parametrize("n1, n2", [(20, 20), (10, 30), (8, 8)])
def test_without_a_difference_hardly_ever_anything_is_confirmed(n1: int, n2: int) -> None:
    false, n_runs = 0, 15
    for seed in range(n_runs):
        scores, first = made_up(n1, n2, 400, seed=seed)
        found = contrast_scores(Groups(first, scores.lengths), scores, k=10, seed=seed)
        false += any(feature.confirmed for feature in found.features)
    assert false <= 0.05 * n_runs + 2 * (0.05 * 0.95 * n_runs) ** 0.5


def test_among_many_features_the_planted_ones_are_confirmed_and_few_others() -> None:
    true, false = 0, 0
    for seed in range(10):
        scores, first = made_up(24, 24, 400, seed=seed)
        scores.scores[first, :5] += 2.5
        confirmed = [
            f.feature
            for f in contrast_scores(
                Groups(first, scores.lengths), scores, k=10, seed=seed
            ).features
            if f.confirmed
        ]
        true += sum(feature < 5 for feature in confirmed)
        false += sum(feature >= 5 for feature in confirmed)
    assert true >= 45 and false <= 0.1 * true


def test_too_few_texts_are_said_to_be_too_few(
    glass: LanguageModel, texts: tuple[list[str], list[str]]
) -> None:
    one, other = (tokens_of(glass, part[:4]) for part in texts)
    found = contrast_texts(glass, planted_sae(glass), one, against=other)
    assert (
        found.n_held_out is None
        and "Too few texts (4" in found.verdict
        and not any(f.confirmed for f in found.features)
    )
    assert found.features[0].feature == QUEEN and found.features[0].held_out.p == pytest.approx(
        2 / 70, rel=0.6
    )
    with pytest.raises(ArgumentError) as caught:
        contrast_texts(glass, planted_sae(glass), one[:1], against=other)
    assert caught.value.code == "TOO_FEW_TEXTS"


def test_texts_on_which_nothing_fires_give_an_empty_list(glass: LanguageModel) -> None:
    quiet = tokens_of(glass, [" said that"] * 10)
    found = contrast_texts(glass, planted_sae(glass), quiet, against=quiet)
    assert (found.features, found.total, found.together) == (
        [],
        0,
        None,
    ) and "No feature fires" in found.verdict


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
    assert not any(feature.confirmed for feature in same.features)


def test_changes_without_direction_are_not_confirmed() -> None:
    false = 0
    for seed in range(20):
        scores, first = made_up(24, 24, 300, seed=seed)
        changes = scores.scores[first] - scores.scores[~first]
        made = replace(scores, scores=changes, equal_length=changes, lengths=scores.lengths[first])
        found = contrast_scores(PairedTexts(24), made, k=10, seed=seed)
        false += any(feature.confirmed for feature in found.features)
    assert false <= 0.05 * 20 + 2 * (0.05 * 0.95 * 20) ** 0.5
