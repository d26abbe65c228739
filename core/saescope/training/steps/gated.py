"""The step of gated SAEs: entries are where the gate is open; the magnitude path shares the
encoder's product."""

from jaxtyping import Float
from torch import Tensor

from saescope.training.losses import gated_loss
from saescope.training.objective import Coefficients
from saescope.training.steps.relu import BatchPart, ChunkLosses, ReluStep, squared
from saescope.training.steps.support import Grads, Support


class GatedStep(ReluStep):
    loss = staticmethod(gated_loss)

    def bias(self) -> Float[Tensor, " d_sae"]:
        return self.params["b_gate"]

    def backward(
        self, support: Support, part: BatchPart, grads: Grads, coefficients: Coefficients
    ) -> ChunkLosses:
        decoder, weight = self.params["decoder"], coefficients.sparsity / part.n_pos
        via_gate = support.values.relu()
        # values = x @ W_enc + b_gate; gate and magnitude share the product and differ in bias and
        # stretch (arXiv:2404.16014).
        shared = support.values - support.take(self.params["b_gate"])
        stretch = support.take(self.params["r_mag"].exp())
        magnitude = shared * stretch + support.take(self.params["b_mag"])
        active = (support.values > 0) & (magnitude > 0)
        acts = magnitude.mul_(active)
        norm = support.take(decoder.norm(dim=1))
        error = self.error(support.decode(acts, decoder), part.batch)
        per_position, mse, to_output = squared(error, part)
        _, auxiliary, to_gate_output = squared(
            self.error(support.decode(via_gate, decoder), part.batch), part
        )
        to_acts = support.dots(to_output, decoder).mul_(active)
        # The Heaviside gate passes no gradient: b_gate learns from the L1 and the auxiliary
        # reconstruction alone.
        to_gate = (support.dots(to_gate_output, decoder) + weight * norm).mul_(via_gate > 0)
        for values, at in ((acts, to_output), (via_gate, to_gate_output)):
            support.add_outer(grads, "decoder", values, at)
        grads.add("norm", weight * support.by_feature(via_gate))
        grads.add("b_gate", support.by_feature(to_gate))
        grads.add("b_mag", support.by_feature(to_acts))
        # d(magnitude)/d(shared) = exp(r_mag), d/d(r_mag) = shared * exp(r_mag).
        to_acts = to_acts * stretch
        grads.add("r_mag", support.by_feature(to_acts * shared))
        self.add_common(grads, support, part, to_gate + to_acts, to_output + to_gate_output)
        l1 = weight * support.by_position(via_gate * norm).sum()
        losses = {"mse_loss": mse, "l1_loss": l1, "auxiliary_reconstruction_loss": auxiliary}
        return ChunkLosses(losses, support.count(active), error, per_position)
