"""Pictures and pages from plain data."""

from saescope.render.feature_page import feature_app, feature_page
from saescope.render.pictures import (
    density_histogram,
    feature_picture,
    require_pictures,
    training_curves,
    variance_by_position,
)

__all__ = [
    "density_histogram",
    "feature_app",
    "feature_page",
    "feature_picture",
    "require_pictures",
    "training_curves",
    "variance_by_position",
]
