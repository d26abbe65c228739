"""Terms of the loss that act on dead features only: AuxK, pre-activation and ghost losses over a
compact `[n, n_dead]` block."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.ops import sizes_are_free
from saescope.products import times_rows
from saescope.ranks import ALONE, Ranks
from saescope.training.objective import Dead, Objective, Params
from saescope.training.steps.encoder import Chunk
from saescope.training.steps.support import Grads

ROWS = 1024
"""Positions treated at a time."""


@dataclass(frozen=True, slots=True)
class DeadBlock:
    """The dead features' pre-activations, collected while the batch is encoded."""

    features: Int[Tensor, " n_dead"]
    real: Bool[Tensor, " n_dead"] | None
    """Which of them are dead indeed; None: all, as wherever sizes are free to know."""
    pre: Float[Tensor, "n n_dead"]
    ranks: Ranks = ALONE
    """Those that have other features, some of which may be dead."""

    def keep(self, chunk: Chunk) -> None:
        torch.index_select(
            chunk.values,
            1,
            self.features,
            out=self.pre[chunk.start : chunk.start + len(chunk.values)],
        )

    def between(self, first: int, end: int) -> "DeadBlock | None":
        """Those from `first` up to `end`, which is left out; None where it is known that there are
        none."""
        here = (self.features >= first) & (self.features < end)
        if self.real is not None:
            return replace(self, real=self.real & here)
        if self.ranks.alone and bool(here.all()):
            return self
        features = self.features[here]
        there = self.ranks.any(bool(len(features)))[0]
        return replace(self, features=features, pre=self.pre[:, here]) if there else None

    def but(self, value: float) -> Float[Tensor, "n n_dead"]:
        """The pre-activations, and `value` where a feature is not dead."""
        return self.pre if self.real is None else torch.where(self.real, self.pre, value)

    def share_of(self, n: int) -> float | Tensor:
        """How many are dead, as a share of `n`, and 1 where more are."""
        if self.real is None:
            n_dead = self.ranks.total(torch.tensor(len(self.features)))
            return min(int(n_dead) / n, 1.0)
        return (self.ranks.total(self.real.sum()) / n).clamp(max=1.0)


class DeadGrads(NamedTuple):
    """Sums over positions, for the dead features only."""

    encoder: Float[Tensor, "n_dead d_in"]
    decoder: Float[Tensor, "n_dead d_out"]
    pre_sum: Float[Tensor, " n_dead"]

    def into(self, grads: Grads, features: Tensor) -> None:
        for name, part in (
            ("encoder", self.encoder),
            ("decoder", self.decoder),
            ("b_enc", self.pre_sum),
        ):
            grads[name].index_add_(0, features, part)


def dead_block(
    objective: Objective, dead: Dead | None, like: Tensor, ranks: Ranks = ALONE
) -> DeadBlock | None:
    """None where nothing is dead, on any rank, or this objective's loss does not look at dead
    features."""
    if dead is None or not objective.revives or not ranks.any(bool(dead.at_most))[0]:
        return None
    if sizes_are_free(like.device):
        features, real = dead.mask.nonzero().flatten(), None
    else:
        # As many as there may be: the dead ones come first.
        found = dead.mask.float().topk(dead.at_most, sorted=False)
        features, real = found.indices, found.values > 0
    if not ranks.any(bool(len(features)))[0]:
        return None
    return DeadBlock(features, real, like.new_empty(len(like), len(features)), ranks)


def _zeros(objective: Objective, n_dead: int, like: Tensor) -> DeadGrads:
    return DeadGrads(
        like.new_zeros(n_dead, objective.d_in),
        like.new_zeros(n_dead, objective.d_out),
        like.new_zeros(n_dead),
    )


def auxk(
    objective: Objective,
    block: DeadBlock,
    rows: Float[Tensor, "n_dead d"],
    x: Tensor,
    error: Tensor,
    *,
    coefficient: float,
) -> tuple[Tensor, DeadGrads]:
    """The largest d/2 dead features predict the residual `-error`. `rows` have the unit that the
    block's pre-activations are in.

    The result's decoder and encoder gradients are in that unit too: the caller undoes the decoder
    norm.
    """
    n_pos, k_aux = len(error), error.shape[1] // 2
    weight = coefficient * block.share_of(k_aux)
    sums, loss, columns = _zeros(objective, len(rows), rows), rows.new_zeros(()), rows.T
    for part, at, residual in zip(
        block.but(-torch.inf).split(ROWS), x.split(ROWS), error.split(ROWS), strict=True
    ):
        acts, keep = _largest(part, k_aux, block)
        # `residual` is sae_out - y: the dead features should sum to its negative.
        difference = block.ranks.total(times_rows(acts, columns)).add_(residual)
        loss += torch.linalg.vector_norm(difference).square()
        to_out = difference.mul_(2 / n_pos * weight)
        to_acts = times_rows(to_out, rows)
        _accumulate(sums, acts, to_out, to_acts if keep is None else to_acts.mul_(keep), at)
    return weight * loss / n_pos, sums


def _largest(
    part: Float[Tensor, "n n_dead"], k: int, block: DeadBlock
) -> tuple[Tensor, Tensor | None]:
    """The k largest of each row over all ranks, 0 elsewhere, and where they are: None for
    everywhere.

    AuxK ranks without relu: a kept negative pre-activation has a gradient as well, so that
    `acts > 0` would not tell them.
    """
    real = block.real
    if not block.ranks.alone:
        own = part.topk(min(k, part.shape[1]), dim=1, sorted=False).values
        everything = block.ranks.together(own.T.contiguous())  # each rank has another width
        lowest = everything.topk(min(k, len(everything)), dim=0, sorted=False).values.amin(0)
        there = (part >= lowest[:, None]) & part.isfinite()
        return torch.where(there, part, 0.0), there.to(part)
    if k >= part.shape[1]:
        return (part, None) if real is None else (torch.where(real, part, 0.0), real)
    top = part.topk(k, dim=1, sorted=False)
    there = torch.ones_like(top.values) if real is None else real[top.indices].to(part)
    values = top.values if real is None else torch.where(there > 0, top.values, 0.0)
    return (
        torch.zeros_like(part).scatter_(1, top.indices, values),
        torch.zeros_like(part).scatter_(1, top.indices, there),
    )


def ghost(
    objective: Objective,
    params: Params,
    block: DeadBlock,
    x: Tensor,
    error: Tensor,
    *,
    coefficient: float,
) -> tuple[Tensor, DeadGrads]:
    """Dead features, through exp, predict half of the residual's norm (`losses.ghost_loss`)."""
    rows = params["decoder"][block.features]
    n_pos = len(block.pre)
    sums, loss, columns = _zeros(objective, len(rows), rows), rows.new_zeros(()), rows.T
    for part, at, negative in zip(
        block.but(-torch.inf).split(ROWS), x.split(ROWS), error.split(ROWS), strict=True
    ):
        acts = part.exp()
        out = times_rows(acts, columns)
        scale = negative.norm(dim=-1) / (1e-6 + 2 * out.norm(dim=-1))
        difference = (out * scale[:, None]).add_(negative)
        square = difference.square().sum(-1)
        # Both factors are constants to the gradient, as in sae-lens (detached there).
        factor = negative.square().sum(-1) / (square + 1e-6)
        loss += (square * factor).sum()
        to_out = difference.mul_((2 * coefficient / n_pos * factor * scale)[:, None])
        _accumulate(sums, acts, to_out, times_rows(to_out, rows).mul_(acts), at)
    # Where nothing is dead after all there is no such term; its gradients are zeros by themselves.
    any_dead = 1.0 if block.real is None else block.real.any().to(loss)
    return coefficient * loss / n_pos * any_dead, sums


def _accumulate(sums: DeadGrads, acts: Tensor, to_out: Tensor, to_pre: Tensor, x: Tensor) -> None:
    sums.decoder.add_(times_rows(acts.T, to_out.T))
    sums.encoder.add_(times_rows(to_pre.T, x.T))
    sums.pre_sum.add_(to_pre.sum(0))
