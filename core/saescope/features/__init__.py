"""What features fire on and what they write."""

from saescope.effects import logit_effects, promoted_tokens
from saescope.features.encode import Encoded, TextFeatures, encode_texts
from saescope.features.rank import RankedFeature, Ranking, rank_features

__all__ = ["Encoded", "RankedFeature", "Ranking", "TextFeatures", "encode_texts", "logit_effects", "promoted_tokens", "rank_features"]
