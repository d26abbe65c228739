"""The scientist's bench: which features do it, what two prompts differ by, which features two SAEs
share, and how strongly to push features for a concept."""

from saescope.search.causes import find_causes
from saescope.search.matching import match_features
from saescope.search.pairs import compare_prompts
from saescope.search.prompts import neutral_prompts
from saescope.search.selection import select_features
from saescope.search.strength import steer_search

__all__ = [
    "compare_prompts",
    "find_causes",
    "match_features",
    "neutral_prompts",
    "select_features",
    "steer_search",
]
