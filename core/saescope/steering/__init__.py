"""Changing features: one prediction, or a whole continuation."""

from saescope.steering.edits import MODES, FeatureEdit
from saescope.steering.indexed import activations_in, indexed_activations
from saescope.steering.intervene import (
    Intervention,
    Interventions,
    Measuring,
    Readout,
    intervene,
    intervene_all,
)
from saescope.steering.steer import Arm, Steering, steer
from saescope.steering.sweep import Sweep, check_strengths, sweep
from saescope.steering.units import IndexedActivations
from saescope.steering.writers import find_by_tokens

__all__ = [
    "MODES",
    "Arm",
    "FeatureEdit",
    "IndexedActivations",
    "Intervention",
    "Interventions",
    "Measuring",
    "Readout",
    "Steering",
    "Sweep",
    "activations_in",
    "check_strengths",
    "find_by_tokens",
    "indexed_activations",
    "intervene",
    "intervene_all",
    "steer",
    "sweep",
]
