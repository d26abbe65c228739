"""The metrics of a run: one record every few steps, thinned so that a long run stays readable."""

from collections.abc import Mapping

from jaxtyping import Bool
from torch import Tensor

from saescope.precision import fetched
from saescope.training.objective import Batch
from saescope.training.steps import StepResult

MAX_POINTS = 400
MUCH_DEAD = 0.5

Point = dict[str, float | int]


class History:
    """Points of the curve, oldest first; every second one goes when there are too many."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.points: list[Point] = []

    def due(self, step: int, n_steps: int) -> bool:
        return step % self.every == 0 or step == n_steps

    def add(self, point: Mapping[str, float | int]) -> None:
        self.points.append(dict(point))
        if len(self.points) > MAX_POINTS:
            self.points = self.points[1::2]
            self.every *= 2


def concerns(point: Mapping[str, float | int]) -> list[str]:
    """What the last point of a run says is wrong with its SAE, and what to change."""
    sentences = list[str]()
    if point["explained_variance"] < 0:
        sentences.append(
            "The SAE reconstructs worse than the mean activation: train again with a "
            "lower lr, more tokens, or more varied text."
        )
    if point["dead_share"] > MUCH_DEAD:
        sentences.append(
            f"{point['dead_share']:.0%} of the features are dead: train on more "
            "tokens, or with a smaller d_sae."
        )
    return sentences


def measure(batch: Batch, result: StepResult, *, dead: Bool[Tensor, " d_sae"]) -> Point:
    """Loss terms and what users watch; all on the batch just trained on."""
    spread = (batch.y - batch.y.mean(0)).square().sum(1).mean()
    watched = (spread, result.fired.sum(), dead.float().mean())
    variance, n_fired, dead_share, *values = fetched(*watched, *result.losses.values())
    losses = dict(zip(result.losses, values, strict=True))
    return losses | {
        "loss": sum(losses.values()),
        "l0": n_fired / len(batch.x),
        "explained_variance": 1 - losses["mse_loss"] / variance if variance else 0.0,
        "dead_share": dead_share,
    }
