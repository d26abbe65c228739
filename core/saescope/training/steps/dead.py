"""Terms of the loss that act on dead features only: AuxK, pre-activation and ghost losses over a
compact `[n, n_dead]` block."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.products import times_rows
from saescope.training.objective import Objective, Params
from saescope.training.steps.encoder import Chunk
from saescope.training.steps.support import Grads

ROWS = 1024
"""Positions treated at a time."""


class DeadBlock:
    """Collects the dead features' pre-activations while the batch is encoded, then adds their
    terms."""

    def __init__(self, mask: Bool[Tensor, " d_sae"], n_pos: int, like: Tensor) -> None:
        self.features: Int[Tensor, " n_dead"] = mask.nonzero().flatten()
        self.pre: Float[Tensor, "n n_dead"] = like.new_empty(n_pos, len(self.features))

    def keep(self, chunk: Chunk) -> None:
        torch.index_select(
            chunk.values,
            1,
            self.features,
            out=self.pre[chunk.start : chunk.start + len(chunk.values)],
        )


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
    objective: Objective, dead: Tensor | None, n_pos: int, like: Tensor
) -> DeadBlock | None:
    """None where nothing is dead or this objective's loss does not look at dead features."""
    if (
        dead is None
        or objective.revival not in ("auxk", "pre_act", "ghost")
        or not bool(dead.any())
    ):
        return None
    return DeadBlock(dead, n_pos, like)


def _zeros(objective: Objective, features: Tensor, like: Tensor) -> DeadGrads:
    n_dead = len(features)
    return DeadGrads(
        like.new_zeros(n_dead, objective.d_in),
        like.new_zeros(n_dead, objective.d_out),
        like.new_zeros(n_dead),
    )


def auxk(
    objective: Objective,
    ranked: Float[Tensor, "n n_dead"],
    rows: Float[Tensor, "n_dead d"],
    x: Tensor,
    error: Tensor,
    *,
    coefficient: float,
) -> tuple[Tensor, DeadGrads]:
    """The largest d/2 dead features predict the residual `-error`. `rows` have the unit that
    `ranked` is in.

    The result's decoder and encoder gradients are in that unit too: the caller undoes the decoder
    norm.
    """
    n_pos, n_dead = ranked.shape
    k_aux = error.shape[1] // 2
    weight = coefficient * min(n_dead / k_aux, 1.0)
    sums, loss, columns = _zeros(objective, rows, rows), rows.new_zeros(()), rows.T
    for part, at, residual in zip(
        ranked.split(ROWS), x.split(ROWS), error.split(ROWS), strict=True
    ):
        acts, keep = part, None
        if k_aux < n_dead:
            top = part.topk(k_aux, dim=1, sorted=False)
            acts = torch.zeros_like(part).scatter_(1, top.indices, top.values)
            # AuxK ranks without relu: a kept negative pre-activation has a
            # gradient as well, so `acts > 0` would not do.
            keep = torch.zeros_like(part).scatter_(1, top.indices, 1.0)
        # `residual` is sae_out - y: the dead features should sum to its negative.
        difference = times_rows(acts, columns).add_(residual)
        loss += torch.linalg.vector_norm(difference).square()
        to_out = difference.mul_(2 * weight / n_pos)
        to_acts = times_rows(to_out, rows)
        _accumulate(sums, acts, to_out, to_acts if keep is None else to_acts.mul_(keep), at)
    return weight * loss / n_pos, sums


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
    sums, loss, columns = _zeros(objective, rows, rows), rows.new_zeros(()), rows.T
    for part, at, negative in zip(
        block.pre.split(ROWS), x.split(ROWS), error.split(ROWS), strict=True
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
    return coefficient * loss / n_pos, sums


def _accumulate(sums: DeadGrads, acts: Tensor, to_out: Tensor, to_pre: Tensor, x: Tensor) -> None:
    sums.decoder.add_(times_rows(acts.T, to_out.T))
    sums.encoder.add_(times_rows(to_pre.T, x.T))
    sums.pre_sum.add_(to_pre.sum(0))
