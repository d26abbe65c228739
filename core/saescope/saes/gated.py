"""Gated SAE: one linear map decides which features fire, a rescaled copy how strongly
(Rajamanoharan et al. 2024, arXiv:2404.16014)."""

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor

from saescope.ops import SparseActs, from_dense
from saescope.products import times_rows
from saescope.saes.base import SAE, ReadBy
from saescope.saes.config import SAEConfig
from saescope.saes.disk import shared_fields
from saescope.saes.jumprelu import JumpReLUConfig, JumpReLUSAE


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

    def to_saelens(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A gated transcoder, which sae-lens does not have, is written as the JumpReLU transcoder
        that computes the same."""
        if not self.cfg.transcoder:
            return super().to_saelens()
        same = self.as_jumprelu()
        extra_metadata = {"training_architecture": self.cfg.architecture}
        cfg = shared_fields(
            same.cfg, same.cfg.architecture, dtype=same._dtype_name, extra_metadata=extra_metadata
        )
        return cfg, same.tensors()

    def as_jumprelu(self) -> JumpReLUSAE:
        """Return an equal SAE in another form: a JumpReLU SAE.

        With p = (x @ W_enc) * exp(r_mag) + b_mag, the gate x @ W_enc + b_gate > 0 is
        p > b_mag - exp(r_mag) * b_gate.
        """
        tensors = {name: tensor.float() for name, tensor in self.tensors().items()}
        growth, b_mag = tensors.pop("r_mag").exp(), tensors.pop("b_mag")
        threshold = b_mag - growth * tensors.pop("b_gate")
        shared = {
            field.name: getattr(self.cfg, field.name)
            for field in fields(SAEConfig)
            if field.name != "architecture"
        }
        cfg = replace(JumpReLUConfig(**shared), dtype="float32")
        changed = {"W_enc": tensors["W_enc"] * growth, "b_enc": b_mag, "threshold": threshold}
        return JumpReLUSAE(cfg, tensors | changed)

    def read_by(self, features: Int[Tensor, " n"]) -> ReadBy:
        """How the magnitude of some features is read; whether they fire is decided by the gate."""
        growth = self.r_mag[features].exp()
        return ReadBy(self.encoder[features] * growth[:, None], self.b_mag[features])

    def _activate(self, x: Float[Tensor, "n_pos d_in"]) -> SparseActs:
        # One product for gate and magnitude: they differ in a stretch and a bias (arXiv:2404.16014,
        # eq. 6).
        shared = times_rows(x, self.encoder)
        return from_dense(
            (shared + self.b_gate > 0) * (shared * self.r_mag.exp() + self.b_mag).relu()
        )

    def _linear(self, x: Float[Tensor, "n_pos d_in"]) -> Float[Tensor, "n_pos d_sae"]:
        return times_rows(x, self.encoder) * self.r_mag.exp() + self.b_mag

    def _shift_biases(self, shift: Tensor) -> dict[str, Tensor]:
        # r_mag stretches the magnitude's product, and so what a shift of the input does to it.
        return {"b_gate": self.b_gate + shift, "b_mag": self.b_mag + shift * self.r_mag.exp()}
