"""The step of JumpReLU SAEs: entries reach down to half a bandwidth below the threshold, where its
straight-through gradient ends."""

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.training.losses import jumprelu_loss, rectangle
from saescope.training.objective import Batch, Coefficients, Dead
from saescope.training.steps.base import StepResult
from saescope.training.steps.dead import ROWS, DeadBlock
from saescope.training.steps.relu import BatchPart, ChunkLosses, ReluStep, squared
from saescope.training.steps.support import Grads, Support


class JumpReLUStep(ReluStep):
    loss = staticmethod(jumprelu_loss)

    def __call__(
        self, batch: Batch, *, coefficients: Coefficients, dead: Dead | None = None
    ) -> StepResult:
        self.params["threshold"].clamp_(
            min=0
        )  # below zero the gate would pass negative pre-activations
        return super().__call__(batch, coefficients=coefficients, dead=dead)

    def _floor(self) -> Float[Tensor, " d_sae"]:
        return self.params["threshold"] - self.objective.jumprelu_bandwidth / 2

    def bias(self) -> Float[Tensor, " d_sae"]:
        return self.params["b_enc"] - self._floor()

    def backward(
        self, support: Support, part: BatchPart, grads: Grads, coefficients: Coefficients
    ) -> ChunkLosses:
        decoder, bandwidth = self.params["decoder"], self.objective.jumprelu_bandwidth
        hidden_pre = support.values + support.take(self._floor())
        threshold = support.take(self.params["threshold"])
        active = hidden_pre > threshold
        # The pseudo-derivative of the step: 1 within half a bandwidth of the threshold
        # (arXiv:2407.14435).
        near = rectangle((hidden_pre - threshold) / bandwidth)
        acts = hidden_pre * active
        error = self.error(support.decode(acts, decoder), part.batch)
        per_position, mse, to_output = squared(error, part)
        to_acts = support.dots(to_output, decoder)
        penalty, to_fires = self._penalty(
            support, acts, active, grads, to_acts, weight=coefficients.sparsity / part.n_pos
        )
        # f = pre * H(pre - theta): moving theta changes f by -theta at the jump, and the count of
        # firings by -1.
        through = near.mul_(threshold * to_acts + to_fires).div_(bandwidth)
        to_pre = to_acts.mul_(active)
        grads.add("threshold", -support.by_feature(through))
        if self.objective.jumprelu_ste_to_input:
            to_pre += through
        support.add_outer(grads, "decoder", acts, to_output)
        grads.add("b_enc", support.by_feature(to_pre))
        self.add_common(grads, support, part, to_pre, to_output)
        return ChunkLosses(
            {"mse_loss": mse, "l0_loss": penalty}, support.count(active), error, per_position
        )

    def _penalty(
        self,
        support: Support,
        acts: Tensor,
        active: Tensor,
        grads: Grads,
        to_acts: Tensor,
        *,
        weight: float | Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The sparsity loss and its slope at each entry's step function; the tanh loss acts on
        `to_acts` instead."""
        if self.objective.jumprelu_sparsity_loss_mode == "tanh":
            norm, scale = (
                support.take(self.params["decoder"].norm(dim=1)),
                self.objective.jumprelu_tanh_scale,
            )
            value = torch.tanh(scale * acts * norm)
            slope = (1 - value.square()).mul_(scale * weight)
            to_acts += slope * norm
            grads.add("norm", support.by_feature(slope * acts))
            return weight * support.by_position(value).sum(), acts.new_zeros(())
        l0 = support.by_position(active.to(acts))
        if self.objective.jumprelu_sparsity_loss_mode == "step":
            return weight * l0.sum(), acts.new_ones(()) * weight
        target = self.objective.target_l0
        return weight * 2 / target * (l0 - target).square().sum(), support.spread(
            4 * weight / target * (l0 - target)
        )

    def revive(
        self, block: DeadBlock, x: Tensor, error: Tensor, grads: Grads, coefficients: Coefficients
    ) -> dict[str, Tensor]:
        """Anthropic's pre-activation loss, as in sae-lens only for features that are dead:
        relu(threshold - p) * ||W_dec_i||."""
        features, weight = block.features, coefficients.revival / len(x)
        norm = self.params["decoder"][features].norm(dim=1)
        to_encoder, missing_sum = (
            torch.zeros_like(self.params["encoder"][features]),
            norm.new_zeros(len(features)),
        )
        n_below = norm.new_zeros(len(features))
        for pre, at in zip(block.but(torch.inf).split(ROWS), x.split(ROWS), strict=True):
            # `pre` was shifted up by the floor, theta - bandwidth / 2.
            missing = (self.objective.jumprelu_bandwidth / 2 - pre).relu()  # threshold - hidden_pre
            below = (missing > 0).to(missing)
            to_encoder.addmm_(below.T, at)
            missing_sum += missing.sum(0)
            n_below += below.sum(0)
        grads["encoder"].index_add_(0, features, to_encoder * (-weight * norm)[:, None])
        for name, sign in (("b_enc", -1), ("pre_sum", -1), ("threshold", 1)):
            grads[name].index_add_(0, features, sign * weight * norm * n_below)
        grads.add(
            "norm",
            torch.zeros_like(self.params["b_enc"]).index_add_(0, features, weight * missing_sum),
        )
        return {"pre_act_loss": weight * (missing_sum * norm).sum()}
