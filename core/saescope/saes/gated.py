"""Gated SAE: one linear map decides which features fire, a rescaled copy how strongly (Rajamanoharan et al. 2024, arXiv:2404.16014)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from saescope.ops import SparseActs, from_dense
from saescope.products import times_rows
from saescope.saes.base import SAE
from saescope.saes.config import SAEConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedConfig(SAEConfig):
    """What is needed to rebuild a gated SAE from its weights."""

    architecture: Literal["gated"] = "gated"


class GatedSAE(SAE):
    """f = 1[x~ @ W_enc + b_gate > 0] * relu(x~ @ W_enc * exp(r_mag) + b_mag)."""

    biases: ClassVar[tuple[str, ...]] = ("b_gate", "b_mag", "r_mag")
    cfg: GatedConfig
    b_gate: Float[Tensor, " d_sae"]
    b_mag: Float[Tensor, " d_sae"]
    r_mag: Float[Tensor, " d_sae"]

    def _activate(self, x: Float[Tensor, "n_pos d_in"]) -> SparseActs:
        shared = times_rows(x, self.encoder)
        return from_dense(
            (shared + self.b_gate > 0) * (shared * self.r_mag.exp() + self.b_mag).relu()
        )

    def _linear(self, x: Float[Tensor, "n_pos d_in"]) -> Float[Tensor, "n_pos d_sae"]:
        return times_rows(x, self.encoder) * self.r_mag.exp() + self.b_mag

    def _shift_biases(self, shift: Tensor) -> dict[str, Tensor]:
        return {"b_gate": self.b_gate + shift, "b_mag": self.b_mag + shift * self.r_mag.exp()}
