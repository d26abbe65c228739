"""How ranks share the work of one SAE: each takes other positions of the batch, or each holds other
features.

Positions: every rank has the whole SAE; gradients are summed. Features: every rank has rows of the
encoder and the decoder, their moments and their statistics, and sees all positions; what positions
need of all features is summed. Either way the steps are those of one process, to rounding.
"""

from typing import NamedTuple

from saescope.ranks import ALONE, Ranks

OF_ALL = ("b_dec", "W_skip")
"""Parameters that are no rows of features: every rank has them as a whole."""


class Split(NamedTuple):
    """The ranks that have other positions, and those that have other features; not both."""

    positions: Ranks = ALONE
    features: Ranks = ALONE

    @property
    def ranks(self) -> Ranks:
        return self.features if self.positions.alone else self.positions


WHOLE = Split()
