"""How often and how strongly every feature fires: exact counts, sums, maxima, and histograms on
each feature's own scale.

Counted are fourteen octaves below the end of the one that holds the maximum, in twentieths: that
gives the 99th percentile to 1.8 % even of a feature whose strongest firings are outliers by far.
What is shown, and kept on disk, is the upper ten octaves in quarters.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.features.index.firings import Firings
from saescope.ops import TYPICAL, places

QUARTERS, N_BINS = 4, 40
"""Bins of an octave, and of a histogram, as it is shown."""
STEPS, N_OCTAVES = 20, 14
"""Bins of an octave while counting, and how many octaves are counted."""
N_COUNTED = STEPS * N_OCTAVES
CHUNK = 4096
"""Features whose percentile is looked for together."""
_EDGES = tuple(2 ** (i / STEPS - 1) for i in range(1, STEPS))


class OctaveBins(NamedTuple):
    """The places of values on the scale of powers of two: `2^octave <= value < 2^(octave + 1)`."""

    octave: Int[Tensor, " n"]
    step: Int[Tensor, " n"]
    """The twentieth of the octave in which each value lies."""

    @property
    def quarter(self) -> Int[Tensor, " n"]:
        return self.step // (STEPS // QUARTERS)


def scale_of(values: Float[Tensor, " n"]) -> OctaveBins:
    """Place values on the scale exactly, by mantissa and exponent; 0 is in octave -1."""
    mantissa, exponent = torch.frexp(values)
    edges = torch.tensor(_EDGES, device=values.device)
    return OctaveBins(exponent.long() - 1, torch.bucketize(mantissa, edges, right=True))


class Growth(NamedTuple):
    """What a batch makes of the maxima."""

    maxima: Float[Tensor, " d_sae"]
    n_octaves: Int[Tensor, " d_sae"]
    """By how many octaves each grows; 0 for a feature that had none."""


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

    def growth(self, firings: Firings) -> Growth:
        """What a batch makes of the maxima; nothing is counted yet."""
        maxima = self.maxima.scatter_reduce(0, firings.features, firings.values, "amax")
        n_octaves = scale_of(maxima).octave - self.top_octave
        return Growth(maxima, torch.where(self.maxima > 0, n_octaves, 0))

    def add(
        self, firings: Firings, n_tokens: int, growth: Growth, n_grown: int | None = None
    ) -> None:
        """Count a batch with `n_tokens` counted positions, by whose growth the maxima of `n_grown`
        features come into a higher octave."""
        self.n_tokens += n_tokens
        ones = torch.ones_like(firings.features)
        self.n_fired.index_add_(0, firings.features, ones)
        # Unlike index_add_ this adds in the same order on a GPU, too: a resumed run must end with
        # the same bits.
        self.sums.index_put_((firings.features,), firings.values.double(), accumulate=True)
        # The bins hang from the octave of the maximum: as it grows, what was counted moves down
        # before anything new is counted.
        self.maxima.copy_(growth.maxima)
        self._shift(growth.n_octaves, places(growth.n_octaves > 0, n_grown))
        top, scale = self.top_octave, scale_of(firings.values)
        bins = _bins(top[firings.features] - scale.octave, scale.step)
        # [d_sae, n_bins] as one long vector, so that feature and bin are one index. Integers: the
        # order of adding is no matter.
        self.counts.view(-1).index_add_(0, firings.features * N_COUNTED + bins, ones.int())

    @property
    def histogram(self) -> Int[Tensor, "d_sae n_bins"]:
        """Counts by quarter octaves; the last four belong to the octave of the maximum."""
        # [d_sae, n_counted] -> [d_sae, n_counted / 5, 5] -> quarters of an octave.
        quarters = self.counts.unflatten(1, (-1, STEPS // QUARTERS)).sum(2, dtype=torch.int32)
        lowest = quarters[:, : 1 - N_BINS].sum(1, keepdim=True, dtype=torch.int32)
        return torch.cat([lowest, quarters[:, 1 - N_BINS :]], dim=1)

    def typical(self) -> Float[Tensor, " d_sae"]:
        """The 99th percentile of each feature's activations above zero, between order statistics as
        numpy's; 0 if it never fired.

        Good to 1.8 % (half a twentieth of an octave); 0, too, where it is less than an 8,000th of
        the maximum.
        """
        # The place of the quantile among the sorted activations, as numpy's method "linear" has it;
        # float64 holds it exactly.
        place = TYPICAL * (self.n_fired - 1).clamp(min=0).double()
        lower = place.floor().long()
        low, high = (self._at_rank(rank).double() for rank in (lower, lower + 1))
        between = low + (place - lower) * (high - low)
        return torch.where(low > 0, between, 0).float()  # nothing is known below the lowest bin

    def _at_rank(self, rank: Int[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
        """The activation with so many weaker ones: the centre of its bin, or the maximum itself; 0
        in the lowest bin, which has none."""
        bins = [
            # The bin in which the running count first exceeds the rank.
            torch.searchsorted(counts.cumsum(1), wanted[:, None], right=True)[:, 0]
            for counts, wanted in zip(self.counts.split(CHUNK), rank.split(CHUNK), strict=True)
        ]
        bin_ = torch.cat(bins).clamp(max=N_COUNTED - 1)
        centres = (_centres(self.counts.device)[bin_] + self.top_octave).exp2().float()
        centres = torch.where(bin_ > 0, centres.minimum(self.maxima), 0)
        return torch.where(rank >= self.n_fired - 1, self.maxima, centres)

    def _shift(self, n_octaves: Int[Tensor, " d_sae"], grown: Int[Tensor, " n_grown"]) -> None:
        """Room above for features whose maximum grew; what leaves below is counted in the lowest
        bin."""
        old = self.counts[grown]
        depth, step = _places(old.device)
        # [n_grown, n_counted]: where each bin's count goes; several meet in the lowest, so it is
        # added, not written.
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
        """The statistics as an index keeps them."""
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
    """The bin of values so many octaves below that of the maximum; the lowest takes all that is
    smaller."""
    return (N_COUNTED - STEPS * (depth + 1) + step).clamp(min=0)


def _places(device: torch.device) -> OctaveBins:
    """How many octaves below the maximum's each bin is, and which step it is there."""
    bins = torch.arange(N_COUNTED, device=device)
    return OctaveBins(N_OCTAVES - 1 - bins // STEPS, bins % STEPS)


def _centres(device: torch.device) -> Tensor:
    """log2 of the middle of each bin, relative to the beginning of the octave that holds the
    maximum."""
    depth, step = _places(device)
    return (step + 0.5).double() / STEPS - depth
