"""Ablating (feature, position) pairs for real, and matched pairs beside them as controls."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.attribution.gradients import Metric
from saescope.ops import SparseActs, from_entries
from saescope.saes import SAE
from saescope.splice import SiteRecord
from saescope.stack import Stack
from saescope.variants import Variant, run_variants

N_NEAREST = 8
"""Each control is drawn from this many pairs that are nearest in position and size."""


class Pairs(NamedTuple):
    """(feature, position) pairs of one SAE."""

    features: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]


def measure_ablations(
    stack: Stack,
    ids: Int[Tensor, "1 n_pos"],
    sites: Sequence[SiteRecord],
    variants: Sequence[Variant],
    metric: Metric,
) -> list[float]:
    """Clean minus changed metric for each variant."""
    if not variants:
        return []
    position = metric.position + ids.shape[1]
    clean, ablated = (
        metric.target.of(logits.double())
        for logits in run_variants(stack, ids, sites, variants, position=position)
    )
    return (clean - ablated).tolist()


def without_pairs(stack: Stack, group: Mapping[int, Pairs]) -> Variant:
    """A group of pairs set to zero together, the SAEs' errors kept.

    A group names pairs of some SAEs of the stack, by index. What a pair of an upper SAE loses is
    its activation in the run in which the group's pairs below it are ablated.
    """
    return {i: partial(removal, stack.saes[i], pairs=pairs) for i, pairs in group.items()}


def without_error(i: int, mask: Bool[Tensor, " n_pos"]) -> Variant:
    """What an SAE of the stack does not reconstruct, taken away at the positions that count."""
    return {i: lambda site: -site.error * mask[:, None]}


def removal(sae: SAE, site: SiteRecord, *, pairs: Pairs) -> Float[Tensor, "n_pos d_out"]:
    """What ablating the pairs adds at the site: `-f_i W_dec_i` at each one's position."""
    order = pairs.positions.argsort(stable=True)
    features, positions = pairs.features[order], pairs.positions[order]
    gone = from_entries(
        -site.acts.at(positions, features),
        features,
        positions,
        site.acts.n_pos,
        site.acts.d_sae,
    )
    return sae.decode_change(gone, like=site.x)


def draw_controls(
    acts: SparseActs,
    chosen: Int[Tensor, " k"],
    *,
    sizes: Float[Tensor, " nnz"],
    n_controls: int,
    seed: int,
) -> list[Int[Tensor, " k"]]:
    """For each draw as many active pairs as are chosen, each at or near the position of one of them
    and of like size (`sizes`: |f| times the norm of the decoder row).

    The chosen pairs may be drawn like any other: a draw is what a random choice among pairs that
    match would have been, so that a random choice is outside of its controls as rarely as the rule
    says. Features that write nothing are never drawn.
    """
    near = [_nearest(acts, entry, sizes, len(chosen)) for entry in chosen.tolist()]
    rng = torch.Generator().manual_seed(seed)
    return [chosen.new_tensor(_draw(near, rng)) for _ in range(n_controls)]


def _nearest(acts: SparseActs, entry: int, sizes: Tensor, k: int) -> list[int]:
    """Pairs that match, best first: those at the position, with its neighbours where it has few, by
    ratio of sizes; then farther ones, of which a draw of many pairs may need some."""
    pool = (sizes > 0).nonzero()[:, 0]
    apart = (acts.positions[pool] - acts.positions[entry]).abs()
    unlike = (sizes[pool].log() - sizes[entry].log()).abs()
    order = unlike.argsort(stable=True)
    beyond = apart > apart.sort().values[:N_NEAREST][-1]
    order = order[beyond[order].to(torch.int8).argsort(stable=True)]
    return pool[order][: N_NEAREST + k].tolist()


def _draw(near: Sequence[Sequence[int]], rng: torch.Generator) -> list[int]:
    """Without replacement: pairs ablated together must be different ones."""
    drawn: list[int] = []
    for options in near:
        free = [entry for entry in options if entry not in drawn][:N_NEAREST]
        if free:
            drawn.append(free[int(torch.randint(len(free), (1,), generator=rng))])
    return drawn
