"""Learning rate and coefficients as plain functions of the step, so that resuming needs nothing but
its number."""

import math
from typing import Literal

Shape = Literal["constant", "cosine"]


def learning_rate(
    step: int, *, n_steps: int, peak: float, warm_up: int, decay: int, shape: Shape = "constant"
) -> float:
    """Linear up over `warm_up` steps, constant or cosine down to a tenth, linear to 0 over the last
    `decay` steps (as sae-lens)."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    middle = max(1, n_steps - warm_up - decay)
    done = min(1.0, (step - warm_up) / middle)
    rate = peak if shape == "constant" else peak * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
    left = n_steps - step
    return rate * max(0, left) / decay if left < decay else rate


def warmed_up(step: int, *, value: float, warm_up: int) -> float:
    """`value` after a linear rise from 0 over `warm_up` steps."""
    return value * min(1.0, step / warm_up) if warm_up else value
