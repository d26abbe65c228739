"""How often and how strongly every feature fires: exact counts, sums, maxima, and histograms on each feature's own scale."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.features.index.firings import Firings

N_BINS = 40
QUARTERS = 4
"""Bins of an octave: a histogram covers ten octaves below the end of the octave that holds the maximum."""
_EDGES = tuple(2 ** (i / QUARTERS - 1) for i in range(1, QUARTERS))


class Scale(NamedTuple):
    """Where values lie on the scale of powers of two: `2^octave <= value < 2^(octave + 1)`."""

    octave: Int[Tensor, " n"]
    quarter: Int[Tensor, " n"]


def scale_of(values: Float[Tensor, " n"]) -> Scale:
    """Exact, by mantissa and exponent; 0 is in octave -1."""
    mantissa, exponent = torch.frexp(values)
    edges = torch.tensor(_EDGES, device=values.device)
    return Scale(exponent.long() - 1, torch.bucketize(mantissa, edges, right=True))


class FeatureStatistics:
    """Sums over all counted positions; `BYTES` of memory a feature."""

    BYTES = 8 + 8 + 4 + 4 * N_BINS

    def __init__(self, d_sae: int, device: torch.device) -> None:
        self.n_tokens = 0
        self.n_fired = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.sums = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self.maxima = torch.zeros(d_sae, dtype=torch.float32, device=device)
        self.histogram = torch.zeros(d_sae, N_BINS, dtype=torch.int32, device=device)

    @property
    def top_octave(self) -> Int[Tensor, " d_sae"]:
        """The octave of each feature's maximum."""
        return scale_of(self.maxima).octave

    def add(self, firings: Firings, n_tokens: int) -> None:
        """Count a batch with `n_tokens` counted positions."""
        self.n_tokens += n_tokens
        ones = torch.ones_like(firings.features)
        self.n_fired.index_add_(0, firings.features, ones)
        # Unlike index_add_ this adds in the same order on a GPU, too: a resumed run must end with the same bits.
        self.sums.index_put_((firings.features,), firings.values.double(), accumulate=True)
        before, fired = self.top_octave, self.maxima > 0
        self.maxima.scatter_reduce_(0, firings.features, firings.values, "amax")
        top = self.top_octave
        self._shift(torch.where(fired, top - before, 0))
        octave, quarter = scale_of(firings.values)
        bins = (N_BINS - QUARTERS * (top[firings.features] + 1 - octave) + quarter).clamp(min=0)
        self.histogram.view(-1).index_add_(0, firings.features * N_BINS + bins, ones.int())

    def _shift(self, n_octaves: Int[Tensor, " d_sae"]) -> None:
        """Room above for features whose maximum grew; what leaves below is counted in the lowest bin."""
        grown = n_octaves.nonzero()[:, 0]
        old = self.histogram[grown]
        bins = torch.arange(N_BINS, device=old.device) - QUARTERS * n_octaves[grown, None]
        self.histogram[grown] = torch.zeros_like(old).scatter_add_(1, bins.clamp(min=0), old)

    def state_dict(self) -> dict[str, Tensor]:
        return {"n_tokens": torch.tensor(self.n_tokens)} | self.arrays()

    def arrays(self) -> dict[str, Tensor]:
        return {
            "n_fired": self.n_fired,
            "sums": self.sums,
            "maxima": self.maxima,
            "histogram": self.histogram,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.n_tokens = int(state["n_tokens"])
        for name, array in self.arrays().items():
            array.copy_(state[name])
