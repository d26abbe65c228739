"""One layer of a set: how its features read and what they write, weights read on first use."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.errors import ArgumentError, ConfigError
from saescope.formats.recipe import Recipe
from saescope.load import DecoderFiles, LocatedSAE, advised, read_located
from saescope.models import LanguageModel
from saescope.ops import SparseActs
from saescope.saes import ARCHITECTURES, SAE, SAEConfig
from saescope.saes.base import PER_POSITION
from saescope.sets.cache import Resident
from saescope.splice import encode_site, is_centred, prepare_input


class MemberSource(NamedTuple):
    """The arguments with which `ss.load_sae` loads a member by itself."""

    path: str = ""
    release: str = ""
    sae_id: str = ""
    revision: str = ""


class Storage(NamedTuple):
    """Where a member's weights are, and how they come into memory."""

    located: LocatedSAE
    recipe: Recipe
    device: torch.device
    dtype: torch.dtype
    resident: Resident


@dataclass(frozen=True, eq=False, kw_only=True)
class Member:
    """One layer's SAE in a set."""

    index: int
    """Its place in the set: members are in the order in which a forward pass reaches them."""
    layer: int
    cfg: SAEConfig
    write_hooks: Mapping[int, str]
    """Index of each member at whose site it writes -> the hook there: only its own, but in a
    cross-layer transcoder all later ones too."""
    place: MemberSource
    storage: Storage = field(repr=False)
    model: LanguageModel | None = field(default=None, repr=False)
    """The model in which the set is settled: raw activations of SAEs that were trained on a
    processed model are prepared as it says; without it they are taken to be prepared."""

    @property
    def read_hook(self) -> str:
        """The hook whose activation it encodes."""
        return self.cfg.metadata.hook_name

    @property
    def weights_bytes(self) -> int:
        """The bytes that it takes in memory."""
        shapes = ARCHITECTURES[self.cfg.architecture][1].shapes(self.cfg)
        return self.storage.dtype.itemsize * sum(map(math.prod, shapes.values()))

    @property
    def disk_bytes(self) -> int:
        """The bytes that its weights take on disk."""
        return self.storage.recipe.stored_bytes

    @property
    def sae(self) -> SAE:
        """The SAE of this layer, in memory from now on, until others need the room."""
        return self.storage.resident.get(self.index, self.weights_bytes, self._read)

    def encode(self, x: Float[Tensor, "n_pos d_in"]) -> SparseActs:
        """The active features of each position of the raw activation at `read_hook`.

        Raises:
            NumericError: it is NaN or infinite.
        """
        return encode_site(self.model, self._reader(), x[None])[1]

    def hidden_pre(
        self, x: Float[Tensor, "n_pos d_in"], features: Int[Tensor, " n"]
    ) -> Float[Tensor, "n_pos n"]:
        """What the activation function sees of some features: where one fires, its activation."""
        self._check(features)
        sae = self._reader()
        return sae.hidden_pre_of(prepare_input(self.model, sae, x), features)

    def read_rows(self, features: Int[Tensor, " n"]) -> Float[Tensor, "n d_in"]:
        """d hidden_pre_i / d x of some features, x being the raw activation at `read_hook`; of a
        gated SAE the path of the magnitude.

        Raises:
            ConfigError: GRAPH_UNSUPPORTED_SAE: a position is scaled by its own norm first, or the
                feature reads several positions.
        """
        self._check(features)
        self._refuse_scaled()
        sae = self._reader()
        rows = sae.read_by(features).rows
        centred = self.model is not None and is_centred(self.model, sae)
        return rows - rows.mean(-1, keepdim=True) if centred else rows

    def write_rows(self, features: Int[Tensor, " n"], to: int) -> Float[Tensor, "n d_out"]:
        """d (what is written at member `to`) / d f_i of some features.

        Raises:
            ArgumentError: NOT_WRITTEN: it does not write there.
            ConfigError: GRAPH_UNSUPPORTED_SAE: what it writes is scaled by each position's norm.
        """
        self._check(features)
        self._check_written(to)
        self._refuse_scaled()
        return self._reader().directions(features)

    def bias(self, to: int) -> Float[Tensor, " d_out"]:
        """What is written at member `to` whatever fires: its own b_dec, else zeros."""
        self._check_written(to)
        self._refuse_scaled()
        return self._reader().b_dec

    def skip(self, x: Float[Tensor, "n_pos d_in"]) -> Float[Tensor, "n_pos d_out"] | None:
        """What the skip connection writes at its own site; None without one."""
        if not self.cfg.skip:
            return None
        sae = self._reader()
        x = prepare_input(self.model, sae, x)
        return sae.skip_path(x, x.new_zeros(len(x), self.cfg.d_out))

    def _reader(self) -> SAE:
        return self.sae

    def _read(self) -> SAE:
        where, dtype = self.storage.device, str(self.storage.dtype).removeprefix("torch.")
        sae = read_located(self.storage.located, where, dtype)
        return sae.with_metadata(self.cfg.metadata)

    def _refuse_scaled(self) -> None:
        if self.cfg.normalize_activations in PER_POSITION:
            raise ConfigError(
                f"Layer {self.layer}'s SAE scales each position by its own "
                f"{'deviation' if 'layer' in self.cfg.normalize_activations else 'norm'} "
                f"({self.cfg.normalize_activations}): no single row says what a feature reads or "
                "writes.",
                code="GRAPH_UNSUPPORTED_SAE",
                field="normalize_activations",
                got=self.cfg.normalize_activations,
                allowed="an SAE without a scale that depends on the position",
                hint="Choose SAEs of another kind: ss.find_saes() lists them.",
            )

    def _check(self, features: Int[Tensor, " n"]) -> None:
        d_sae = self.cfg.d_sae
        wrong = features[(features < 0) | (features >= d_sae)]
        if len(wrong):
            raise ArgumentError(
                f"Layer {self.layer} has no feature {int(wrong[0])}.",
                code="FEATURE_OUT_OF_RANGE",
                field="features",
                got=int(wrong[0]),
                allowed=f"0..{d_sae - 1}",
                hint=f"Give features from 0 to {d_sae - 1}.",
            )

    def _check_written(self, to: int) -> None:
        if to not in self.write_hooks:
            raise ArgumentError(
                f"Member {self.index} (layer {self.layer}) does not write at member {to}.",
                code="NOT_WRITTEN",
                field="to",
                got=to,
                allowed=[*self.write_hooks],
                hint=f"Give one of its write_hooks: {[*self.write_hooks]}.",
            )


class _Encoder(NamedTuple):
    """What a layer of a cross-layer transcoder keeps in memory."""

    sae: SAE
    """It only encodes: a column of zeros stands in the place of the decoders."""
    b_dec: Float[Tensor, " d_out"]
    W_skip: Float[Tensor, "d_out d_in"] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class CrossLayerMember(Member):
    """One layer of a cross-layer transcoder: its encoder is in memory, its decoders stay on disk,
    and of these the rows of the features that are asked for are read."""

    layers_after: Mapping[int, int]
    """Index of each member that it writes -> how many layers after its own."""

    @property
    def weights_bytes(self) -> int:
        """The bytes that its encoder takes in memory."""
        shapes = ARCHITECTURES[self.cfg.architecture][1].shapes(self.cfg)
        n_numbers = sum(math.prod(shape) for name, shape in shapes.items() if name != "W_dec")
        return self.storage.dtype.itemsize * n_numbers

    @property
    def sae(self) -> SAE:
        """The layer as `ss.load_sae` of its own file gives it: an edit of its features writes at
        every later layer, while `W_dec`, the sum of its decoders, is no reconstruction. Reading it
        reads all of them, so take it of the layers that you edit."""
        beside = -1 - self.index  # its encoder, which a graph takes, is kept apart
        return self.storage.resident.get(beside, super().weights_bytes, self._read)

    def write_rows(self, features: Int[Tensor, " n"], to: int) -> Float[Tensor, "n d_out"]:
        self._check(features)
        self._check_written(to)
        at, later = self.storage, self.layers_after[to]
        return DecoderFiles(at.located, at.recipe, at.device, at.dtype).rows(features, later)

    def bias(self, to: int) -> Float[Tensor, " d_out"]:
        self._check_written(to)
        b_dec = self._encoder().b_dec
        return b_dec if to == self.index else torch.zeros_like(b_dec)

    def skip(self, x: Float[Tensor, "n_pos d_in"]) -> Float[Tensor, "n_pos d_out"] | None:
        encoder = self._encoder()
        if encoder.W_skip is None:
            return None
        return prepare_input(self.model, encoder.sae, x) @ encoder.W_skip.T

    def _reader(self) -> SAE:
        return self._encoder().sae

    def _encoder(self) -> _Encoder:
        return self.storage.resident.get(self.index, self.weights_bytes, self._read_encoder)

    def _read_encoder(self) -> _Encoder:
        at, cfg = self.storage, self.cfg
        with advised(at.located):
            tensors = at.recipe.read_encoder(at.located.source, at.dtype)
        b_dec, W_skip = tensors["b_dec"].to(at.device), tensors.pop("W_skip", None)
        tensors |= {
            "W_dec": tensors["b_dec"].new_zeros(cfg.d_sae, 1),
            "b_dec": b_dec.new_zeros(1, device="cpu"),
        }
        blind = replace(cfg, d_out=1, skip=False)
        sae = ARCHITECTURES[cfg.architecture][1](blind, tensors).to(at.device)
        return _Encoder(sae, b_dec, None if W_skip is None else W_skip.to(at.device))
