"""Labels, cards and searches of SAEs that neuronpedia.org hosts, and its files, read and written;
nothing is asked unless the caller asks."""

from saescope.neuronpedia.client import Neuronpedia
from saescope.neuronpedia.identity import HostedSAE, feature_page
from saescope.neuronpedia.reading import SharedFeatures, read_features, read_list
from saescope.neuronpedia.records import (
    RemoteCard,
    RemoteExample,
    RemoteHit,
    RemoteLabel,
    RemoteScore,
    Retrieval,
)
from saescope.neuronpedia.rows import Bars, Exported, Origin, own_id
from saescope.neuronpedia.transfer import Patience
from saescope.neuronpedia.uploads import FeatureList, FeatureOnList, list_body, quick_list_url
from saescope.neuronpedia.writing import FeatureExport, write_features

__all__ = [
    "Bars",
    "Exported",
    "FeatureExport",
    "FeatureList",
    "FeatureOnList",
    "HostedSAE",
    "Neuronpedia",
    "Origin",
    "Patience",
    "RemoteCard",
    "RemoteExample",
    "RemoteHit",
    "RemoteLabel",
    "RemoteScore",
    "Retrieval",
    "SharedFeatures",
    "feature_page",
    "list_body",
    "own_id",
    "quick_list_url",
    "read_features",
    "read_list",
    "write_features",
]
