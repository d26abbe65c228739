"""Which features are dead, and resampling them (Bricken et al. 2023); AuxK, pre-activation and
ghost terms are part of the loss."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.ops import sizes_are_free
from saescope.training.objective import Batch, Dead, Objective, Params
from saescope.training.optimizer import Adam
from saescope.training.steps import StepResult

ENCODER_SHARE = 0.2
"""Norm of a resampled encoder row, as a share of the living ones' mean."""
_MOST_ENTRIES = 2**23


class Deadness:
    """Counts the steps since each feature last fired."""

    def __init__(self, d_sae: int, window: int, device: torch.device) -> None:
        self.window, self.d_sae = window, d_sae
        self._at_most, self._known_for = 0, window + 1  # so many steps nothing is dead
        self.idle: Int[Tensor, " d_sae"] = torch.zeros(d_sae, dtype=torch.int64, device=device)

    def update(self, fired: Int[Tensor, " d_sae"]) -> None:
        self._known_for -= 1
        self.idle += 1
        self.idle.masked_fill_(fired > 0, 0)

    @property
    def mask(self) -> Bool[Tensor, " d_sae"]:
        """The features that were silent for more than `window` steps, bool [d_sae]."""
        return self.idle > self.window

    @property
    def dead(self) -> Dead:
        """The mask, and how many it may mark at most."""
        if sizes_are_free(self.idle.device):
            return Dead(self.mask, self.d_sae)
        if self._known_for <= 0:
            self.look_ahead(self.window)
        return Dead(self.mask, self._at_most)

    def look_ahead(self, n_steps: int) -> None:
        """Ask the device how many features may be dead in the steps to come: those that would be
        if none fired."""
        if sizes_are_free(self.idle.device):
            return
        # Far ahead nearly all might be: it is rather asked again.
        self._known_for = max(1, min(n_steps, self.window // 2))
        self._at_most = int((self.idle + self._known_for > self.window + 1).sum())

    def load(self, idle: Int[Tensor, " d_sae"]) -> None:
        """Go on from these counts."""
        self.idle.copy_(idle)
        self._known_for = 0


def resample(
    adam: Adam,
    deadness: Deadness,
    batch: Batch,
    result: StepResult,
    *,
    objective: Objective,
    generator: torch.Generator,
) -> int:
    """Point each dead feature at an input that is reconstructed badly (drawn by squared loss);
    returns how many."""
    params, dead = adam.params, deadness.mask.nonzero().flatten()
    n_dead = len(dead)
    if not n_dead or n_dead == len(deadness.idle):
        return 0
    weights = result.squared_error.square().cpu()
    rows = torch.multinomial(
        weights, n_dead, replacement=n_dead > int((weights > 0).sum()), generator=generator
    ).to(dead.device)
    alive = ~deadness.mask
    x = batch.x[rows] - params["b_dec"] if objective.apply_b_dec_to_input else batch.x[rows]
    targets = {"encoder": (x, ENCODER_SHARE), "decoder": (batch.y[rows] - params["b_dec"], 1.0)}
    for name, (direction, share) in targets.items():
        unit = direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-8)
        params[name][dead] = unit * (share * params[name][alive].norm(dim=1).mean())
        adam.forget(name, dead)
    centred = batch.x - params["b_dec"] if objective.apply_b_dec_to_input else batch.x
    rate = float(result.fired.sum()) / (len(batch.x) * len(alive))
    bias = 0.0 if objective.recipe.ranks else _bias(params, centred, dead, rate)
    for name in ("b_enc", "b_gate", "b_mag", "r_mag"):
        if name in params:
            params[name][dead] = 0.0 if name == "r_mag" else bias
            adam.forget(name, dead)
    deadness.idle[dead] = 0
    return n_dead


def _bias(params: Params, x: Tensor, dead: Tensor, rate: float) -> Float[Tensor, " n_dead"]:
    """The bias with which each resampled feature fires as often as features do on average: at 0 it
    would fire on half of all positions."""
    values = x[: max(64, _MOST_ENTRIES // len(dead))] @ params["encoder"][dead].T
    n_below = min(len(values), max(1, round(len(values) * (1 - rate))))
    threshold = params["threshold"][dead] if "threshold" in params else 0.0
    return threshold - values.kthvalue(n_below, dim=0).values
