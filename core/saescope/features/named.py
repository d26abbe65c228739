"""Features that a call names by their index."""

from collections.abc import Sequence

from saescope.errors import ArgumentError
from saescope.saes import SAE


def require_features(sae: SAE, features: Sequence[int], field: str = "features") -> None:
    """Raises ArgumentError: FEATURE_OUT_OF_RANGE: the SAE has not all of these features."""
    d_sae = sae.cfg.d_sae
    wrong = [feature for feature in features if not 0 <= feature < d_sae]
    if wrong:
        listed = ", ".join(map(str, wrong[:5]))
        raise ArgumentError(
            f"Feature {listed} is outside this SAE."
            if len(wrong) == 1
            else f"Features {listed} are outside this SAE.",
            code="FEATURE_OUT_OF_RANGE",
            field=field,
            got=wrong[0] if len(wrong) == 1 else wrong[:5],
            allowed=f"0..{d_sae - 1}",
        )
