"""The scientist's bench: what two prompts differ by, and which features two SAEs share."""

from saescope.search.matching import match_features
from saescope.search.pairs import compare_prompts

__all__ = ["compare_prompts", "match_features"]
