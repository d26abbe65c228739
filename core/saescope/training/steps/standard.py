"""The step of standard (ReLU) SAEs: an Lp penalty on activations times decoder norms, optionally
ghost gradients."""

import torch
from torch import Tensor

from saescope.training.losses import standard_loss
from saescope.training.objective import Coefficients
from saescope.training.steps.dead import DeadBlock, ghost
from saescope.training.steps.relu import BatchPart, ChunkLosses, ReluStep, squared
from saescope.training.steps.support import Grads, Support


class StandardStep(ReluStep):
    loss = staticmethod(standard_loss)

    def backward(
        self, support: Support, part: BatchPart, grads: Grads, coefficients: Coefficients
    ) -> ChunkLosses:
        decoder = self.params["decoder"]
        acts = support.values.relu_()
        error = self.error(support.decode(acts, decoder), part.batch)
        per_position, mse, to_output = squared(error, part)
        norm = support.take(decoder.norm(dim=1))
        # The penalty is on f_i ||W_dec_i||, so that shrinking f and growing the decoder gains
        # nothing.
        size, to_weighted = self._penalty(support, acts * norm)
        to_weighted = to_weighted * (coefficients.sparsity / part.n_pos)
        # From the reconstruction and from the penalty, through relu.
        to_pre = support.dots(to_output, decoder).add_(to_weighted * norm).mul_(acts > 0)
        support.add_outer(grads, "decoder", acts, to_output)
        grads.add("norm", support.by_feature(acts * to_weighted))
        grads.add("b_enc", support.by_feature(to_pre))
        self.add_common(grads, support, part, to_pre, to_output)
        losses = {"mse_loss": mse, "l1_loss": coefficients.sparsity * size.sum() / part.n_pos}
        return ChunkLosses(losses, support.count(acts > 0), error, per_position)

    def _penalty(self, support: Support, weighted: Tensor) -> tuple[Tensor, Tensor]:
        """The Lp norm of each position and its slope at each entry."""
        p = self.objective.lp_norm
        if p == 1:
            return support.by_position(weighted), weighted.new_ones(())
        size = support.by_position(weighted**p) ** (1 / p)
        slope = support.spread(size ** (1 - p)) * weighted ** (p - 1)
        return size, torch.where(weighted > 0, slope, 0.0)

    def revive(
        self, block: DeadBlock, x: Tensor, error: Tensor, grads: Grads, coefficients: Coefficients
    ) -> dict[str, Tensor]:
        loss, sums = ghost(
            self.objective, self.params, block, x, error, coefficient=coefficients.revival
        )
        sums.into(grads, block.features)
        grads["pre_sum"].index_add_(0, block.features, sums.pre_sum)
        return {"ghost_loss": loss}
