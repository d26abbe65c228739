"""Activations made of known features: what an SAE should find is known, so what it found can be
scored. No language model is needed."""

from saescope.worlds.scores import WorldScore, score_on_world
from saescope.worlds.world import World, WorldBatches, WorldConfig, WorldSample

__all__ = ["World", "WorldBatches", "WorldConfig", "WorldSample", "WorldScore", "score_on_world"]
