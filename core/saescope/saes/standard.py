"""Standard SAE: ReLU features (Bricken et al. 2023, "Towards Monosemanticity")."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from saescope.ops import SparseActs, from_dense
from saescope.saes.base import SAE
from saescope.saes.config import SAEConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardConfig(SAEConfig):
    """What is needed to rebuild a standard SAE from its weights."""

    architecture: Literal["standard"] = "standard"


class StandardSAE(SAE):
    """f = relu(x~ @ W_enc + b_enc)."""

    cfg: StandardConfig
    b_enc: Float[Tensor, " d_sae"]

    def _activate(self, x: Float[Tensor, "n_pos d_in"]) -> SparseActs:
        return from_dense(self._linear(x).relu())
