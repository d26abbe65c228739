"""Sparse feature activations, and the few tensor operations that everything else is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.precision import wide_device

CHUNK = 1024
"""Positions encoded at a time on a CPU: the dense pre-activations of one chunk are all that ever
exists at once."""
CHUNK_BYTES = 2**30
"""What the pre-activations of a chunk may take on an accelerator, which each chunk makes the host
wait for."""


TYPICAL = 0.99
"""The quantile of a feature's firing activations that is called typical of it when it is strong."""


def sizes_are_free(device: torch.device) -> bool:
    """Whether the host knows how many entries there are without waiting for a device. Where it does
    not, what is looked at has a size that is known beforehand, and what does not count is 0."""
    return device.type == "cpu"


def places(mask: Bool[Tensor, " n"], n_true: int | None = None) -> Int[Tensor, " n_true"]:
    """Where a mask holds. An accelerator's host that knows at how many places waits for nothing."""
    if n_true is None or sizes_are_free(mask.device):
        return mask.nonzero()[:, 0]
    return mask.byte().argsort(descending=True, stable=True)[:n_true]


def chunk_of(x: Float[Tensor, "n_pos d_in"], d_sae: int) -> int:
    """How many positions are encoded at a time."""
    if sizes_are_free(x.device):
        return CHUNK
    return max(CHUNK, CHUNK_BYTES // (d_sae * x.element_size()))


@dataclass(frozen=True, slots=True)
class SparseActs:
    """Active features of each position in CSR form: entries of position p are `offsets[p]:offsets[p
    + 1]`."""

    values: Float[Tensor, " nnz"]
    features: Int[Tensor, " nnz"]
    offsets: Int[Tensor, " n_pos_plus_1"]
    d_sae: int

    @property
    def n_pos(self) -> int:
        return len(self.offsets) - 1

    @property
    def l0(self) -> Int[Tensor, " n_pos"]:
        """The number of active features of each position."""
        return self.offsets.diff()

    @property
    def positions(self) -> Int[Tensor, " nnz"]:
        """The position of each entry, [nnz]."""
        counts = self.offsets.diff()
        rows = torch.arange(len(counts), device=counts.device)
        # With the size said, an accelerator's host need not wait for the counts.
        return torch.repeat_interleave(rows, counts, output_size=len(self.values))

    def select(self, keep: Bool[Tensor, " nnz"]) -> "SparseActs":
        """Keep all positions with only some of their entries."""
        here = keep.nonzero()[:, 0]
        return from_entries(
            self.values[here], self.features[here], self.positions[here], self.n_pos, self.d_sae
        )

    def between(self, start: int, end: int) -> "SparseActs":
        """The positions from `start` up to `end`, which is left out."""
        offsets = self.offsets[start : end + 1]
        here = slice(*offsets[[0, -1]].tolist())
        return SparseActs(self.values[here], self.features[here], offsets - offsets[0], self.d_sae)

    def of_feature(self, feature: int) -> Float[Tensor, " n_pos"]:
        """Return one feature's activation at every position, [n_pos]."""
        own = torch.where(self.features == feature, self.values, 0)
        return self.values.new_zeros(self.n_pos).index_add(0, self.positions, own)

    def at(self, positions: Int[Tensor, " n"], features: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Activations at (position, feature) pairs; 0 where the feature does not fire."""
        # A pair is one number, position-major; within a position the entries are in no order, so
        # the keys are sorted first.
        keys, order = (self.positions * self.d_sae + self.features).sort()
        wanted = positions * self.d_sae + features
        if not len(keys):
            return self.values.new_zeros(len(wanted))
        # For a pair that is not there `place` points at its successor, or past the end.
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return torch.where(keys[place] == wanted, self.values[order[place]], 0)

    def to(self, device: torch.device | str) -> "SparseActs":
        """The same activations on another device."""
        return SparseActs(
            self.values.to(device), self.features.to(device), self.offsets.to(device), self.d_sae
        )

    def maxima(self) -> Float[Tensor, " d_sae"]:
        """Each feature's largest activation; 0 where it never fires."""
        return self.values.new_zeros(self.d_sae).scatter_reduce(
            0, self.features, self.values, "amax"
        )

    def typical(self) -> Float[Tensor, " d_sae"]:
        """The 99th percentile of each feature's activations above zero, between order statistics
        as numpy's; 0 where it never fires."""
        place = wide_device(self.values.device)
        if place != self.values.device:
            return self.to(place).typical().to(self.values.device)
        fires = self.values > 0
        values, features = self.values[fires], self.features[fires]
        # By feature, and within a feature by value: two stable sorts.
        by_value = values.argsort(stable=True)
        order = by_value[features[by_value].argsort(stable=True)]
        values, counts = values[order], torch.bincount(features, minlength=self.d_sae)
        place = TYPICAL * (counts - 1).clamp(min=0).double()
        first, fired = counts.cumsum(0) - counts, counts > 0
        lower = (first + place.floor().long())[fired]
        upper = (first + place.ceil().long())[fired]
        found = torch.lerp(
            values[lower].double(), values[upper].double(), (place - place.floor())[fired]
        )
        return self.values.new_zeros(self.d_sae).index_put(
            (fired.nonzero()[:, 0],), found.to(self.values)
        )

    def to_dense(self) -> Float[Tensor, "n_pos d_sae"]:
        dense = self.values.new_zeros(self.n_pos, self.d_sae)
        dense[self.positions, self.features] = self.values
        return dense


def from_entries(
    values: Float[Tensor, " nnz"],
    features: Int[Tensor, " nnz"],
    positions: Int[Tensor, " nnz"],
    n_pos: int,
    d_sae: int,
) -> SparseActs:
    """Make CSR of entries that are sorted by position."""
    edges = torch.arange(n_pos + 1, device=positions.device)
    return SparseActs(values, features, torch.searchsorted(positions.contiguous(), edges), d_sae)


def joined(parts: Sequence[SparseActs]) -> SparseActs:
    """The positions of several parts one after another, where the first one is."""
    first = parts[0]
    counts = torch.cat([part.l0.to(first.offsets) for part in parts])
    return SparseActs(
        torch.cat([part.values.to(first.values) for part in parts]),
        torch.cat([part.features.to(first.features) for part in parts]),
        F.pad(counts.cumsum(0), (1, 0)),
        first.d_sae,
    )


def from_dense(acts: Float[Tensor, "n_pos d_sae"]) -> SparseActs:
    """Take the non-zero entries of dense activations."""
    positions, features = acts.nonzero(as_tuple=True)
    return from_entries(acts[positions, features], features, positions, *acts.shape)


def acts_above(
    hidden_pre: Float[Tensor, "n_pos d_sae"], threshold: Float[Tensor, " d_sae"]
) -> SparseActs:
    """relu(hidden_pre) * 1[hidden_pre > threshold]: JumpReLU (Rajamanoharan et al. 2024,
    arXiv:2407.14435)."""
    # relu as well: a threshold below zero, which an estimate on few batches may be, would let
    # negative pre-activations through.
    return from_dense(hidden_pre.relu() * (hidden_pre > threshold))


def top_of_rows(
    values: Float[Tensor, "n width"], k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k largest of each row, exactly, through the maxima of strided groups: k groups hold them
    all."""
    width = values.shape[1]
    group = next((size for size in (8, 4, 2) if width % size == 0 and width // size >= 4 * k), 1)
    if group == 1:
        top = values.topk(k, dim=1, sorted=False)
        return top.values, top.indices
    stride = width // group
    # Each of the k largest values lies in a group whose maximum is among the k largest maxima: k
    # groups of `group` members are enough.
    best = top_of_rows(values.reshape(len(values), group, stride).amax(1), k)[1]
    # Group g holds columns g, g + stride, g + 2 stride, ...: [n, k] -> [n, group, k] -> [n, group *
    # k].
    members = (
        best[:, None, :] + torch.arange(0, width, stride, device=values.device)[None, :, None]
    ).flatten(1)
    top = values.gather(1, members).topk(k, dim=1, sorted=False)
    return top.values, members.gather(1, top.indices)


def topk_entries(hidden_pre: Float[Tensor, "n_pos d_sae"], k: int) -> SparseActs:
    """relu(topk(hidden_pre)) with k entries for each position, zeros where fewer are positive (Gao
    et al. 2024, arXiv:2406.04093)."""
    values, features = top_of_rows(hidden_pre, k)
    # [n_pos, k] -> [n_pos * k]: row-major flattening keeps entries sorted by position, as CSR
    # needs.
    offsets = torch.arange(0, k * len(values) + 1, k, device=values.device)
    return SparseActs(
        values.relu().flatten(), features.flatten(), offsets, d_sae=hidden_pre.shape[1]
    )


def topk_acts(hidden_pre: Float[Tensor, "n_pos d_sae"], k: int) -> SparseActs:
    """relu(topk(hidden_pre)): at most k positive entries a position."""
    entries = topk_entries(hidden_pre, k)
    return entries.select(entries.values > 0)


def batch_topk_acts(hidden_pre: Float[Tensor, "n_pos d_sae"], k: float) -> SparseActs:
    """The `k * n_pos` largest positive entries of the whole batch (Bussmann et al. 2024,
    arXiv:2412.06410)."""
    acts = hidden_pre.relu().flatten()
    values, flat = acts.topk(int(k * len(hidden_pre)), sorted=False)
    # topk gives the entries by size; sorted flat indices are in reading order again.
    flat = flat[values > 0].sort().values
    n_pos, d_sae = hidden_pre.shape
    return from_entries(acts[flat], flat % d_sae, flat // d_sae, n_pos, d_sae)


def sparse_decode(
    acts: SparseActs, rows: Float[Tensor, "d_sae d_out"]
) -> Float[Tensor, "n_pos d_out"]:
    """`sum_i f_i rows_i` of each position: a gather of the active rows only."""
    return F.embedding_bag(
        acts.features,
        rows,
        acts.offsets,
        mode="sum",
        per_sample_weights=acts.values,
        include_last_offset=True,
    )


def sparse_dot(
    positions: Int[Tensor, " nnz"],
    features: Int[Tensor, " nnz"],
    rows: Float[Tensor, "d_sae d_out"],
    at: Float[Tensor, "n_pos d_out"],
) -> Float[Tensor, " nnz"]:
    """`rows[feature] . at[position]` for each entry, in bounded memory."""
    # Two gathers of [chunk, d_out] exist at a time; for all entries at once they would be nnz *
    # d_out numbers each.
    chunks = zip(positions.split(4 * CHUNK), features.split(4 * CHUNK), strict=True)
    return torch.cat([(rows[f] * at[p]).sum(-1) for p, f in chunks] or [at.new_zeros(0)])
