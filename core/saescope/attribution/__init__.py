"""Explaining a prediction by features."""

from saescope.attribution.attribute import (
    METHODS,
    Attribution,
    FeatureEffect,
    Joint,
    SAEShare,
    attribute,
)

__all__ = ["METHODS", "Attribution", "FeatureEffect", "Joint", "SAEShare", "attribute"]
