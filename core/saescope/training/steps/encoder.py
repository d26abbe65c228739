"""Pre-activations a chunk at a time, and picking the few that count out of them."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.ops import sizes_are_free
from saescope.products import times_rows
from saescope.ranks import Ranks
from saescope.training.steps.support import SparseSupport, edges_of

CHUNK_BYTES = {"cpu": 10 << 20, "cuda": 1 << 30}
"""What one chunk of dense pre-activations may take (two exist at a time); on a CPU it should stay
near the caches."""


class Chunk(NamedTuple):
    """The pre-activations of the positions from `start` on."""

    start: int
    values: Float[Tensor, "n d_sae"]


def chunks(
    x: Float[Tensor, "n d_in"], weights: Float[Tensor, "d_sae d_in"], bias: Float[Tensor, " d_sae"]
) -> Iterator[Chunk]:
    """Yield `x @ weights.T + bias`, some positions at a time."""
    budget = CHUNK_BYTES.get(x.device.type, CHUNK_BYTES["cpu"])
    n_rows = max(64, budget // (len(weights) * x.element_size()))
    for start in range(0, len(x), n_rows):
        yield Chunk(start, times_rows(x[start : start + n_rows], weights, bias))


class SparseEntries(NamedTuple):
    """The entries of one chunk in row order."""

    values: Float[Tensor, " nnz"]
    features: Int[Tensor, " nnz"]
    counts: Int[Tensor, " n"]


def above(values: Float[Tensor, "n d_sae"], cut: float) -> SparseEntries:
    """Entries greater than `cut`: only the strided groups whose maximum is above it are looked
    at, where it costs nothing to know how many those are."""
    n_rows, width = values.shape
    if not sizes_are_free(values.device):
        at = (values > cut).flatten().nonzero()[:, 0]
        counts = edges_of(at // width, n_rows).diff()
        return SparseEntries(values.flatten()[at], (at % width).int(), counts)
    group = next((size for size in (16, 8, 4, 2) if width % size == 0), 1)
    grouped = values.view(n_rows, group, width // group)
    rows, groups = (grouped.amax(1) > cut).nonzero(as_tuple=True)
    # [n_rows, group, stride] indexed by (row, column) pairs -> [n_hit_groups, group].
    members = grouped[rows, :, groups]
    hit, place = (members > cut).nonzero(as_tuple=True)
    features = groups[hit] + place * (width // group)
    return SparseEntries(
        members[hit, place], features.int(), torch.bincount(rows[hit], minlength=n_rows)
    )


def join(parts: list[SparseEntries], d_sae: int) -> SparseSupport:
    values, features, counts = (torch.cat(column) for column in zip(*parts, strict=True))
    return SparseSupport(values, features, F.pad(counts.cumsum(0), (1, 0)), d_sae)


def largest(chunked: Iterable[Chunk], n: int, *, n_rows: int, d_sae: int) -> SparseSupport:
    """The n largest entries of a batch, 0 for one that is not positive, without asking for the size
    of anything."""
    values, at = list[Tensor](), list[Tensor]()
    for chunk in chunked:
        flat = chunk.values.flatten()
        top = flat.topk(min(n, len(flat)), sorted=False)
        values.append(top.values)
        at.append(top.indices + chunk.start * d_sae)
    found = torch.cat(values).topk(n, sorted=False)
    # In reading order again, which CSR needs.
    places, order = torch.cat(at)[found.indices].sort()
    offsets = edges_of(places // d_sae, n_rows)
    return SparseSupport(found.values[order].relu(), places % d_sae, offsets, d_sae)


def only_top_of_rows(
    values: Float[Tensor, "n k_own"], k: int, ranks: Ranks
) -> Float[Tensor, "n k_own"]:
    """The largest of a rank's features at each position, 0 where they are not among the k largest
    of all ranks'."""
    everything = torch.cat(ranks.gathered(values, lengths=[len(values)] * ranks.size), dim=1)
    smallest = everything.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
    return torch.where(values >= smallest, values, 0.0)


class AmongAll(NamedTuple):
    """Which of a rank's values are among the largest of all ranks'."""

    keep: Bool[Tensor, " nnz"]
    smallest: float
    """The smallest that is among them."""


def among_largest(values: Float[Tensor, " nnz"], n: int, ranks: Ranks) -> AmongAll | None:
    """Exactly `n` of all ranks' values together; None where there are no more than that."""
    parts = ranks.gathered(values)
    everything = torch.cat(parts)
    if len(everything) <= n:
        return None
    smallest = everything.kthvalue(len(everything) - n + 1).values
    # All above the smallest wanted value, and of those equal to it as many as are left, the first
    # ranks' first.
    keep = values > smallest
    n_ties = n - int((everything > smallest).sum())
    n_before = sum(int((part == smallest).sum()) for part in parts[: ranks.rank])
    ties = (values == smallest).nonzero().flatten()
    keep[ties[: max(0, n_ties - n_before)]] = True
    return AmongAll(keep, float(smallest))


def only_largest(found: SparseSupport, n: int, ranks: Ranks) -> SparseSupport:
    """The entries with a 0 for each that is not among the `n` largest of all ranks'."""
    if ranks.alone:
        return found
    everything = ranks.together(found.values)
    smallest = everything.topk(min(n, len(everything)), sorted=False).values.min()
    values = torch.where(found.values >= smallest, found.values, 0.0)
    return SparseSupport(values, found.features, found.offsets, found.d_sae)


def level_edges(widths: tuple[int, ...]) -> list[tuple[int, int]]:
    """The features that each prefix adds to the one before."""
    return list(pairwise((0, *widths)))
