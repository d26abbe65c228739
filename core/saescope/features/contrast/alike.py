"""Whether texts that stand beside each other are alike: passages of one document, taken for
independent texts, make differences out of nothing."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.features.contrast.designs import Design

N_ORDERS = 199
ALIKE = 0.01
"""p below which it is said."""
LEAST_TEXTS = 6


def neighbours_alike(
    design: Design, scores: Float[Tensor, "n_texts n_features"], seed: int
) -> bool:
    """Neighbours in a list have more similar features than texts of that list in random order.

    Texts are compared by the cosine of their scores, each feature in its own standard deviations;
    the order is shuffled within each set.
    """
    if len(design.unit.unique()) < len(design.unit):
        return False  # documents are known
    rows = _unit_rows(design, scores.double())
    cosines = rows @ rows.T
    rng = torch.Generator().manual_seed(seed)
    sets = [part for part in design.sets() if len(part) >= LEAST_TEXTS]
    if not sets:
        return False
    observed = sum(_beside(cosines, part) for part in sets)
    beyond = sum(
        sum(_beside(cosines, part[torch.randperm(len(part), generator=rng)]) for part in sets)
        >= observed
        for _ in range(N_ORDERS)
    )
    return (beyond + 1) / (N_ORDERS + 1) <= ALIKE


def _unit_rows(
    design: Design, scores: Float[Tensor, "n_texts n_features"]
) -> Float[Tensor, "n_texts n_features"]:
    centred = design.centred(scores)
    scaled = centred / centred.std(0).clamp(min=1e-12)
    return scaled / scaled.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _beside(cosines: Float[Tensor, "n n"], order: Int[Tensor, " m"]) -> float:
    return float(cosines[order[:-1], order[1:]].sum())
