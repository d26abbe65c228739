"""How often and how strongly every feature fires: exact counts, sums, maxima, and histograms on each feature's own scale.

A histogram covers ten octaves below the end of the octave that holds the maximum: the upper four in twentieths of an octave, which gives
the 99th percentile to 1.8 %, the others in quarters. What is shown, and kept on disk, is quarters throughout.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.features.index.firings import Firings

QUARTERS, N_BINS = 4, 40
"""Bins of an octave, and of a histogram, as it is shown."""
STEPS, N_FINE = 20, 4
"""Bins of each of the upper octaves while counting, and how many octaves these are."""
N_LOW = N_BINS - QUARTERS * N_FINE
N_COUNTED = N_LOW + STEPS * N_FINE
_EDGES = tuple(2 ** (i / STEPS - 1) for i in range(1, STEPS))
TYPICAL = 0.99
"""The quantile of a feature's firing activations that is called typical of it when it is strong."""


class Scale(NamedTuple):
    """Where values lie on the scale of powers of two: `2^octave <= value < 2^(octave + 1)`."""

    octave: Int[Tensor, " n"]
    step: Int[Tensor, " n"]
    """Which twentieth of the octave."""

    @property
    def quarter(self) -> Int[Tensor, " n"]:
        return self.step // (STEPS // QUARTERS)


def scale_of(values: Float[Tensor, " n"]) -> Scale:
    """Exact, by mantissa and exponent; 0 is in octave -1."""
    mantissa, exponent = torch.frexp(values)
    edges = torch.tensor(_EDGES, device=values.device)
    return Scale(exponent.long() - 1, torch.bucketize(mantissa, edges, right=True))


class FeatureStatistics:
    """Sums over all counted positions; `BYTES` of memory a feature."""

    BYTES = 8 + 8 + 4 + 4 * N_COUNTED

    def __init__(self, d_sae: int, device: torch.device) -> None:
        self.n_tokens = 0
        self.n_fired = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.sums = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self.maxima = torch.zeros(d_sae, dtype=torch.float32, device=device)
        self.counts = torch.zeros(d_sae, N_COUNTED, dtype=torch.int32, device=device)

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
        scale = scale_of(firings.values)
        bins = _bins(top[firings.features] - scale.octave, scale.step)
        self.counts.view(-1).index_add_(0, firings.features * N_COUNTED + bins, ones.int())

    @property
    def histogram(self) -> Int[Tensor, "d_sae n_bins"]:
        """Counts by quarter octaves; the last four belong to the octave of the maximum."""
        fine = self.counts[:, N_LOW:].unflatten(1, (-1, STEPS // QUARTERS))
        return torch.cat([self.counts[:, :N_LOW], fine.sum(2, dtype=torch.int32)], dim=1)

    def typical(self) -> Float[Tensor, " d_sae"]:
        """The 99th percentile of each feature's activations above zero, between order statistics as numpy's; 0 if it never fired.

        Good to 1.8 % down to an eighth of the maximum (half a twentieth of an octave), below that to 9 %.
        """
        place = TYPICAL * (self.n_fired - 1).clamp(min=0).double()
        lower = place.floor().long()
        low, high = (self._at_rank(rank).double() for rank in (lower, lower + 1))
        return (low + (place - lower) * (high - low)).float()

    def _at_rank(self, rank: Int[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
        """The activation with so many weaker ones: the centre of its bin, or the maximum itself."""
        reached = self.counts.cumsum(1) > rank[:, None]
        bin_ = torch.where(reached.any(1), reached.int().argmax(1), N_COUNTED - 1)
        found = (_centres(self.counts.device)[bin_] + self.top_octave).exp2().float()
        return torch.where(rank >= self.n_fired - 1, self.maxima, found.minimum(self.maxima))

    def _shift(self, n_octaves: Int[Tensor, " d_sae"]) -> None:
        """Room above for features whose maximum grew; what leaves below is counted in the lowest bin."""
        grown = n_octaves.nonzero()[:, 0]
        old = self.counts[grown]
        depth, step = _places(old.device)
        bins = _bins(depth + n_octaves[grown, None], step.expand(len(grown), -1))
        self.counts[grown] = torch.zeros_like(old).scatter_add_(1, bins, old)

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "n_tokens": torch.tensor(self.n_tokens),
            "n_fired": self.n_fired,
            "sums": self.sums,
            "maxima": self.maxima,
            "counts": self.counts,
        }

    def arrays(self) -> dict[str, Tensor]:
        """As an index keeps them."""
        return {
            "n_fired": self.n_fired,
            "sums": self.sums,
            "maxima": self.maxima,
            "histogram": self.histogram,
            "typical": self.typical(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.n_tokens = int(state["n_tokens"])
        for name, array in self.state_dict().items():
            if name != "n_tokens":
                array.copy_(state[name])


def _bins(depth: Int[Tensor, "*n"], step: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """The bin of values so many octaves below that of the maximum."""
    quarter = step // (STEPS // QUARTERS)
    low = (N_BINS - QUARTERS * (depth + 1) + quarter).clamp(min=0)
    return torch.where(depth < N_FINE, N_LOW + STEPS * (N_FINE - 1 - depth) + step, low)


def _places(device: torch.device) -> Scale:
    """How many octaves below the maximum's each bin is, and at which step it begins there."""
    low, fine = torch.arange(N_LOW, device=device), torch.arange(N_COUNTED - N_LOW, device=device)
    depth = [N_BINS // QUARTERS - 1 - low // QUARTERS, N_FINE - 1 - fine // STEPS]
    return Scale(torch.cat(depth), torch.cat([low % QUARTERS * (STEPS // QUARTERS), fine % STEPS]))


def _centres(device: torch.device) -> Tensor:
    """log2 of the middle of each bin, relative to the beginning of the octave that holds the maximum."""
    depth, step = _places(device)
    width = torch.where(depth < N_FINE, 1.0, STEPS / QUARTERS)
    return (step + width / 2).double() / STEPS - depth
