"""A feature's change between two models beside random halves and random directions, against plain
NumPy at the embedding."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.features.planted import WORDS, corpus, planted_sae
from torch import Tensor

from saescope.controls import compare_with
from saescope.features import contrast_models
from saescope.features.contrast.designs import Groups, PairedTexts
from saescope.features.contrast.model_controls import TwoModels, change_controls
from saescope.features.reading.text_scores import score_changes
from saescope.models import LanguageModel, Tokens, load_model
from saescope.saes import SAE, SAEMetadata, StandardConfig, StandardSAE

DOOR, QUEEN = WORDS.index(" door"), WORDS.index(" Queen")


def tokens_of(model: LanguageModel, texts: list[str]) -> list[Tokens]:
    return [model.tokenize(text, prepend_bos=True) for text in texts]


def embedding_of(model: LanguageModel) -> Tensor:
    return model.bridge.original_model.get_input_embeddings().weight


@pytest.fixture
def tuned(glass_dir: Path) -> LanguageModel:
    """The tiny model once more, to be changed."""
    return load_model(str(glass_dir), device="cpu")


def door_like_queen(model: LanguageModel) -> None:
    with torch.no_grad():
        door, queen = (model.single_token(word) for word in (" door", " Queen"))
        embedding_of(model)[door] = embedding_of(model)[queen].clone()


def acts_by_hand(sae: SAE, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What a standard SAE makes of `[n, d_in]`, without b_dec at its input."""
    tensors = {name: tensor.detach().double().numpy() for name, tensor in sae.tensors().items()}
    return np.maximum(x @ tensors["W_enc"] + tensors["b_enc"], 0)


def read_by_hand(model: LanguageModel, tokens: Tokens) -> np.ndarray[Any, Any]:
    return embedding_of(model).detach().double().numpy()[tokens.ids.numpy()]


def test_change_and_random_directions_are_those_of_numpy(
    glass: LanguageModel, tuned: LanguageModel
) -> None:
    door_like_queen(tuned)
    sae = planted_sae(glass)
    texts = tokens_of(glass, [f"{text} door" for text in corpus(8, n_words=12)])
    found = contrast_models(tuned, sae, texts, other=glass, k=3, seed=7, unconfirmed=True)
    row = next(row for row in found.features if row.feature == DOOR)
    assert row.controls is not None
    draw = torch.Generator().manual_seed(7)
    directions = torch.randn(19, glass.d_model, generator=draw).double().numpy()
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    changes, moved = list[float](), list[list[float]]()
    for tokens in texts:
        read, base = (read_by_hand(model, tokens) for model in (tuned, glass))
        apart = np.linalg.norm(read - base, axis=1)[:, None]
        before = acts_by_hand(sae, base)[1:, DOOR].max()  # position 0 does not count
        changes.append(acts_by_hand(sae, read)[1:, DOOR].max() - before)
        moved.append(
            [acts_by_hand(sae, base + apart * u)[1:, DOOR].max() - before for u in directions]
        )
    assert row.controls.change == pytest.approx(np.mean(changes), abs=1e-4)
    expected = compare_with(float(np.mean(changes)), np.mean(moved, axis=0).tolist())
    assert row.controls.perturbed.p == expected.p and row.controls.perturbed.n == 19
    assert row.controls.perturbed.mean == pytest.approx(expected.mean, abs=1e-4)
    assert row.controls.perturbed.sd == pytest.approx(expected.sd, abs=1e-4)


def test_a_change_that_means_something_is_beyond_both_controls(
    glass: LanguageModel, tuned: LanguageModel
) -> None:
    door_like_queen(tuned)
    texts = tokens_of(glass, [f"{text} door" for text in corpus(16, n_words=25)])
    found = contrast_models(tuned, planted_sae(glass), texts, other=glass, k=3)
    door = next(row for row in found.features if row.feature == DOOR)
    assert door.controls is not None and door.controls.change == pytest.approx(-1, abs=1e-2)
    assert door.controls.halves.outside and door.controls.perturbed.outside


def test_a_model_beside_itself_changes_nothing_and_halves_still_differ(
    glass: LanguageModel,
) -> None:
    sae, texts = planted_sae(glass), tokens_of(glass, corpus(16, n_words=25))
    found = contrast_models(glass, sae, texts, other=glass, k=12, unconfirmed=True)
    assert found.features
    for row in found.features:
        assert row.controls is not None and row.controls.change == 0
        assert row.controls.perturbed.mean == row.controls.perturbed.sd == 0
        assert not row.controls.perturbed.outside and not row.controls.halves.outside
    assert any(row.controls and row.controls.halves.sd for row in found.features)


def test_halves_of_two_texts_are_the_texts(glass: LanguageModel, tuned: LanguageModel) -> None:
    door_like_queen(tuned)
    sae, texts = planted_sae(glass), tokens_of(glass, ["He saw a door", "He saw a voice"])
    changes = score_changes(tuned, glass, sae, texts)
    models = TwoModels(tuned, glass, sae, "max")
    (controls,) = change_controls(
        models, texts, changes, design=PairedTexts(2), features=[DOOR], seed=0
    )
    # 1 in the text with the word and 0 in the other: halves are 1 or -1 apart.
    assert abs(controls.halves.mean or 0) < 1 and controls.halves.n == 19
    n_up = round(19 * (1 + (controls.halves.mean or 0)) / 2)
    spread = np.std([1.0] * n_up + [-1.0] * (19 - n_up), ddof=1)
    assert controls.halves.sd == pytest.approx(spread, abs=1e-2)
    assert controls.change == pytest.approx(-0.5, abs=1e-2) and not controls.halves.outside


def test_one_document_has_no_halves(glass: LanguageModel, tuned: LanguageModel) -> None:
    door_like_queen(tuned)
    sae, texts = planted_sae(glass), tokens_of(glass, ["He saw a door", "He saw a voice"])
    changes = score_changes(tuned, glass, sae, texts)
    (controls,) = change_controls(
        TwoModels(tuned, glass, sae, "max"),
        texts,
        changes,
        design=PairedTexts(2, ["a", "a"]),
        features=[DOOR],
        seed=0,
    )
    assert controls.halves.n == 0 and controls.halves.p is None and controls.perturbed.n == 19


def test_with_other_texts_beside_all_is_a_difference_of_differences(
    glass: LanguageModel, tuned: LanguageModel
) -> None:
    door_like_queen(tuned)
    sae = planted_sae(glass)
    with_door = tokens_of(glass, [f"{text} door" for text in corpus(8, n_words=12, share=0)])
    without = tokens_of(glass, corpus(8, n_words=13, share=0, seed=2))
    for against, change in ((without, -1), (with_door, 0)):
        texts = [*with_door, *against]
        changes = score_changes(tuned, glass, sae, texts)
        design = Groups(torch.arange(16) < 8, changes.lengths)
        (controls,) = change_controls(
            TwoModels(tuned, glass, sae, "max"),
            texts,
            changes,
            design=design,
            features=[DOOR],
            seed=0,
        )
        assert controls.change == pytest.approx(change, abs=1e-2)
        assert controls.perturbed.outside == bool(change)


@pytest.mark.slow
def test_a_change_in_a_random_direction_is_outside_in_a_twentieth_of_cases(
    glass: LanguageModel, tuned: LanguageModel
) -> None:
    rng = torch.Generator().manual_seed(0)
    d_in, d_sae = glass.d_model, 40
    scale = float(embedding_of(glass).detach().std())
    tensors = {
        "W_enc": torch.randn(d_in, d_sae, generator=rng) / d_in**0.5 / scale,
        "W_dec": torch.randn(d_sae, d_in, generator=rng),
        "b_enc": torch.zeros(d_sae),
        "b_dec": torch.zeros(d_in),
    }
    meta = SAEMetadata(hook_name="blocks.0.hook_resid_pre", prepend_bos=True)
    cfg = StandardConfig(d_in=d_in, d_sae=d_sae, apply_b_dec_to_input=False, metadata=meta)
    sae, texts = StandardSAE(cfg, tensors), tokens_of(glass, corpus(6, n_words=10))
    clean, outside = copy.deepcopy(embedding_of(tuned).detach()), list[bool]()
    for seed in range(20):
        step = torch.randn(d_in, generator=rng)
        with torch.no_grad():
            embedding_of(tuned).copy_(clean + 4 * scale * step / step.norm() * d_in**0.5)
        changes = score_changes(tuned, glass, sae, texts)
        features = changes.features.tolist()
        rows = change_controls(
            TwoModels(tuned, glass, sae, "max"),
            texts,
            changes,
            design=PairedTexts(6),
            features=features,
            seed=100 + seed,
        )
        outside += [row.perturbed.outside for row in rows]
    assert len(outside) > 600
    assert 0.02 <= np.mean(outside) <= 0.08
