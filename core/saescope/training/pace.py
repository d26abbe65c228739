"""Steering a sparsity coefficient so that the L0 comes to its target: a proportional and integral
controller on its logarithm."""

import math

from saescope.training.objective import Objective

START = 0.05
"""The first value of the coefficient, for activations of norm 1."""
RANGE = 20.0
"""The logarithm moves by this at most over a run."""
RAMP = 0.3
"""Share of the run in which the L0 is led from where it starts to its target."""


class Pace:
    """The coefficient of the next step. Everything that it remembers is in `state`."""

    def __init__(self, objective: Objective, *, target: float, n_steps: int) -> None:
        """Activations are taken to have norm sqrt(d): an L1 coefficient weighs an activation, an L0
        coefficient its square."""
        self.target, self.n_steps = target, n_steps
        squared = objective.recipe.sets_l0 == "l0_coefficient"
        start = START * objective.d_out ** (1.0 if squared else 0.5)
        self.log, self.error, self.first, self.step = math.log(start), 0.0, 0.0, 0

    @property
    def coefficient(self) -> float:
        return math.exp(self.log + self.error)

    def update(self, l0: float) -> None:
        """Take in the `l0` of the batch that was just trained on."""
        l0 = max(l0, 1e-3)
        self.first = self.first or max(l0, self.target)
        left = max(0.0, 1 - self.step / (RAMP * self.n_steps))
        wanted = self.target * (self.first / self.target) ** left
        self.error = max(-1.0, min(1.0, math.log(l0 / wanted)))
        self.log += RANGE / self.n_steps * self.error
        self.step += 1

    def state(self) -> dict[str, float]:
        return {"log": self.log, "error": self.error, "first": self.first, "step": self.step}

    def load_state(self, state: dict[str, float]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
