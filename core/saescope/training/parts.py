"""A batch in parts: what each rank takes of it, and the step of all from those of each."""

import torch

from saescope.ranks import Ranks
from saescope.training.objective import Batch
from saescope.training.steps import StepResult
from saescope.training.steps.support import Grads


def own_part(batch: Batch, ranks: Ranks) -> Batch:
    """This rank's positions."""
    if ranks.alone:
        return batch
    share = ranks.share(len(batch.x))
    x = batch.x[share]
    return Batch(x, x if batch.y is batch.x else batch.y[share])


def summed(result: StepResult, ranks: Ranks) -> StepResult:
    """The result for a whole batch, from those of its parts, which are of one size."""
    if ranks.alone:
        return result
    grads = {name: x.div_(ranks.size).contiguous() for name, x in sorted(result.grads.items())}
    losses = ranks.total(torch.stack([*result.losses.values()]).div_(ranks.size))
    return StepResult(
        Grads({name: ranks.total(grad) for name, grad in grads.items()}),
        dict(zip(result.losses, losses, strict=True)),
        ranks.total(result.fired),
        ranks.together(result.squared_error),
    )
