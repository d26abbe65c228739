"""JumpReLU SAE: a feature fires above its own threshold (Rajamanoharan et al. 2024,
arXiv:2407.14435)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from saescope.ops import SparseActs, acts_above
from saescope.saes.base import SAE
from saescope.saes.config import SAEConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class JumpReLUConfig(SAEConfig):
    """What is needed to rebuild a JumpReLU SAE from its weights."""

    architecture: Literal["jumprelu"] = "jumprelu"


class JumpReLUSAE(SAE):
    """p = x~ @ W_enc + b_enc;  f = relu(p) * 1[p > threshold]."""

    biases: ClassVar[tuple[str, ...]] = ("b_enc", "threshold")
    cfg: JumpReLUConfig
    b_enc: Float[Tensor, " d_sae"]
    threshold: Float[Tensor, " d_sae"]

    def _activate(self, x: Float[Tensor, "n_pos d_in"]) -> SparseActs:
        return acts_above(self._linear(x), self.threshold)
