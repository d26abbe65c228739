"""Labels, cards and searches of SAEs that neuronpedia.org hosts; nothing is asked unless the caller
asks."""

from saescope.neuronpedia.client import Neuronpedia
from saescope.neuronpedia.identity import HostedSAE, feature_page
from saescope.neuronpedia.records import (
    RemoteCard,
    RemoteExample,
    RemoteHit,
    RemoteLabel,
    RemoteScore,
    Retrieval,
)
from saescope.neuronpedia.transfer import Patience

__all__ = [
    "HostedSAE",
    "Neuronpedia",
    "Patience",
    "RemoteCard",
    "RemoteExample",
    "RemoteHit",
    "RemoteLabel",
    "RemoteScore",
    "Retrieval",
    "feature_page",
]
