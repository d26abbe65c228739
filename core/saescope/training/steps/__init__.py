"""Fast training steps: one family a file, each equal to autograd over `losses.py`, none of them
using it."""

from saescope.training.objective import Objective, Params
from saescope.training.steps.base import Step, StepResult
from saescope.training.steps.gated import GatedStep
from saescope.training.steps.jumprelu import JumpReLUStep
from saescope.training.steps.standard import StandardStep
from saescope.training.steps.topk import BatchTopKStep, TopKStep

STEPS: dict[str, type[Step]] = {
    "standard": StandardStep,
    "gated": GatedStep,
    "topk": TopKStep,
    "batchtopk": BatchTopKStep,
    "matryoshka_batchtopk": BatchTopKStep,
    "jumprelu": JumpReLUStep,
}


def make_step(objective: Objective, params: Params) -> Step:
    """The fast step of this objective's architecture; it reads `params` in place."""
    return STEPS[objective.architecture](objective, params)


__all__ = ["STEPS", "BatchTopKStep", "Step", "StepResult", "make_step"]
