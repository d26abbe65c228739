"""Sets: the SAEs of several layers as one thing, whose weights are read when they are needed."""

from saescope.sets.member import Member
from saescope.sets.opening import load_set
from saescope.sets.sae_set import SAESet, SetMemory

__all__ = ["Member", "SAESet", "SetMemory", "load_set"]
