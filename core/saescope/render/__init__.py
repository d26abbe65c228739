"""Pictures from plain data."""

from saescope.render.pictures import density_histogram, training_curves, variance_by_position

__all__ = ["density_histogram", "training_curves", "variance_by_position"]
