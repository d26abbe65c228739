"""Features whose decoder directions are close."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.saes import SAE

ROWS = 2**14
"""Decoder rows compared at a time."""


class Neighbour(NamedTuple):
    """Another feature, and the cosine of the two decoder rows."""

    feature: int
    cosine: float


def nearest_features(sae: SAE, feature: int, k: int = 5) -> list[Neighbour]:
    """The `k` features with the largest cosine to this one's decoder row, itself left out; of none
    if that row is zero."""
    row = _unit(sae.decoder[feature : feature + 1])[0]
    with torch.no_grad():
        cosines = torch.cat([_unit(rows) @ row for rows in sae.decoder.split(ROWS)])
    cosines[feature] = -torch.inf
    if not bool(row.any()):
        return []
    best = cosines.topk(min(k, len(cosines) - 1))
    return [
        Neighbour(i, value)
        for i, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _unit(rows: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_out"]:
    rows = rows.float()
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)
