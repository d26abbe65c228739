"""Temporal SAE: attention over earlier positions predicts part of the features, the rest is novel
(arXiv:2511.01836)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from saescope.errors import ConfigError
from saescope.ops import SparseActs, from_dense, joined, topk_acts
from saescope.products import times_rows
from saescope.saes.base import SAE, InputScale, ReadBy, check_shapes
from saescope.saes.config import SAEConfig

EPS = 1e-6
_PARTS = ("k_ctx", "q_target", "v_ctx", "c_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporalConfig(SAEConfig):
    """What is needed to rebuild a temporal SAE from its weights."""

    architecture: Literal["temporal"] = "temporal"
    n_heads: int = 8
    n_attn_layers: int = 1
    bottleneck_factor: int = 64
    """Queries and keys have d_sae / bottleneck_factor numbers, over all heads."""
    sae_diff_type: Literal["relu", "topk"] = "topk"
    """How novel features are chosen."""
    kval_topk: int | None = None
    """Novel features kept per position; null keeps all that are positive."""
    tied_weights: bool = True
    """The encoder is the decoder, transposed."""
    activation_normalization_factor: float = 1.0
    """The SAE sees activations times this (normalize_activations = "constant_scalar_rescale")."""

    def __post_init__(self) -> None:
        super(TemporalConfig, self).__post_init__()
        heads = self.bottleneck_factor * self.n_heads
        if min(self.n_heads, self.n_attn_layers, self.bottleneck_factor) < 1 or self.d_sae % heads:
            raise ConfigError(
                f"d_sae={self.d_sae} must be a multiple of n_heads * bottleneck_factor "
                f"= {heads}, all positive.",
                field="d_sae",
                got=self.d_sae,
            )
        if self.sae_diff_type not in ("relu", "topk"):
            raise ConfigError(
                f"sae_diff_type must be 'relu' or 'topk', got {self.sae_diff_type!r}.",
                field="sae_diff_type",
                got=self.sae_diff_type,
                allowed=("relu", "topk"),
            )
        if self.kval_topk is not None and not 0 < self.kval_topk <= self.d_sae:
            raise ConfigError(
                f"kval_topk must be in [1, d_sae={self.d_sae}] or null, got {self.kval_topk}.",
                field="kval_topk",
                got=self.kval_topk,
            )
        if (
            self.transcoder
            or not self.apply_b_dec_to_input
            or not self.activation_normalization_factor > 0
        ):
            raise ConfigError(
                "A temporal SAE is no transcoder, needs apply_b_dec_to_input=True and "
                "a positive normalisation factor."
            )
        if self.normalize_activations not in ("none", "constant_scalar_rescale"):
            raise ConfigError(
                f"A temporal SAE cannot have normalize_activations={self.normalize_activations!r}.",
                field="normalize_activations",
                allowed=("none", "constant_scalar_rescale"),
            )


class Codes(NamedTuple):
    """What a temporal SAE makes of a batch of sequences, positions in reading order."""

    novel: SparseActs
    """Features that the context did not predict: the feature activations."""
    predicted: Float[Tensor, "n_pos d_in"]
    """The part of the reconstruction that the context predicts, before the output scale."""


class TemporalSAE(SAE):
    """z_pred from attention over earlier positions; f = activation(lam * (x~ - predicted) @ W_enc);
    sae_out = (f + z_pred) @ W_dec + b_dec.

    Its input is `[*batch, n_pos, d_in]`: a position's features depend on the positions before it in
    the same sequence.
    """

    sequential: ClassVar[bool] = True
    biases: ClassVar[tuple[str, ...]] = ()
    cfg: TemporalConfig
    untied: Float[Tensor, "d_sae d_in"]

    def __init__(self, cfg: TemporalConfig, tensors: Mapping[str, Tensor]) -> None:
        nn.Module.__init__(self)
        self.cfg = cfg
        check_shapes(self.shapes(cfg), tensors)
        self.register_buffer("decoder", tensors["W_dec"].contiguous())
        self.register_buffer("b_dec", tensors["b_dec"].contiguous())
        self.register_buffer("W_skip", None)
        if not cfg.tied_weights:
            self.register_buffer("untied", tensors["W_enc"].T.contiguous())
        for name in self._attention_names(cfg):
            self.register_buffer(name.replace(".", "_"), tensors[name].contiguous())

    @classmethod
    def shapes(cls, cfg: SAEConfig) -> dict[str, tuple[int, ...]]:
        assert isinstance(cfg, TemporalConfig), "a temporal SAE has a temporal configuration"
        shapes: dict[str, tuple[int, ...]] = {"W_dec": (cfg.d_sae, cfg.d_in), "b_dec": (cfg.d_in,)}
        shapes |= {} if cfg.tied_weights else {"W_enc": (cfg.d_in, cfg.d_sae)}
        for name in cls._attention_names(cfg):
            rows = (
                cfg.d_sae // cfg.bottleneck_factor
                if name.split(".")[2] in ("k_ctx", "q_target")
                else cfg.d_sae
            )
            shapes[name] = (rows, cfg.d_sae) if name.endswith("weight") else (rows,)
        return shapes

    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name.replace(".", "_")) for name in self.shapes(self.cfg)}

    @property
    def encoder(  # pyright: ignore[reportIncompatibleVariableOverride]
        self,
    ) -> Float[Tensor, "d_sae d_in"]:
        return self.decoder if self.cfg.tied_weights else self.untied

    def scale(self, x: Float[Tensor, "n_pos d_in"]) -> InputScale | None:
        if self.cfg.normalize_activations == "none":
            return None
        factor = x.new_full((1, 1), self.cfg.activation_normalization_factor)
        return InputScale(torch.zeros_like(factor), factor, 1 / factor)

    def encode_codes(self, x: Tensor) -> Codes:
        """Novel features and the predicted part, of `x` `[*batch, n_pos, d_in]`."""
        # [*batch, n_pos, d_in] -> [n_sequences, n_pos, d_in]; attention must not look across
        # sequences.
        sequences = self.flatten(x).reshape(-1, x.shape[-2] if x.ndim > 1 else 1, self.cfg.d_in)
        codes = [self._codes(self._prepare(sequence)) for sequence in sequences]
        return Codes(
            joined([code.novel for code in codes]), torch.cat([code.predicted for code in codes])
        )

    def hidden_pre(self, x: Tensor) -> Float[Tensor, "*pos d_sae"]:
        unpredicted = self._prepare(self.flatten(x)) - self.encode_codes(x).predicted
        return times_rows(unpredicted / (4 * self.cfg.d_in), self.encoder).reshape(
            *self._positions(x), self.cfg.d_sae
        )

    def read_by(self, features: Int[Tensor, " n"]) -> ReadBy:
        raise ConfigError(
            "A feature of a temporal SAE reads all positions before its own, through attention: no "
            "single row says how it reads.",
            code="GRAPH_UNSUPPORTED_SAE",
            field="architecture",
            got=self.cfg.architecture,
            allowed="an SAE that reads each position by itself",
            hint="Choose an SAE of another architecture: ss.find_saes() lists them.",
        )

    def hidden_pre_of(self, x: Tensor, features: Int[Tensor, " n"]) -> Float[Tensor, "n_pos n"]:
        return self.hidden_pre(x).reshape(-1, self.cfg.d_sae)[:, features]

    def encode_sparse(self, x: Tensor) -> SparseActs:
        return self.encode_codes(x).novel

    def decode(self, acts: Tensor | SparseActs, like: Tensor | None = None) -> Tensor:
        """Reconstruction from novel features; the part that the context predicts is computed from
        `like`, held fixed.

        Raises:
            ConfigError: `like` is missing.
        """
        if like is None:
            raise ConfigError(
                "A temporal SAE reconstructs from its features and from the positions "
                "before: decode needs the input as well.",
                hint="Call sae.decode(acts, like=x).",
            )
        if not isinstance(acts, SparseActs):
            acts = from_dense(acts.reshape(-1, self.cfg.d_sae))
        outer = (
            1 / self.cfg.activation_normalization_factor
            if self.cfg.normalize_activations != "none"
            else 1.0
        )
        out = (
            self.decode_change(acts, like)
            + (self.encode_codes(like).predicted + self.b_dec) * outer
        )
        return out.reshape(like.shape)

    def _scale_of(self, like: Tensor | None) -> InputScale | None:
        return self.scale(self.decoder[:1] if like is None else self.flatten(like))

    def _codes(self, x: Float[Tensor, "n_pos d_in"]) -> Codes:
        """The codes of one sequence, prepared."""
        lam, residual = 1 / (4 * self.cfg.d_in), x
        for layer in range(self.cfg.n_attn_layers):
            z_input = times_rows(residual * lam, self.encoder).relu()
            # The context of a position is what came before it: shifted by one, the first position
            # sees zeros.
            z_pred = self._attend(layer, F.pad(z_input, (0, 0, 1, 0))[:-1], z_input).relu()
            direction = z_pred @ self.decoder
            # Project the residual off the predicted direction: only its direction counts, not how
            # strong the prediction was.
            norm = direction.norm(dim=-1, keepdim=True) + EPS
            residual = (
                residual - (direction * residual).sum(-1, keepdim=True) / norm.pow(2) * direction
            )
        hidden_pre = times_rows(residual * lam, self.encoder)
        kept = self.cfg.kval_topk if self.cfg.sae_diff_type == "topk" else None
        novel = from_dense(hidden_pre.relu()) if kept is None else topk_acts(hidden_pre, kept)
        return Codes(novel, x - residual)

    def _attend(self, layer: int, context: Tensor, target: Tensor) -> Tensor:
        """Causal attention over the features; heads side by side."""
        (k, q, v, out), heads = self._projections(layer), self.cfg.n_heads

        def split(inputs: Tensor, projection: tuple[Tensor, Tensor]) -> Tensor:
            return F.linear(inputs, *projection).unflatten(-1, (heads, -1)).transpose(0, 1)

        attended = F.scaled_dot_product_attention(
            split(target, q), split(context, k), split(context, v), is_causal=True
        )
        return F.linear(attended.transpose(0, 1).flatten(1), *out)

    def _projections(self, layer: int) -> tuple[tuple[Tensor, Tensor], ...]:
        return tuple(
            (
                getattr(self, f"attn_layers_{layer}_{part}_weight"),
                getattr(self, f"attn_layers_{layer}_{part}_bias"),
            )
            for part in _PARTS
        )

    @staticmethod
    def _attention_names(cfg: TemporalConfig) -> list[str]:
        kinds = ("weight", "bias")
        return [
            f"attn_layers.{i}.{part}.{kind}"
            for i in range(cfg.n_attn_layers)
            for part in _PARTS
            for kind in kinds
        ]

    def fold_W_dec_norm(self) -> SAE:
        raise ConfigError(
            "A temporal SAE's decoder norms cannot be folded: its attention layers "
            "read the features."
        )

    def fold_activation_norm_scaling_factor(self, factor: float) -> SAE:
        return type(self)(
            replace(
                self.cfg,
                normalize_activations="constant_scalar_rescale",
                activation_normalization_factor=factor,
            ),
            self.tensors(),
        )

    def fold_activation_whitening(self, mean: Tensor, whiten: Tensor, unwhiten: Tensor) -> SAE:
        raise ConfigError(
            "A temporal SAE cannot be whitened: its attention layers read the features."
        )
