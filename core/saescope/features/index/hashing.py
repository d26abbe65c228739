"""Chance without a generator: what is sampled depends on what it is, never on the order in which it
came."""

import torch
from jaxtyping import Int
from torch import Tensor

MOST = 2**63 - 1
"""Hashes are in [0, MOST]."""


def _signed(constant: int) -> int:
    return constant - 2**64 if constant >= 2**63 else constant


_STEP = _signed(0x9E3779B97F4A7C15)
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
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device) * _STEP
    return mixed(mixed(ids.long() + places).sum(1))


def hash_entries(
    seed: int,
    features: Int[Tensor, "*n"],
    contexts: Int[Tensor, "*n"],
    positions: Int[Tensor, "*n"],
) -> Int[Tensor, "*n"]:
    """A hash of a feature's firing at a position of a context."""
    return mixed(contexts + mixed(features * 2**16 + positions + (seed % 2**31) * _STEP))


def hash_order(seed: int, contexts: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Give each context a number by which they are in random order, the same for the same seed."""
    return mixed(contexts + (seed % 2**31 + 1) * _STEP)


def is_quiz(contexts: Int[Tensor, " n"], share: float) -> Tensor:
    """Which contexts only quizzes may show; the same in every index, whatever its seed."""
    # The hash is uniform on [0, 2^63): the share below a bound is the bound over 2^63.
    return mixed(contexts ^ _STEP) < int(share * 2**63)


def _shifted(x: Int[Tensor, "*n"], n: int) -> Int[Tensor, "*n"]:
    """Right, zeros moving in: on signed numbers `>>` alone would copy the sign."""
    return (x >> n) & (2 ** (64 - n) - 1)
