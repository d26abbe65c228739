"""Changing features: one prediction, or a whole continuation."""

from saescope.steering.edits import MODES, FeatureEdit
from saescope.steering.intervene import Intervention, Readout, intervene
from saescope.steering.steer import Arm, Steering, steer

__all__ = ["MODES", "Arm", "FeatureEdit", "Intervention", "Readout", "Steering", "intervene", "steer"]
