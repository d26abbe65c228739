"""GroupMax SAE: features in k groups, the largest of each group fires (EleutherAI's sparsify,
activation "groupmax")."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.errors import ConfigError
from saescope.ops import SparseActs, from_entries
from saescope.saes.base import SAE
from saescope.saes.config import SAEConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMaxConfig(SAEConfig):
    """What is needed to rebuild a GroupMax SAE from its weights."""

    architecture: Literal["groupmax"] = "groupmax"
    k: int
    """Number of groups, each of d_sae / k neighbouring features."""

    def __post_init__(self) -> None:
        super(GroupMaxConfig, self).__post_init__()
        if type(self.k) is not int or self.k < 1 or self.d_sae % self.k:
            raise ConfigError(
                f"k must be a whole number that divides d_sae={self.d_sae}, got {self.k}.",
                field="k",
                got=self.k,
                allowed=f"a divisor of {self.d_sae}",
            )


class GroupMaxSAE(SAE):
    """p = x~ @ W_enc + b_enc;  f = relu(p) where p is the largest of its group, else 0."""

    cfg: GroupMaxConfig
    b_enc: Float[Tensor, " d_sae"]

    def _activate(self, x: Float[Tensor, "n_pos d_in"]) -> SparseActs:
        k, d_sae = self.cfg.k, self.cfg.d_sae
        values, within = self._linear(x).relu().unflatten(-1, (k, d_sae // k)).max(dim=-1)
        # [n_pos, k]: the winner of each group; group g begins at feature g * d_sae / k.
        features = within + torch.arange(0, d_sae, d_sae // k, device=x.device)
        positions = torch.arange(len(x), device=x.device).repeat_interleave(k)
        keep = values.flatten() > 0
        return from_entries(
            values.flatten()[keep], features.flatten()[keep], positions[keep], len(x), d_sae
        )

    def fold_W_dec_norm(self) -> SAE:
        raise ConfigError(
            "Folding the decoder norm would change which feature of a group is the largest."
        )
