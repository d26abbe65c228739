"""How strongly features fire in a corpus that was indexed: what units are made of."""

from saescope.features.index import FeatureIndex, find_index
from saescope.models import LanguageModel
from saescope.saes import SAE
from saescope.steering.units import IndexedActivations


def indexed_activations(model: LanguageModel, sae: SAE) -> IndexedActivations | None:
    """How strongly the features fire in the best index of the SAE on this machine, as the tools
    take it for units; None where there is no index."""
    index = find_index(sae, model)
    return index and activations_in(index)


def activations_in(index: FeatureIndex) -> IndexedActivations:
    """What an index says of how strongly features fire."""
    corpus = f"{index.manifest.n_tokens:,} tokens of {index.manifest.dataset}"
    return IndexedActivations(index.maxima, index.typical, corpus)
