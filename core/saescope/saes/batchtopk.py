"""BatchTopK and Matryoshka BatchTopK SAEs: k features a position on average.

Bussmann et al. 2024 (arXiv:2412.06410): while training, the k * n_pos largest activations of a
batch are kept; afterwards one threshold, estimated in training, takes the place of the batch.
Bussmann et al. 2025 (arXiv:2503.17547): every prefix of the features reconstructs too.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from saescope.errors import ConfigError
from saescope.ops import SparseActs, acts_above, batch_topk_acts
from saescope.saes.base import SAE
from saescope.saes.disk import shared_fields
from saescope.saes.topk import NormScaledConfig, NormScaledSAE


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTopKConfig(NormScaledConfig):
    """What is needed to rebuild a BatchTopK SAE from its weights."""

    architecture: Literal["batchtopk", "matryoshka_batchtopk"] = "batchtopk"
    k: float
    """Number of features kept per position, on average over a batch."""

    def __post_init__(self) -> None:
        super(BatchTopKConfig, self).__post_init__()
        if not 0 < self.k <= self.d_sae:
            raise ConfigError(
                f"k must be in (0, d_sae={self.d_sae}], got {self.k}.",
                field="k",
                got=self.k,
                allowed=f"more than 0, at most {self.d_sae}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MatryoshkaConfig(BatchTopKConfig):
    """A BatchTopK SAE whose features are nested."""

    architecture: Literal["matryoshka_batchtopk"] = "matryoshka_batchtopk"
    matryoshka_widths: tuple[int, ...]
    """Prefix lengths that reconstruct on their own, ascending; the last is d_sae."""

    def __post_init__(self) -> None:
        super(MatryoshkaConfig, self).__post_init__()
        check_widths(self.matryoshka_widths, d_sae=self.d_sae)


def check_widths(widths: tuple[int, ...], *, d_sae: int) -> None:
    """Raise ConfigError unless these are prefix lengths of `d_sae` features."""
    ascending = list(widths) == sorted(set(widths))
    if not widths or widths[0] < 1 or not ascending or widths[-1] != d_sae:
        raise ConfigError(
            f"matryoshka_widths must ascend from at least 1 to d_sae={d_sae}, got {widths}.",
            field="matryoshka_widths",
            got=widths,
        )


class BatchTopKSAE(NormScaledSAE):
    """f = relu(p) * 1[p > threshold], p = x~ @ W_enc + b_enc; `encode_batch` selects as in
    training."""

    biases: ClassVar[tuple[str, ...]] = ("b_enc", "threshold")
    cfg: BatchTopKConfig
    threshold: Float[Tensor, " d_sae"]

    def _activate(self, x: Float[Tensor, "n_pos d_in"]) -> SparseActs:
        return acts_above(self._hidden_pre(x), self.threshold)

    def encode_batch(self, x: Tensor) -> SparseActs:
        """The k * n_pos largest activations over all positions of `x` together."""
        return batch_topk_acts(self._hidden_pre(self._prepare(self.flatten(x))), self.cfg.k)

    def to_saelens(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The JumpReLU SAE with this threshold, as sae-lens writes it too."""
        folded = self.fold_W_dec_norm() if self.cfg.rescale_acts_by_decoder_norm else self
        extra_metadata = {"training_architecture": self.cfg.architecture}
        return (
            shared_fields(
                self.cfg, "jumprelu", dtype=self._dtype_name, extra_metadata=extra_metadata
            ),
            folded.tensors(),
        )

    def fold_W_dec_norm(self) -> SAE:
        """An equal SAE with decoder rows of norm 1; where activations carry the decoder's norm the
        threshold already lives at unit norm."""
        folded = super().fold_W_dec_norm()
        return (
            folded._with(folded.cfg, {"threshold": self.threshold})
            if self.cfg.rescale_acts_by_decoder_norm
            else folded
        )

    def fold_activation_norm_scaling_factor(self, factor: float) -> SAE:
        folded = super().fold_activation_norm_scaling_factor(factor)
        # p * ||W_dec_i|| is divided by the factor together with the decoder (SAELens issue 763).
        return (
            folded._with(folded.cfg, {"threshold": self.threshold / factor})
            if self.cfg.rescale_acts_by_decoder_norm
            else folded
        )

    def fold_activation_whitening(self, mean: Tensor, whiten: Tensor, unwhiten: Tensor) -> SAE:
        if not self.cfg.rescale_acts_by_decoder_norm:
            return super().fold_activation_whitening(mean, whiten, unwhiten)
        folded = self.fold_W_dec_norm()
        plain = type(self)(replace(self.cfg, rescale_acts_by_decoder_norm=False), folded.tensors())
        return plain.fold_activation_whitening(mean, whiten, unwhiten)


class MatryoshkaSAE(BatchTopKSAE):
    """A BatchTopK SAE that also reconstructs from its first w features, for each w of
    `matryoshka_widths`."""

    cfg: MatryoshkaConfig
