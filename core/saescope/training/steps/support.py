"""The places where activations may be non-zero, dense or sparse, with the handful of products that
a backward pass is made of.

A family writes its maths once over `values`; whether those are a dense `[n, d_sae]` chunk or the
entries of a whole batch is decided by their number. Indices are int32: `embedding_bag` reads them
twice as fast as int64.
"""

import warnings
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from saescope.products import times_rows


class Grads(dict[str, Tensor]):
    """Gradients by parameter name, summed over what is added."""

    def add(self, name: str, grad: Tensor) -> None:
        if name in self:
            self[name].add_(grad)
        else:
            self[name] = grad


class DenseSupport:
    """All features of a chunk of positions."""

    def __init__(self, values: Float[Tensor, "n d_sae"]) -> None:
        self.values = values

    def take(self, per_feature: Float[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
        """Lay `per_feature` beside `values`."""
        return per_feature

    def spread(self, per_position: Float[Tensor, " n"]) -> Float[Tensor, "n 1"]:
        """Lay `per_position` beside `values`."""
        return per_position[:, None]

    def by_feature(self, values: Tensor) -> Float[Tensor, " d_sae"]:
        return values.sum(0)

    def by_position(self, values: Tensor) -> Float[Tensor, " n"]:
        return values.sum(1)

    def count(self, active: Tensor) -> Int[Tensor, " d_sae"]:
        """Count on how many positions each feature is active."""
        return active.sum(0)

    def decode(self, values: Tensor, rows: Float[Tensor, "d_sae d"]) -> Float[Tensor, "n d"]:
        """Sum values_i rows_i over the entries i of each position."""
        return times_rows(values, rows.T)

    def dots(self, at: Float[Tensor, "n d"], rows: Float[Tensor, "d_sae d"]) -> Tensor:
        """Multiply rows_i with `at` for each entry i."""
        return times_rows(at, rows)

    def add_outer(self, grads: Grads, name: str, values: Tensor, at: Float[Tensor, "n d"]) -> None:
        """Add to a gradient the sum over positions of values_i at."""
        grads.add(name, times_rows(values.T, at.T))


class SparseSupport:
    """Some entries of a batch, in CSR form: those of position p are `offsets[p]:offsets[p + 1]`."""

    def __init__(
        self,
        values: Float[Tensor, " nnz"],
        features: Int[Tensor, " nnz"],
        offsets: Int[Tensor, " n_plus_1"],
        d_sae: int,
    ) -> None:
        self.values, self.features, self.offsets, self.d_sae = (
            values,
            features.int(),
            offsets.int(),
            d_sae,
        )

    def take(self, per_feature: Float[Tensor, " d_sae"]) -> Float[Tensor, " nnz"]:
        return per_feature.index_select(0, self.features)

    def spread(self, per_position: Float[Tensor, " n"]) -> Float[Tensor, " nnz"]:
        return per_position.index_select(0, self.positions)

    def by_feature(self, values: Float[Tensor, " nnz"]) -> Float[Tensor, " d_sae"]:
        return values.new_zeros(self.d_sae).index_add_(0, self.features, values)

    def by_position(self, values: Float[Tensor, " nnz"]) -> Float[Tensor, " n"]:
        return values.new_zeros(len(self.offsets) - 1).index_add_(0, self.positions, values)

    def count(self, active: Tensor) -> Int[Tensor, " d_sae"]:
        fired = active.new_zeros(self.d_sae, dtype=torch.int64)
        return fired.index_add_(0, self.features, active.long())

    def decode(
        self, values: Float[Tensor, " nnz"], rows: Float[Tensor, "d_sae d"]
    ) -> Float[Tensor, "n d"]:
        return bag(self.features, rows, self.offsets, values)

    def dots(
        self, at: Float[Tensor, "n d"], rows: Float[Tensor, "d_sae d"]
    ) -> Float[Tensor, " nnz"]:
        return sampled_dots(self.offsets, self.features, at, rows)

    def outer(
        self, values: Float[Tensor, " nnz"], at: Float[Tensor, "n d"]
    ) -> Float[Tensor, "d_sae d"]:
        """sum over positions of values_i at, for each feature i."""
        order, positions, offsets = self._grouped
        return bag(positions, at, offsets, values[order])

    def add_outer(
        self, grads: Grads, name: str, values: Float[Tensor, " nnz"], at: Float[Tensor, "n d"]
    ) -> None:
        grads.add(name, self.outer(values, at))

    @cached_property
    def positions(self) -> Int[Tensor, " nnz"]:
        return entry_rows(self.offsets, len(self.features))

    @cached_property
    def _grouped(self) -> tuple[Tensor, Tensor, Tensor]:
        """Entries sorted by feature: their order, their positions, and where each feature's
        begin."""
        # Transposing the CSR: entries by feature, stably, so that sums run in the order of
        # positions on every run.
        features, order = self.features.sort(stable=True)
        return order, self.positions[order], edges_of(features, self.d_sae)


Support = DenseSupport | SparseSupport


def entry_rows(offsets: Int[Tensor, " n_plus_1"], n_entries: int) -> Int[Tensor, " nnz"]:
    """The row of each entry."""
    rows = torch.arange(len(offsets) - 1, device=offsets.device, dtype=torch.int32)
    return rows.repeat_interleave(offsets.diff(), output_size=n_entries)


def edges_of(rows: Int[Tensor, " nnz"], n_rows: int) -> Int[Tensor, " n_rows_plus_1"]:
    """Where the entries of each row begin, and the last end, of entries sorted by row."""
    edges = torch.arange(n_rows + 1, device=rows.device, dtype=rows.dtype)
    return torch.searchsorted(rows, edges, out_int32=True)


def bag(
    members: Int[Tensor, " nnz"],
    rows: Float[Tensor, "n_rows d"],
    offsets: Int[Tensor, " n_plus_1"],
    weights: Float[Tensor, " nnz"],
) -> Float[Tensor, "n d"]:
    """Weighted sums of rows, a bag for each pair of offsets."""
    return F.embedding_bag(
        members, rows, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def sampled_dots(
    offsets: Int[Tensor, " n_plus_1"],
    features: Int[Tensor, " nnz"],
    at: Float[Tensor, "n d"],
    rows: Float[Tensor, "d_sae d"],
) -> Float[Tensor, " nnz"]:
    """`rows[feature] . at[position]` of each entry: twice as fast as the gradient of
    embedding_bag's weights."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        empty = torch.zeros_like(features, dtype=at.dtype)
        pattern = torch.sparse_csr_tensor(
            offsets, features, empty, (len(at), len(rows)), check_invariants=False
        )
    return torch.sparse.sampled_addmm(pattern, at, rows.T, beta=0.0).values()
