"""What standard, gated and JumpReLU steps share: the number of active features varies, so sparse or
dense is decided by counting.

Each architecture writes its backward pass once, over a `Support`. While few entries are above its
floor, that is the entries of the whole batch; while many are (the first steps of a run), it is one
dense chunk after another.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.ops import sizes_are_free
from saescope.training.objective import Batch, Coefficients, Dead, Objective, Params
from saescope.training.split import WHOLE, Split
from saescope.training.steps.base import Step, StepResult, squared_errors
from saescope.training.steps.dead import DeadBlock, dead_block
from saescope.training.steps.encoder import SparseEntries, above, chunks, join
from saescope.training.steps.support import DenseSupport, Grads, SparseSupport, Support

MAX_DENSITY = 0.06
"""Share of entries up to which the sparse path is taken: above it gathers cost more than dense
products, and more memory."""


WORTH_A_WAIT = 2**34
"""Multiplications of the encoder's product from which the sparse path is taken on an accelerator:
it saves four such products, some 3 ms where 50 TFLOPS are done, for which the host waits once a
chunk to know how many entries there are. Below, the dense path waits for nothing."""


class BatchPart(NamedTuple):
    """The batch, or the chunk of it that a support covers."""

    x: Float[Tensor, "n d_in"]
    """The inputs, centred as the encoder reads them."""
    batch: Batch
    n_pos: int
    """Positions of the whole batch, over which losses are averaged."""


class ChunkLosses(NamedTuple):
    """Losses and statistics of one part; gradients go straight into the sum."""

    losses: dict[str, Tensor]
    fired: Tensor
    error: Float[Tensor, "n d_out"]
    squared_error: Float[Tensor, " n"]


class ReluStep(Step):
    """Entries count where `x @ W_enc + bias` is above zero."""

    def __init__(self, objective: Objective, params: Params, split: Split = WHOLE) -> None:
        super().__init__(objective, params, split)
        self.density = 0.0
        """Share of entries that counted in the last batch; until there was one, few are hoped
        for."""
        self._counted: tuple[Tensor, int] | None = None
        """How many entries counted, and of how many, where the device was not asked yet."""

    def settle(self) -> None:
        if self._counted is not None:
            self.density, self._counted = int(self._counted[0]) / self._counted[1], None

    def state(self) -> dict[str, float]:
        self.settle()
        return {"density": self.density}

    def bias(self) -> Float[Tensor, " d_sae"]:
        """Shifted so that everything with a value or a gradient is above zero."""
        return self.params["b_enc"]

    def backward(
        self, support: Support, part: BatchPart, grads: Grads, coefficients: Coefficients
    ) -> ChunkLosses:
        """Forward and backward on one part; adds to `grads`, and to grads["norm"] what goes through
        the decoder's row norms."""
        raise NotImplementedError

    def revive(
        self, block: DeadBlock, x: Tensor, error: Tensor, grads: Grads, coefficients: Coefficients
    ) -> dict[str, Tensor]:
        """The loss term on dead features, where the architecture has one."""
        raise NotImplementedError

    def __call__(
        self, batch: Batch, *, coefficients: Coefficients, dead: Dead | None = None
    ) -> StepResult:
        x = self.centred(batch.x)
        block = dead_block(self.objective, dead, x)
        grads = Grads()
        # Sparse as long as few entries count; the last batch's density is the guess, and a wrong
        # one costs time, never the result.
        support = self._entries(x, block) if self._prefers_entries(x) else None
        if support is not None:
            outcomes = [self.backward(support, BatchPart(x, batch, len(x)), grads, coefficients)]
        else:
            outcomes = self._dense(x, batch, block, grads, coefficients)
        losses = {
            name: torch.stack([outcome.losses[name] for outcome in outcomes]).sum()
            for name in outcomes[0].losses
        }
        if block is not None:
            error = torch.cat([outcome.error for outcome in outcomes])
            losses |= self.revive(block, x, error, grads, coefficients)
        # d||w|| / dw = w / ||w||: what reached the norms goes on to the rows.
        if "norm" in grads:
            decoder = self.params["decoder"]
            grads["decoder"].addcmul_(decoder, (grads.pop("norm") / decoder.norm(dim=1))[:, None])
        if self.objective.apply_b_dec_to_input:
            grads["b_dec"].sub_(grads["pre_sum"] @ self.params["encoder"])
        del grads["pre_sum"]
        fired = torch.stack([outcome.fired for outcome in outcomes]).sum(0)
        return StepResult(
            grads, losses, fired, torch.cat([outcome.squared_error for outcome in outcomes])
        )

    def _prefers_entries(self, x: Tensor) -> bool:
        dear = sizes_are_free(x.device) or len(x) * self.params["encoder"].numel() >= WORTH_A_WAIT
        return dear and self.density <= MAX_DENSITY

    def _entries(self, x: Tensor, block: DeadBlock | None) -> SparseSupport | None:
        """None as soon as they prove too many."""
        parts: list[SparseEntries] = []
        n_found = n_seen = 0
        for chunk in chunks(x, self.params["encoder"], self.bias()):
            if block is not None:
                block.keep(chunk)
            parts.append(above(chunk.values, 0.0))
            n_found += len(parts[-1].values)
            n_seen += chunk.values.numel()
            self.density = n_found / n_seen
            if self.density > MAX_DENSITY:
                return None
        return join(parts, self.objective.d_sae)

    def _dense(
        self,
        x: Tensor,
        batch: Batch,
        block: DeadBlock | None,
        grads: Grads,
        coefficients: Coefficients,
    ) -> list[ChunkLosses]:
        outcomes: list[ChunkLosses] = []
        n_found = torch.zeros((), dtype=torch.int64, device=x.device)
        for start, values in chunks(x, self.params["encoder"], self.bias()):
            rows = slice(start, start + len(values))
            if block is not None:
                block.pre[rows] = values[:, block.features]
            n_found += (values > 0).sum()
            part = BatchPart(x[rows], Batch(batch.x[rows], batch.y[rows]), len(x))
            outcome = self.backward(DenseSupport(values), part, grads, coefficients)
            outcomes.append(
                outcome if block is not None else outcome._replace(error=outcome.error[:0])
            )
        self._counted = n_found, len(x) * self.objective.d_sae
        if sizes_are_free(x.device):
            self.settle()
        return outcomes

    def add_common(
        self, grads: Grads, support: Support, part: BatchPart, to_pre: Tensor, to_output: Tensor
    ) -> None:
        """What every architecture adds from dloss/d(x @ W_enc) of each entry and dloss/d(sae_out)
        of each position."""
        support.add_outer(grads, "encoder", to_pre, part.x)
        grads.add("pre_sum", support.by_feature(to_pre))
        grads.add("b_dec", to_output.sum(0))
        if self.objective.skip:
            grads.add("W_skip", to_output.T @ part.batch.x)


class Squared(NamedTuple):
    """The squared error of a part."""

    per_position: Float[Tensor, " n"]
    loss: Float[Tensor, ""]
    to_output: Float[Tensor, "n d_out"]
    """The gradient of the loss at sae_out."""


def squared(error: Float[Tensor, "n d_out"], part: BatchPart) -> Squared:
    per_position = squared_errors(error)
    return Squared(per_position, per_position.sum() / part.n_pos, error * (2 / part.n_pos))
