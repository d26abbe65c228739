"""Chance without a generator: what falls to whom depends on what it is, never on the order in which
it came."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.ranks import Ranks

MOST = 2**63 - 1
"""Hashes are in [0, MOST]."""


def _signed(constant: int) -> int:
    return constant - 2**64 if constant >= 2**63 else constant


STEP = _signed(0x9E3779B97F4A7C15)
_FACTORS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def mixed(x: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """The finalizer of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195), without the
    sign bit."""
    x = (x ^ _shifted(x, 30)) * _FACTORS[0]
    x = (x ^ _shifted(x, 27)) * _FACTORS[1]
    return (x ^ _shifted(x, 31)) & MOST


def hash_contexts(ids: Int[Tensor, "n context_size"]) -> Int[Tensor, " n"]:
    """A hash of the tokens and their order alone: the same text in the same place of a context is
    the same context."""
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device) * STEP
    return mixed(mixed(ids.long() + places).sum(1))


def is_own(contexts: Int[Tensor, " n"], ranks: Ranks) -> Bool[Tensor, " n"]:
    """Which contexts, by their hashes, fall to this rank: each to exactly one, copies to the
    same."""
    return contexts % ranks.size == ranks.rank


def _shifted(x: Int[Tensor, "*n"], n: int) -> Int[Tensor, "*n"]:
    """Right, zeros moving in: on signed numbers `>>` alone would copy the sign."""
    return (x >> n) & (2 ** (64 - n) - 1)
