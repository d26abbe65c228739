"""How often each feature fires while it is trained: from point to point of the curve."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from saescope.ranks import ALONE, Ranks


class FiringCounts(NamedTuple):
    """How often each feature fired, on so many tokens."""

    counts: Int[Tensor, " d_sae"]
    n_tokens: int


class FiringCounter:
    """Counts since the last point of the history; a resumed run begins to count anew."""

    def __init__(self, d_sae: int, device: torch.device, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        """Those that have other features."""
        self._counts = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self._n_tokens = 0
        self.last: FiringCounts | None = None
        """Between the last two points; never written to again."""

    def add(self, fired: Int[Tensor, " d_sae"], n_tokens: int) -> None:
        self._counts += fired
        self._n_tokens += n_tokens

    def close(self) -> None:
        """A point of the history is there: count the next from 0."""
        self.last = FiringCounts(self.ranks.together(self._counts), self._n_tokens)
        self._counts, self._n_tokens = torch.zeros_like(self._counts), 0
