"""A planted SAE and its index, made once."""

import pytest
from tests.core.features.planted import corpus, planted_sae

from saescope.features.index import FeatureIndex, index_features
from saescope.models import LanguageModel
from saescope.saes import SAE


@pytest.fixture(scope="session")
def planted(glass: LanguageModel) -> SAE:
    return planted_sae(glass)


@pytest.fixture(scope="session")
def planted_index(
    glass: LanguageModel, planted: SAE, tmp_path_factory: pytest.TempPathFactory
) -> FeatureIndex:
    """Of texts in which every planted word is at home."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "corpus.txt").write_text("\n\n".join(corpus(400)), encoding="utf-8")
    made = index_features(
        glass,
        planted,
        str(folder / "corpus.txt"),
        n_tokens=12_000,
        context_size=64,
        root=folder / "indexes",
    )
    assert isinstance(made, FeatureIndex)
    return made
