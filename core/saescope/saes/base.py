"""The SAE contract: weights kept feature-major, encode and decode without hidden state."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saescope.cancel import stop_if_cancelled
from saescope.errors import ConfigError, FormatError, MismatchError
from saescope.ops import SparseActs, chunk_of, joined, sparse_decode, sparse_dot
from saescope.products import times_rows
from saescope.saes.config import SAEConfig, SAEMetadata
from saescope.saes.disk import knobs, shared_fields, write

LAYER_NORM_EPS = 1e-5
PER_POSITION = ("layer_norm", "constant_norm_rescale")
"""The normalisations that take a scale from each position's own input."""


class InputScale(NamedTuple):
    """How a position's input was normalised: `x~ = (x - shift) * inner` and `sae_out = out~ * outer
    + shift`."""

    shift: Tensor
    inner: Tensor
    outer: Tensor


class ReadBy(NamedTuple):
    """The affine map `x~ @ rows.T + bias` by which features read a prepared input."""

    rows: Float[Tensor, "n d_in"]
    bias: Float[Tensor, " n"]


class Decoders(NamedTuple):
    """The decoders of one layer of a cross-layer transcoder, each for itself."""

    n: int
    """How many layers it writes: its own and those after it."""
    rows: Callable[[Int[Tensor, " n"], int], Float[Tensor, "n d_out"]]
    """Takes features and a number of layers after its own; reads their decoder rows for it."""


class SAE(nn.Module):
    """f = activation(x~ @ W_enc + b_enc);  sae_out = f @ W_dec + b_dec.

    Architectures implement `_activate`; everything that runs inside saescope uses `encode_sparse`.
    """

    biases: ClassVar[tuple[str, ...]] = ("b_enc",)
    """Names of the per-feature vectors, shape [d_sae]."""
    sequential: ClassVar[bool] = False
    """A position's features depend on those before it in its sequence: give `[batch, n_pos, d_in]`,
    not bare positions."""
    cfg: SAEConfig
    encoder: Float[Tensor, "d_sae d_in"]
    decoder: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    W_skip: Float[Tensor, "d_out d_in"] | None
    decoders: Decoders | None = None
    """What a layer of a cross-layer transcoder has beside `W_dec`, which is their sum; an SAE that
    is made of another's tensors has none."""

    def __init__(self, cfg: SAEConfig, tensors: Mapping[str, Tensor]) -> None:
        """`tensors` in the field's shapes: W_enc [d_in, d_sae], W_dec [d_sae, d_out], b_dec, and
        this architecture's biases."""
        super().__init__()
        self.cfg = cfg
        check_shapes(self.shapes(cfg), tensors)
        # Feature-major: free where W_enc came as the transpose of such memory (docs/decisions/003).
        self.register_buffer("encoder", tensors["W_enc"].T.contiguous())
        self.register_buffer("decoder", tensors["W_dec"].contiguous())
        for name in ("b_dec", *self.biases):
            self.register_buffer(name, tensors[name].contiguous())
        self.register_buffer("W_skip", tensors["W_skip"].contiguous() if cfg.skip else None)

    @classmethod
    def shapes(cls, cfg: SAEConfig) -> dict[str, tuple[int, ...]]:
        """Every tensor of this architecture with its shape on disk."""
        shapes = {
            "W_enc": (cfg.d_in, cfg.d_sae),
            "W_dec": (cfg.d_sae, cfg.d_out),
            "b_dec": (cfg.d_out,),
        }
        shapes |= dict.fromkeys(cls.biases, (cfg.d_sae,))
        return shapes | ({"W_skip": (cfg.d_out, cfg.d_in)} if cfg.skip else {})

    def tensors(self) -> dict[str, Tensor]:
        """The weights under their names and shapes on disk."""
        return {name: getattr(self, name) for name in self.shapes(self.cfg)}

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        return self.encoder.T

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_out"]:
        return self.decoder

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.dtype

    @property
    def weights_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @cached_property
    def weights_hash(self) -> str:
        """The sha256 of all weights, by name."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors().items()):
            digest.update(name.encode())
            digest.update(
                tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()

    def flatten(self, x: Tensor) -> Float[Tensor, "n_pos d_in"]:
        """Positions in rows; the heads of a hook_z activation `[..., n_heads, d_head]` side by
        side.

        Raises:
            MismatchError: the width is not `d_in`.
        """
        if x.shape[-1] == self.cfg.d_in:
            return x.reshape(-1, self.cfg.d_in).to(self.dtype)
        is_z = self.cfg.reshape_activations == "hook_z" or self.cfg.metadata.hook_name.endswith(
            "hook_z"
        )
        if is_z and x.ndim > 1 and x.shape[-2] * x.shape[-1] == self.cfg.d_in:
            return x.reshape(-1, self.cfg.d_in).to(self.dtype)
        raise MismatchError(
            f"This SAE reads vectors of width d_in={self.cfg.d_in}, got activations of "
            f"shape {tuple(x.shape)}.",
            code="DIM_MISMATCH",
            got=tuple(x.shape),
            allowed=self.cfg.d_in,
            hint="Load the SAE with the model and the hook_name that it was trained on.",
        )

    def scale(self, x: Float[Tensor, "n_pos d_in"]) -> InputScale | None:
        """The normalisation that each position's own input asks for; None if there is none."""
        if self.cfg.normalize_activations == "constant_norm_rescale":
            # The norm of each position becomes sqrt(d_in).
            factor = self.cfg.d_in**0.5 / x.norm(dim=-1, keepdim=True)
            return InputScale(torch.zeros_like(factor), factor, 1 / factor)
        if self.cfg.normalize_activations == "layer_norm":
            std = x.std(dim=-1, keepdim=True)
            return InputScale(x.mean(dim=-1, keepdim=True), 1 / (std + LAYER_NORM_EPS), std)
        return None

    def encode_sparse(self, x: Tensor) -> SparseActs:
        """Active features of each position of `x` `[*pos, d_in]`, positions in reading order."""
        return joined([self._activate(chunk) for chunk in self._chunks(x)])

    def encode(self, x: Tensor) -> Float[Tensor, "*pos d_sae"]:
        """Return the feature activations of every position, dense."""
        return self.encode_sparse(x).to_dense().reshape(*self._positions(x), self.cfg.d_sae)

    def hidden_pre(self, x: Tensor) -> Float[Tensor, "*pos d_sae"]:
        """What the activation function sees of every position, dense, as at sae-lens's
        hook_sae_acts_pre."""
        chunks = [self._linear(chunk) for chunk in self._chunks(x)]
        return torch.cat(chunks).reshape(*self._positions(x), self.cfg.d_sae)

    def read_by(self, features: Int[Tensor, " n"]) -> "ReadBy":
        """How some features read a prepared input: what the activation function sees of them, the
        decoder's norm included where activations carry it.

        Raises:
            ConfigError: GRAPH_UNSUPPORTED_SAE: what it sees is no affine map of the position alone.
        """
        return ReadBy(self.encoder[features], self.get_buffer("b_enc")[features])

    def hidden_pre_of(self, x: Tensor, features: Int[Tensor, " n"]) -> Float[Tensor, "n_pos n"]:
        """What the activation function sees of some features, positions in reading order: where a
        feature fires it is its activation."""
        rows, bias = self.read_by(features)
        return times_rows(self._prepare(self.flatten(x)), rows, bias)

    def decode(self, acts: Tensor | SparseActs, like: Tensor | None = None) -> Tensor:
        """Reconstruction of `acts`; `like` is the input that they came from: its normalisation is
        undone and its shape taken.

        Raises:
            ConfigError: this SAE normalises each position and `like` is missing.
        """
        sparse = isinstance(acts, SparseActs)
        out = (
            sparse_decode(self.scaled(acts), self.decoder)
            if sparse
            else (acts * self.row_scale()) @ self.decoder
        )
        out = out + self.b_dec
        scale = self._scale_of(like)
        if scale is not None:
            out = (out.reshape(-1, self.cfg.d_out) * scale.outer + scale.shift).reshape(out.shape)
        if like is None:
            return out
        return (
            out.reshape(like.shape)
            if not self.cfg.transcoder
            else out.reshape(*self._positions(like), self.cfg.d_out)
        )

    def decode_change(
        self, change: SparseActs, like: Tensor | None = None
    ) -> Float[Tensor, "n_pos d_out"]:
        """`decode(f') - decode(f)` for `change` = f' - f: no bias, only the changed rows are
        read."""
        scale, out = self._scale_of(like), sparse_decode(self.scaled(change), self.decoder)
        return out if scale is None else out * scale.outer

    def directions(self, features: Int[Tensor, " n"]) -> Float[Tensor, "n d_out"]:
        """d sae_out / d f_i, before a per-position output scale."""
        return self.decoder[features] * self.row_scale(features)[:, None]

    @property
    def writes(self) -> Bool[Tensor, " d_sae"]:
        """Features whose decoder row is not zero: ablating or adding any other changes nothing."""
        return self.decoder.any(dim=-1)

    def contributions(
        self, acts: SparseActs, onto: Float[Tensor, "n_pos d_out"], like: Tensor | None = None
    ) -> Float[Tensor, " nnz"]:
        """`(f_i W_dec_i) . onto` of each entry at its position."""
        scale = self._scale_of(like)
        onto = onto.to(self.dtype) if scale is None else onto.to(self.dtype) * scale.outer
        return self.scaled(acts).values * sparse_dot(
            acts.positions, acts.features, self.decoder, onto
        )

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of `x` (of the output site, for a transcoder), skip connection
        included."""
        return self.skip_path(x, self.decode(self.encode_sparse(x), like=x))

    def skip_path(self, x: Tensor, out: Tensor) -> Tensor:
        """`out` with the skip connection added, where there is one."""
        return (
            out
            if self.W_skip is None
            else out + (self.flatten(x) @ self.W_skip.T).reshape(out.shape)
        )

    def with_metadata(self, metadata: SAEMetadata) -> "SAE":
        """A new SAE with the same weights that belongs elsewhere: `cfg` never changes."""
        moved = self._with(replace(self.cfg, metadata=metadata), {})
        moved.decoders = self.decoders
        return moved

    def fold_W_dec_norm(self) -> "SAE":
        """A new SAE with unit decoder rows: activations grow by the old norms, the reconstruction
        stays the same."""
        norm = self.decoder.norm(dim=-1).clamp(min=1e-8)
        changed = {"W_enc": self.W_enc * norm, "W_dec": self.decoder / norm[:, None]}
        # r_mag is the log of a ratio of two pre-activations, which grow alike.
        changed |= {name: getattr(self, name) * norm for name in self.biases if name != "r_mag"}
        return self._with(self.cfg, changed)

    def fold_activation_norm_scaling_factor(self, factor: float) -> "SAE":
        """A new SAE for raw activations, from one trained on `factor * x` (thresholds and b_enc
        live in the scaled space)."""
        changed = {
            "W_enc": self.W_enc * factor,
            "W_dec": self.decoder / factor,
            "b_dec": self.b_dec / factor,
        }
        return self._with(replace(self.cfg, normalize_activations="none"), changed)

    def fold_activation_whitening(self, mean: Tensor, whiten: Tensor, unwhiten: Tensor) -> "SAE":
        """A new SAE for raw activations, from one trained on `(x - mean) @ whiten`
        (arXiv:2511.13981)."""
        W_enc = whiten @ self.W_enc
        changed = {
            "W_enc": W_enc,
            "W_dec": self.decoder @ unwhiten,
            "b_dec": self.b_dec @ unwhiten + mean,
        }
        # Where the encoder subtracts b_dec, the new b_dec holds the mean already.
        if not self.cfg.apply_b_dec_to_input:
            changed |= self._shift_biases(-(mean @ W_enc))
        return self._with(replace(self.cfg, normalize_activations="none"), changed)

    def fold_centres(self, centre_in: Tensor | None, centre_out: Tensor | None) -> "SAE":
        """A new SAE for raw activations, from one trained on `x - centre_in` to predict `y -
        centre_out`."""
        tensors, changed = self.tensors(), dict[str, Tensor]()
        if centre_out is not None:
            changed["b_dec"] = tensors["b_dec"] + centre_out.to(self.b_dec)
        if centre_in is not None and not self.cfg.apply_b_dec_to_input:
            changed |= self._shift_biases(-(centre_in.to(self.W_enc) @ self.W_enc))
        if centre_in is not None and self.W_skip is not None:
            b_dec = changed.get("b_dec", tensors["b_dec"])
            # The skip path reads the raw input now: what the centre would have taken off comes off
            # the bias.
            changed["b_dec"] = b_dec - self.W_skip @ centre_in.to(self.W_skip)
        return self._with(self.cfg, changed) if changed else self

    def save(self, folder: str | Path) -> Path:
        """Write `cfg.json` and `sae_weights.safetensors` as SAELens does; returns the folder."""
        return write(*self.to_saelens(), Path(folder))

    def to_saelens(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What `cfg.json` says and the tensors beside it, in SAELens's terms."""
        shared = shared_fields(self.cfg, self.cfg.architecture, dtype=self._dtype_name)
        return shared | knobs(self.cfg), self.tensors()

    def _chunks(self, x: Tensor) -> Iterator[Float[Tensor, "n_pos d_in"]]:
        """Prepared inputs, some positions at a time."""
        rows = self.flatten(x)
        for chunk in rows.split(chunk_of(rows, self.cfg.d_sae)):
            stop_if_cancelled()
            yield self._prepare(chunk)

    @property
    def _dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def _activate(self, x: Float[Tensor, "n_pos d_in"]) -> SparseActs:
        """Active features of prepared inputs."""
        raise NotImplementedError

    def _linear(self, x: Float[Tensor, "n_pos d_in"]) -> Float[Tensor, "n_pos d_sae"]:
        """The encoder's map of prepared inputs; a decoder's norm that activations carry comes after
        it."""
        return times_rows(x, self.encoder, self.get_buffer("b_enc"))

    def _prepare(self, x: Float[Tensor, "n_pos d_in"]) -> Float[Tensor, "n_pos d_in"]:
        scale = self.scale(x)
        if scale is not None:
            x = (x - scale.shift) * scale.inner
        return x - self.b_dec if self.cfg.apply_b_dec_to_input else x

    def row_scale(self, features: Tensor | None = None) -> Tensor:
        """What each decoder row is multiplied with when it is used: 1, unless activations carry the
        decoder's norm."""
        return self.decoder.new_ones(self.cfg.d_sae if features is None else len(features))

    def scaled(self, acts: SparseActs) -> SparseActs:
        """Activations as the decoder rows are multiplied with them."""
        return acts

    def _scale_of(self, like: Tensor | None) -> InputScale | None:
        if self.cfg.normalize_activations not in PER_POSITION:
            return None
        if like is None:
            raise ConfigError(
                "This SAE normalises each position "
                f"({self.cfg.normalize_activations}), so decode needs the input as "
                "well.",
                hint="Call sae.decode(acts, like=x).",
            )
        return self.scale(self.flatten(like))

    def _positions(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape[:-1] if x.shape[-1] == self.cfg.d_in else x.shape[:-2])

    def _shift_biases(self, shift: Tensor) -> dict[str, Tensor]:
        return {"b_enc": self.get_buffer("b_enc") + shift}

    def _with(self, cfg: SAEConfig, changed: Mapping[str, Tensor]) -> "SAE":
        return type(self)(cfg, self.tensors() | dict(changed))


def check_shapes(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Any]) -> None:
    """Raise unless these are exactly the expected tensors."""
    missing, extra = (
        sorted(expected.keys() - tensors.keys()),
        sorted(tensors.keys() - expected.keys()),
    )
    wrong = {
        name: tuple(tensors[name].shape)
        for name in expected.keys() & tensors.keys()
        if tuple(tensors[name].shape) != expected[name]
    }
    if missing or extra or wrong:
        raise FormatError(
            "The weights do not fit the configuration."
            + (f" Missing: {missing}." if missing else "")
            + (f" Unknown: {extra}." if extra else "")
            + "".join(
                f" {name} is {shape}, the configuration says {expected[name]}."
                for name, shape in sorted(wrong.items())
            ),
            code="SHAPE_MISMATCH",
            hint="Check d_in, d_sae and architecture in cfg.json against the weights file.",
        )
