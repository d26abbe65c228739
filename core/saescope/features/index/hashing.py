"""Chance without a generator: what is sampled depends on what it is, never on the order in which it
came."""

from jaxtyping import Int
from torch import Tensor

from saescope.activations.hashing import STEP, mixed


def hash_entries(
    seed: int,
    features: Int[Tensor, "*n"],
    contexts: Int[Tensor, "*n"],
    positions: Int[Tensor, "*n"],
) -> Int[Tensor, "*n"]:
    """A hash of a feature's firing at a position of a context."""
    return mixed(contexts + mixed(features * 2**16 + positions + (seed % 2**31) * STEP))


def hash_order(seed: int, contexts: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Give each context a number by which they are in random order, the same for the same seed."""
    return mixed(contexts + (seed % 2**31 + 1) * STEP)


def is_quiz(contexts: Int[Tensor, " n"], share: float) -> Tensor:
    """Which contexts only quizzes may show; the same in every index, whatever its seed."""
    # The hash is uniform on [0, 2^63): the share below a bound is the bound over 2^63.
    return mixed(contexts ^ STEP) < int(share * 2**63)
