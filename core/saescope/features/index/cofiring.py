"""Who fires with whom, and where nobody does, in the contexts of which everything is known."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float64, Int, Int16, Int32
from torch import Tensor

from saescope.features.index.rows import Cofiring

LEAST_TOGETHER = 2


@dataclass(frozen=True)
class Sample:
    """Sampled contexts in CSR by position (as `ContextSample.arrays` says)."""

    offsets: Int32[Tensor, " n_pos_plus_1"]
    features: Int16[Tensor, " n"] | Int32[Tensor, " n"]
    contexts: Int32[Tensor, " n_contexts"]
    """The numbers of the contexts in the index."""
    n_counted: Int[Tensor, ""]
    context_size: int
    d_sae: int
    special_ids: Int[Tensor, " n_special"]

    @cached_property
    def n_fired(self) -> Float64[Tensor, " d_sae"]:
        """The number of positions at which each feature fires."""
        return torch.bincount(self.features.long(), minlength=self.d_sae).double()

    def where(self, feature: int) -> Int[Tensor, " n"]:
        """Positions at which a feature fires: context * context_size + pos."""
        entries = (self.features == feature).nonzero()[:, 0]
        return torch.searchsorted(self.offsets, entries.int(), right=True) - 1

    def fires(self, feature: int) -> Bool[Tensor, "n_contexts context_size"]:
        """Whether a feature fires at each position, as a picture of the contexts."""
        fires = torch.zeros(len(self.contexts) * self.context_size, dtype=torch.bool)
        fires[self.where(feature)] = True
        return fires.reshape(-1, self.context_size)


def partners(sample: Sample, feature: int, k: int) -> list[Cofiring]:
    """The `k` features with the largest phi to this one, of those that fire with it at
    `LEAST_TOGETHER` positions or more."""
    where = sample.where(feature)
    # sizes[j]: how many features fire at the j-th position where this one does.
    sizes = sample.offsets.diff()[where].long()
    first = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    # The ranges offsets[p]:offsets[p + 1] of those positions, laid end to end.
    entries = (
        sample.offsets[where].long().repeat_interleave(sizes)
        + torch.arange(int(sizes.sum()))
        - first
    )
    together = torch.bincount(sample.features[entries].long(), minlength=sample.d_sae).double()
    together[feature] = 0
    others = (together >= LEAST_TOGETHER).nonzero()[:, 0]
    if not len(others):
        return []
    n_all, n_one = float(sample.n_counted), float(len(where))
    n_other = sample.n_fired[others]
    # phi = (n n_11 - n_1. n_.1) / sqrt(n_1. n_.1 (n - n_1.) (n - n_.1)); 0 / 0 where a feature
    # fires at every position.
    spread = (n_one * n_other * (n_all - n_one) * (n_all - n_other)).sqrt()
    phi = torch.where(
        spread > 0, (together[others] * n_all - n_one * n_other) / spread.clamp(min=1e-9), 0.0
    )
    best = phi.argsort(descending=True, stable=True)[:k]
    return [
        Cofiring(
            int(others[i]),
            int(together[others[i]]),
            float(together[others[i]]) / n_one,
            float(phi[i]),
        )
        for i in best.tolist()
    ]
