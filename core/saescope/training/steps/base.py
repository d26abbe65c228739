"""What every fast step shares: parameters in, gradients and loss terms out, no autograd."""

from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.products import times_rows
from saescope.training.losses import Loss
from saescope.training.objective import Batch, Coefficients, Dead, Objective, Params
from saescope.training.split import WHOLE, Split
from saescope.training.steps.support import Grads


class StepResult(NamedTuple):
    """The losses and statistics of one batch."""

    grads: Grads
    losses: dict[str, Tensor]
    """The terms of the plain loss."""
    fired: Int[Tensor, " d_sae"]
    """The number of positions on which each feature was active."""
    squared_error: Float[Tensor, " n_pos"]
    """The squared error of each position's (whole) reconstruction."""


class Step:
    """The gradients of one architecture's loss, by hand; `params` are read each time, so an
    optimizer may change them in place."""

    loss: ClassVar[Loss]
    """The plain loss, which this step equals."""

    def __init__(self, objective: Objective, params: Params, split: Split = WHOLE) -> None:
        self.objective = objective
        self.params = params
        self.split = split

    def __call__(
        self, batch: Batch, *, coefficients: Coefficients, dead: Dead | None = None
    ) -> StepResult:
        """Gradients of every parameter on this batch; `dead` are the features to revive, where the
        objective does that."""
        raise NotImplementedError

    def settle(self) -> None:
        """Ask the device what the next steps are chosen by, which no step waits for."""

    def state(self) -> dict[str, float]:
        """What a resumed run needs to take the same numerical path."""
        return {}

    def load_state(self, state: dict[str, float]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def centred(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
        return x - self.params["b_dec"] if self.objective.apply_b_dec_to_input else x

    def error(self, decoded: Float[Tensor, "n d_out"], batch: Batch) -> Float[Tensor, "n d_out"]:
        """sae_out - y, computed in place of `decoded`."""
        self.split.features.total(decoded)
        decoded += self.params["b_dec"]
        if self.objective.skip:
            decoded += times_rows(batch.x, self.params["W_skip"])
        return decoded.sub_(batch.y)

    def finish(self, grads: Grads, to_output: Tensor, batch: Batch, pre_sum: Tensor) -> None:
        """The gradients that need no entries: b_dec and W_skip from dloss/d(sae_out), b_dec also
        through the encoder's input."""
        grads.add("b_dec", to_output.sum(0))
        # The encoder reads x - b_dec: d(pre)/d(b_dec) = -W_enc, so the sum over positions needs
        # only the summed d(loss)/d(pre).
        if self.objective.apply_b_dec_to_input:
            through_input = pre_sum @ self.params["encoder"]
            grads["b_dec"].sub_(self.split.features.total(through_input))
        if self.objective.skip:
            grads.add("W_skip", to_output.T @ batch.x)


def squared_errors(error: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """The squared error of each position."""
    return torch.linalg.vector_norm(error, dim=1).square_()
