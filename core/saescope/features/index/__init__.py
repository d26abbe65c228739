"""What every feature of an SAE does on a text: counts, maxima, histograms, examples, partners,
material for quizzes."""

from saescope.features.index.build import IndexProgress, IndexRun, index_features, shared_bos
from saescope.features.index.config import IndexConfig
from saescope.features.index.feature_index import FeatureIndex
from saescope.features.index.manifest import IndexManifest
from saescope.features.index.rows import (
    Cofiring,
    Example,
    FeatureStatisticsRow,
    HistogramBin,
    Passage,
    QuizPassage,
    QuizPool,
)
from saescope.features.index.store import find_index, folder_of

__all__ = [
    "Cofiring",
    "Example",
    "FeatureIndex",
    "FeatureStatisticsRow",
    "HistogramBin",
    "IndexConfig",
    "IndexManifest",
    "IndexProgress",
    "IndexRun",
    "Passage",
    "QuizPassage",
    "QuizPool",
    "find_index",
    "folder_of",
    "index_features",
    "shared_bos",
]
