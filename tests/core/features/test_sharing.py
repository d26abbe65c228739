"""Features written for Neuronpedia: each number from its own source."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.core.features.planted import WORDS

import saescope as ss
from saescope.errors import ArgumentError
from saescope.features import LabelStore, QuizStore, export_features, make_quiz
from saescope.features.index import FeatureIndex
from saescope.models import LanguageModel
from saescope.saes import SAE

QUEEN, DOOR = WORDS.index(" Queen"), WORDS.index(" door")


def first_row(folder: Path, name: str) -> dict[str, Any]:
    content = gzip.decompress((folder / name / "batch-0.jsonl.gz").read_bytes())
    return json.loads(content.splitlines()[0])


def test_an_export_says_what_model_sae_and_index_say(
    own_home: Path,
    tmp_path: Path,
    glass_dir: Path,
    glass: LanguageModel,
    planted: SAE,
    planted_index: FeatureIndex,
) -> None:
    LabelStore().add(planted.weights_hash, QUEEN, "the Queen", source="tester")
    done = export_features(
        glass, planted, [DOOR, QUEEN, QUEEN], folder=tmp_path, index=planted_index
    )
    assert done.written and (done.n_features, done.n_labels) == (2, 1) and not done.warnings
    assert {str(path.relative_to(done.folder)) for path in done.folder.rglob("*.*")} == {
        file.name for file in done.files
    }
    row, known = first_row(done.folder, "features"), planted_index.statistics(QUEEN)
    assert row["index"] == str(QUEEN) and row["frac_nonzero"] == known.density
    assert row["maxActApprox"] == known.max
    assert sum(row["freq_hist_data_bar_heights"]) == known.n_fired
    assert row["hookName"] == planted.cfg.metadata.hook_name
    vector = np.asarray(row["vector"], dtype=np.float32)
    assert np.array_equal(vector, planted.W_dec[QUEEN].detach().numpy())
    # What one unit writes to each logit, by the model's own file; the norm's scale left out.
    weights = load_file(glass_dir / "model.safetensors")
    effects = (torch.tensor(vector) * weights["model.norm.weight"].float()) @ weights[
        "model.embed_tokens.weight"
    ].float().T
    effects = (effects - effects.mean()).numpy()
    heights, edges = np.histogram(effects, bins=50)
    assert np.abs(np.asarray(row["logits_hist_data_bar_heights"]) - heights).sum() <= 4
    middles = (edges[1:] + edges[:-1]) / 2
    assert np.allclose(row["logits_hist_data_bar_values"], middles, atol=1e-4)
    assert row["pos_values"][0] == pytest.approx(float(effects.max()), rel=1e-4)


def test_what_was_written_is_read_back_for_the_same_sae(
    own_home: Path, tmp_path: Path, glass: LanguageModel, planted: SAE, planted_index: FeatureIndex
) -> None:
    done = export_features(glass, planted, [QUEEN], folder=tmp_path, index=planted_index)
    read = ss.read_features(done.folder, neuronpedia_id=done.neuronpedia_id)
    card = ss.feature_card(glass, planted, QUEEN, index=planted_index, n_examples=30)
    (found,) = read.cards
    assert found.density == card.density
    strongest = max(card.examples, key=lambda each: each.activation)
    assert list(found.examples[0].tokens) == strongest.tokens
    assert found.examples[0].activations == pytest.approx(strongest.activations, rel=1e-6)
    assert [token for token, _ in found.promotes] == [row.token for row in card.promotes]


def test_a_dry_run_writes_nothing_and_says_the_same(
    own_home: Path, tmp_path: Path, glass: LanguageModel, planted: SAE, planted_index: FeatureIndex
) -> None:
    new = tmp_path / "new"
    planned = export_features(
        glass, planted, [QUEEN], folder=new, index=planted_index, dry_run=True
    )
    assert not planned.written and not new.exists()
    done = export_features(glass, planted, [QUEEN], folder=new, index=planted_index)
    assert [file.name for file in planned.files] == [file.name for file in done.files]
    assert planned.folder == done.folder and planned.n_examples == done.n_examples


def test_texts_of_an_open_quiz_are_not_told_by_an_export(
    own_home: Path, tmp_path: Path, glass: LanguageModel, planted: SAE, planted_index: FeatureIndex
) -> None:
    quiz = make_quiz(planted_index, QUEEN)
    export_features(glass, planted, [QUEEN], folder=tmp_path, index=planted_index)
    texts = "".join(path.read_text() for path in tmp_path.rglob("upload-*.json"))
    open_ = QuizStore().find_open(planted.weights_hash, QUEEN, n=12, seed=0)
    assert open_ is None or not any(item.text[:40] in texts for item in quiz.items)


def test_a_feature_that_is_none_is_refused_before_anything_is_written(
    own_home: Path, tmp_path: Path, glass: LanguageModel, planted: SAE
) -> None:
    with pytest.raises(ArgumentError) as caught:
        export_features(glass, planted, [QUEEN, 10**6], folder=tmp_path / "new")
    assert caught.value.code == "FEATURE_OUT_OF_RANGE" and not (tmp_path / "new").exists()
