"""The scientist's bench: which features do it, what two prompts differ by, and which features two
SAEs share."""

from saescope.search.causes import find_causes
from saescope.search.matching import match_features
from saescope.search.pairs import compare_prompts
from saescope.search.prompts import neutral_prompts

__all__ = ["compare_prompts", "find_causes", "match_features", "neutral_prompts"]
