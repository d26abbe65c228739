"""Sums over positions, kept by document, so that any metric can be had for any resampling of the
text."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.metrics import student_t
from saescope.precision import wide_device
from saescope.records.evaluation import Interval

MIN_GROUPS = 5
"""There is no interval from fewer documents than this."""
N_RESAMPLES = 1000


class GroupedSums:
    """Named sums of numbers or vectors, one row for each group; they stay where the values are
    until they are asked for."""

    def __init__(self, n_groups: int) -> None:
        self.n_groups = n_groups
        self._sums: dict[str, Float[Tensor, "n_groups ..."]] = {}

    def add(
        self,
        name: str,
        groups: Int[Tensor, " n"],
        values: Tensor,
        *,
        where: Bool[Tensor, " n"] | None = None,
    ) -> None:
        """Add `values` [n, ...] to the rows `groups`: those `where` it says, the others count
        nothing."""
        wide = values.to(wide_device(values.device)).double()
        if where is not None:
            keep = where.to(wide.device).reshape(-1, *[1] * (wide.ndim - 1))
            wide = torch.where(keep, wide, 0.0)
        if name not in self._sums:
            self._sums[name] = wide.new_zeros(self.n_groups, *values.shape[1:])
        self._sums[name].index_add_(0, groups.to(wide.device), wide)

    def total(self, name: str) -> Float[Tensor, "..."]:
        """One sum over all groups, float64 on the CPU."""
        return self._sums[name].sum(0).cpu()

    @property
    def table(self) -> dict[str, Float[Tensor, "n_groups ..."]]:
        """Every sum by its name, float64 on the CPU."""
        return {name: sums.cpu() for name, sums in self._sums.items()}

    def totals(self, weights: Float[Tensor, "n_draws n_groups"]) -> dict[str, Tensor]:
        """Each sum over the groups, with every group counted as often as its weight says."""
        return {name: weights @ table for name, table in self.table.items()}


def once(n_groups: int) -> Float[Tensor, "1 n_groups"]:
    """Weights that count every group once."""
    return torch.ones(1, n_groups, dtype=torch.float64)


def resampled(n_groups: int, seed: int) -> Float[Tensor, "n_draws n_groups"]:
    """Weights of bootstrap draws: as many groups as there are, drawn with replacement."""
    draws = torch.randint(
        n_groups, (N_RESAMPLES, n_groups), generator=torch.Generator().manual_seed(seed)
    )
    return torch.zeros(N_RESAMPLES, n_groups, dtype=torch.float64).scatter_add_(
        1, draws, torch.ones(draws.shape, dtype=torch.float64)
    )


def interval(values: Float[Tensor, " n_draws"], n_groups: int) -> Interval | None:
    """The 95 % interval of a bootstrap over `n_groups`; None if no draw has a value.

    The percentiles are widened as Student's t widens a normal interval (Hesterberg 2015,
    arXiv:1411.5279): plain ones of ten groups hold the true value in 90 % of samples.
    """
    finite = values[values.isfinite()]
    if not len(finite) or n_groups < MIN_GROUPS:
        return None
    wide = torch.tensor(-student_t(n_groups - 1) * (n_groups / (n_groups - 1)) ** 0.5)
    tail = float(torch.special.ndtr(wide.double()))
    low, high = torch.quantile(finite, torch.tensor([tail, 1 - tail], dtype=finite.dtype)).tolist()
    return Interval(low, high)
