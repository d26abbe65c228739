"""Changing features: one prediction, or a whole continuation."""

from saescope.steering.edits import MODES, FeatureEdit
from saescope.steering.intervene import (
    Asked,
    Intervention,
    Interventions,
    Readout,
    intervene,
    intervene_all,
)
from saescope.steering.steer import Arm, Steering, steer
from saescope.steering.sweep import Sweep, sweep
from saescope.steering.units import IndexedActivations

__all__ = [
    "MODES",
    "Arm",
    "Asked",
    "FeatureEdit",
    "IndexedActivations",
    "Intervention",
    "Interventions",
    "Readout",
    "Steering",
    "Sweep",
    "intervene",
    "intervene_all",
    "steer",
    "sweep",
]
