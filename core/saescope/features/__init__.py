"""What features fire on, what they write, what they are called, and what sets texts apart."""

from saescope.effects import logit_effects, promoted_tokens
from saescope.features.card import (
    CardBin,
    CardCorpus,
    CardExample,
    CardLabel,
    CardNeighbour,
    CardPartner,
    CardToken,
    FeatureBrief,
    FeatureCard,
    card_label,
    feature_briefs,
    feature_card,
)
from saescope.features.contrast.contrast import (
    Contrast,
    ContrastFeature,
    contrast_models,
    contrast_texts,
)
from saescope.features.labels.quiz import make_quiz
from saescope.features.labels.quiz_store import Quiz, QuizItem, QuizStore
from saescope.features.labels.scores import LabelScore
from saescope.features.labels.store import Label, LabelStore
from saescope.features.listing import ListedFeature, list_features
from saescope.features.neighbours import Neighbour, nearest_features
from saescope.features.rank import RankedFeature, Ranking, rank_features
from saescope.features.reading.encode import Encoded, TextFeatures, encode_stack, encode_texts
from saescope.features.reading.firings import NamedFirings, find_firings
from saescope.features.reading.passages import TextPassage, dataset_passages, text_passages
from saescope.features.reading.search import (
    FoundFeature,
    FoundFeatures,
    find_by_label,
    find_by_texts,
)
from saescope.features.sharing import export_features, neuronpedia_name

__all__ = [
    "CardBin",
    "CardCorpus",
    "CardExample",
    "CardLabel",
    "CardNeighbour",
    "CardPartner",
    "CardToken",
    "Contrast",
    "ContrastFeature",
    "Encoded",
    "FeatureBrief",
    "FeatureCard",
    "FoundFeature",
    "FoundFeatures",
    "Label",
    "LabelScore",
    "LabelStore",
    "ListedFeature",
    "NamedFirings",
    "Neighbour",
    "Quiz",
    "QuizItem",
    "QuizStore",
    "RankedFeature",
    "Ranking",
    "TextFeatures",
    "TextPassage",
    "card_label",
    "contrast_models",
    "contrast_texts",
    "dataset_passages",
    "encode_stack",
    "encode_texts",
    "export_features",
    "feature_briefs",
    "feature_card",
    "find_by_label",
    "find_by_texts",
    "find_firings",
    "list_features",
    "logit_effects",
    "make_quiz",
    "nearest_features",
    "neuronpedia_name",
    "promoted_tokens",
    "rank_features",
    "text_passages",
]
