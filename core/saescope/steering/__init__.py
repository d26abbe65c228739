"""Changing features: one prediction, or a whole continuation."""

from saescope.steering.edits import MODES, FeatureEdit
from saescope.steering.intervene import Intervention, Readout, intervene
from saescope.steering.steer import Arm, Steering, steer
from saescope.steering.sweep import Sweep, sweep
from saescope.steering.units import IndexedActivations

__all__ = [
    "MODES",
    "Arm",
    "FeatureEdit",
    "IndexedActivations",
    "Intervention",
    "Readout",
    "Steering",
    "Sweep",
    "intervene",
    "steer",
    "sweep",
]
