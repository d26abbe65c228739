"""The start of a run: random directions, then fitted to the first batches, so that nothing is dead
and nothing has far to go."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.training.objective import Batch, Objective, Params

START_DENSITY = 1.5
"""Features active at the start, as a multiple of the L0 aimed at, where the L0 is free."""
MEDIAN_ROUNDS = 20
_MOST_POSITIONS = 8192
_MOST_ENTRIES = 2**23


def fit_start(params: Params, objective: Objective, batches: Sequence[Batch], *, l0: float) -> None:
    """Fit the start to data in place: b_dec at the geometric median of the outputs (Gao et al.
    2024, A.1), inputs centred where b_dec does not do that.

    Where the L0 is free, the bias, or the threshold of a JumpReLU, is set so that START_DENSITY *
    l0 features are active a position.
    """
    x = torch.cat([batch.x for batch in batches])[:_MOST_POSITIONS]
    y = torch.cat([batch.y for batch in batches])[:_MOST_POSITIONS]
    params["b_dec"].copy_(geometric_median(y))
    biases = [params[name] for name in ("b_enc", "b_gate", "b_mag") if name in params]
    centre = params["b_dec"] if objective.apply_b_dec_to_input else geometric_median(x)
    if not objective.apply_b_dec_to_input:
        for bias in biases:
            bias.sub_(params["encoder"] @ centre)
    if objective.recipe.ranks:
        return
    cut = _cut(x - centre, params["encoder"], min(START_DENSITY * l0, objective.d_sae / 2))
    if "threshold" not in params:
        for bias in biases:
            bias.sub_(cut)
    elif not bool(params["threshold"].any()):
        params["threshold"].fill_(max(0.0, cut))


def geometric_median(x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The point with the least sum of distances (Weiszfeld's iteration): a few huge activations do
    not move it, as they do the mean."""
    median = x.mean(0)
    for _ in range(MEDIAN_ROUNDS):
        weights = 1 / (x - median).norm(dim=1).clamp(min=1e-6)
        median = weights @ x / weights.sum()
    return median


def _cut(x: Float[Tensor, "n d"], encoder: Float[Tensor, "d_sae d"], l0: float) -> float:
    """What l0 pre-activations a position are above, on average."""
    values = (x[: max(64, _MOST_ENTRIES // len(encoder))] @ encoder.T).flatten()
    return float(values.kthvalue(max(1, round(len(values) * (1 - l0 / len(encoder))))).values)
