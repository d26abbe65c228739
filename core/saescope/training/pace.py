"""Steering a sparsity coefficient so that the L0 comes to its target: a proportional and integral
controller on its logarithm."""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from saescope.precision import fetched, number
from saescope.training.objective import Objective

START = 0.05
"""The first value of the coefficient, for activations of norm 1."""
RANGE = 20.0
"""The logarithm moves by this at most over a run."""
RAMP = 0.3
"""Share of the run in which the L0 is led from where it starts to its target."""


class Pace:
    """The coefficient of the next step. Everything that it remembers is in `state`."""

    def __init__(
        self, objective: Objective, *, target: float, n_steps: int, device: torch.device
    ) -> None:
        """Activations are taken to have norm sqrt(d): an L1 coefficient weighs an activation, an L0
        coefficient its square."""
        self.target, self.n_steps = target, n_steps
        squared = objective.recipe.sets_l0 == "l0_coefficient"
        start = START * objective.d_out ** (1.0 if squared else 0.5)
        # On the device, where each batch's L0 is: the host would have to wait for it.
        self.log, self.error, self.first = (
            number(value, device) for value in (math.log(start), 0.0, 0.0)
        )
        self.step = 0

    @property
    def coefficient(self) -> Float[Tensor, ""]:
        return (self.log + self.error).exp()

    def update(self, n_fired: Shaped[Tensor, ""], n_pos: int) -> None:
        """Take in how many activations the batch had that was just trained on, at its positions
        together."""
        l0 = (n_fired.to(self.log) / n_pos).clamp(min=1e-3)
        if not self.step:
            self.first = l0.clamp(min=self.target)
        left = max(0.0, 1 - self.step / (RAMP * self.n_steps))
        wanted = self.target * (self.first / self.target) ** left
        self.error = (l0 / wanted).log().clamp(-1.0, 1.0)
        self.log = self.log + RANGE / self.n_steps * self.error
        self.step += 1

    def state(self) -> dict[str, float]:
        log, error, first = fetched(self.log, self.error, self.first)
        return {"log": log, "error": error, "first": first, "step": self.step}

    def load_state(self, state: dict[str, float]) -> None:
        self.step = int(state["step"])
        for name in ("log", "error", "first"):
            getattr(self, name).fill_(state[name])
