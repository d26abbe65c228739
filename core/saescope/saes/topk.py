"""TopK SAE: keep the k largest pre-activations of each position (Gao et al. 2024,
arXiv:2406.04093)."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.errors import ConfigError
from saescope.ops import SparseActs, joined, topk_acts, topk_entries
from saescope.saes.base import SAE, ReadBy
from saescope.saes.config import SAEConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class NormScaledConfig(SAEConfig):
    """The configuration of architectures whose activations may carry the norm of their decoder
    row."""

    rescale_acts_by_decoder_norm: bool = False
    """Rank and report pre-activations times ||W_dec_i||, and divide by it again in decode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKConfig(NormScaledConfig):
    """What is needed to rebuild a TopK SAE from its weights."""

    architecture: Literal["topk"] = "topk"
    k: int
    """Number of features kept per position."""

    def __post_init__(self) -> None:
        super(TopKConfig, self).__post_init__()
        if type(self.k) is not int or not 0 < self.k <= self.d_sae:
            raise ConfigError(
                f"k must be a whole number in [1, d_sae={self.d_sae}], got {self.k}.",
                field="k",
                got=self.k,
                allowed=f"1..{self.d_sae}",
            )


class NormScaledSAE(SAE):
    """Shared by TopK and BatchTopK: the decoder may be treated as if its rows had norm 1."""

    cfg: NormScaledConfig
    b_enc: Float[Tensor, " d_sae"]

    def _hidden_pre(self, x: Float[Tensor, "n_pos d_in"]) -> Float[Tensor, "n_pos d_sae"]:
        hidden_pre = self._linear(x)
        # Ranked with the norm: a feature with a long row matters more for the reconstruction at the
        # same pre-activation.
        return (
            hidden_pre * self.decoder.norm(dim=-1)
            if self.cfg.rescale_acts_by_decoder_norm
            else hidden_pre
        )

    def read_by(self, features: Int[Tensor, " n"]) -> ReadBy:
        rows, bias = super().read_by(features)
        if not self.cfg.rescale_acts_by_decoder_norm:
            return ReadBy(rows, bias)
        norm = self.decoder[features].norm(dim=-1)
        return ReadBy(rows * norm[:, None], bias * norm)

    def row_scale(self, features: Tensor | None = None) -> Tensor:
        if not self.cfg.rescale_acts_by_decoder_norm:
            return super().row_scale(features)
        norm = (self.decoder if features is None else self.decoder[features]).norm(dim=-1)
        return torch.where(norm > 0, 1 / norm, 0)  # a row of zeros stays one

    def scaled(self, acts: SparseActs) -> SparseActs:
        if not self.cfg.rescale_acts_by_decoder_norm:
            return acts
        return replace(acts, values=acts.values * self.row_scale(acts.features))


class TopKSAE(NormScaledSAE):
    """f = relu(topk(x~ @ W_enc + b_enc))."""

    cfg: TopKConfig

    def _activate(self, x: Float[Tensor, "n_pos d_in"]) -> SparseActs:
        return topk_acts(self._hidden_pre(x), self.cfg.k)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of `x`, from k entries for each position: an accelerator's host need not
        wait for how many are positive."""
        entries = [topk_entries(self._hidden_pre(chunk), self.cfg.k) for chunk in self._chunks(x)]
        return self.skip_path(x, self.decode(joined(entries), like=x))

    def fold_W_dec_norm(self) -> SAE:
        """An equal SAE with decoder rows of norm 1, but only where activations are ranked with the
        decoder's norm: else the selection would change."""
        if not self.cfg.rescale_acts_by_decoder_norm:
            raise ConfigError(
                "Folding the decoder norm would change which k features are kept: this "
                "SAE ranks without it."
            )
        return super().fold_W_dec_norm()

    def fold_activation_whitening(self, mean: Tensor, whiten: Tensor, unwhiten: Tensor) -> SAE:
        if not self.cfg.rescale_acts_by_decoder_norm:
            return super().fold_activation_whitening(mean, whiten, unwhiten)
        # Unwhitening changes the row norms, so the ranking must stop depending on them first.
        folded = self.fold_W_dec_norm()
        plain = type(self)(replace(self.cfg, rescale_acts_by_decoder_norm=False), folded.tensors())
        return plain.fold_activation_whitening(mean, whiten, unwhiten)
