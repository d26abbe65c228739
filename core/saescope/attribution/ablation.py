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
from saescope.variants import run_variants

N_NEAREST = 8
"""Each control is drawn from this many unused pairs that are nearest in activation."""


class Pairs(NamedTuple):
    """(feature, position) pairs of one SAE."""

    features: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]


def measure_ablations(
    stack: Stack,
    ids: Int[Tensor, "1 n_pos"],
    sites: Sequence[SiteRecord],
    groups: Sequence[Mapping[int, Pairs]],
    metric: Metric,
) -> list[float]:
    """Clean minus ablated metric for each group of pairs set to zero together, the SAEs' errors
    kept.

    A group names pairs of some SAEs of the stack, by index. What a pair of an upper SAE loses is
    its activation in the run in which the group's pairs below it are ablated.
    """
    if not groups:
        return []
    variants = [
        {i: partial(removal, stack.saes[i], pairs=pairs) for i, pairs in group.items()}
        for group in groups
    ]
    position = metric.position + ids.shape[1]
    clean, ablated = (
        metric.target.logit(logits.double())
        for logits in run_variants(stack, ids, sites, variants, position=position)
    )
    return (clean - ablated).tolist()


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
    writes: Bool[Tensor, " d_sae"],
    n_controls: int,
    seed: int,
) -> list[Int[Tensor, " k"]]:
    """Draw, once per draw, as many entries outside `chosen`, each near in activation to one of
    them; fewer if there are not enough.

    Features that write nothing are never drawn: ablating them is no control.
    """
    # [nnz] over active pairs: a control is a pair that fires as well.
    others = writes[acts.features].to(acts.values.device)
    others[chosen] = False
    pool = others.nonzero()[:, 0]
    rng = torch.Generator().manual_seed(seed)
    return [_draw(acts, chosen, pool, rng) for _ in range(n_controls)] if len(pool) else []


def _draw(
    acts: SparseActs, chosen: Int[Tensor, " k"], pool: Int[Tensor, " m"], rng: torch.Generator
) -> Int[Tensor, " k"]:
    free, drawn = pool, list[Tensor]()
    for entry in chosen[: len(pool)]:
        near = (
            (acts.values[free] - acts.values[entry])
            .abs()
            .topk(min(N_NEAREST, len(free)), largest=False)
            .indices
        )
        pick = near[int(torch.randint(len(near), (1,), generator=rng))]
        drawn.append(free[pick])
        # Without replacement within a draw: k pairs ablated together must be k different ones.
        free = torch.cat([free[:pick], free[pick + 1 :]])
    return torch.stack(drawn)
