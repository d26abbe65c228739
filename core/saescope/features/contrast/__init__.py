"""Which features tell two sets of texts, or two models, apart: chosen on one half, tested on the
other."""

from saescope.features.contrast.contrast import contrast_models, contrast_texts

__all__ = ["contrast_models", "contrast_texts"]
