"""Fast training steps: one family a file, each equal to autograd over `losses.py`, none of them
using it."""

from torch import Tensor

from saescope.recipes import Architecture
from saescope.training.losses import Losses, LossInputs
from saescope.training.objective import Batch, Coefficients, Objective, Params
from saescope.training.split import WHOLE, Split
from saescope.training.steps.base import Step, StepResult
from saescope.training.steps.gated import GatedStep
from saescope.training.steps.jumprelu import JumpReLUStep
from saescope.training.steps.standard import StandardStep
from saescope.training.steps.topk import BatchTopKStep, TopKStep

STEPS: dict[Architecture, type[Step]] = {
    "standard": StandardStep,
    "gated": GatedStep,
    "topk": TopKStep,
    "batchtopk": BatchTopKStep,
    "matryoshka_batchtopk": BatchTopKStep,
    "jumprelu": JumpReLUStep,
}


def make_step(objective: Objective, params: Params, split: Split = WHOLE) -> Step:
    """The fast step of this objective's architecture; it reads `params` in place. `split`:
    what other ranks have."""
    return STEPS[objective.architecture](objective, params, split)


def losses(
    objective: Objective,
    params: Params,
    batch: Batch,
    *,
    coefficients: Coefficients,
    dead: Tensor | None = None,
) -> Losses:
    """The terms of the plain loss by name; their sum is minimised."""
    given = LossInputs(objective, params, batch, coefficients, dead)
    return STEPS[objective.architecture].loss(given)


__all__ = ["STEPS", "BatchTopKStep", "Step", "StepResult", "losses", "make_step"]
