"""What a graph needs of each SAE: how its features read, and what they write."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from saescope.errors import ConfigError
from saescope.models import LanguageModel
from saescope.names import split_hook
from saescope.ops import SparseActs
from saescope.saes import SAE, SAEConfig
from saescope.saes.base import PER_POSITION
from saescope.splice import encode_site, is_centred, prepare_input, read_hook, write_hook
from saescope.spread import later_hooks, own_rows, require_decoders
from saescope.stack import as_stack


@runtime_checkable
class GraphMember(Protocol):
    """One layer's SAE or transcoder; features are read at one hook and written at one or more."""

    @property
    def layer(self) -> int: ...
    @property
    def cfg(self) -> SAEConfig: ...
    @property
    def read_hook(self) -> str: ...
    @property
    def write_hooks(self) -> Mapping[int, str]:
        """Index of each member at whose site it writes -> the hook there."""
        ...

    def encode(self, x: Float[Tensor, "n_pos d_in"]) -> SparseActs: ...
    def hidden_pre(
        self, x: Float[Tensor, "n_pos d_in"], features: Int[Tensor, " n"]
    ) -> Float[Tensor, "n_pos n"]: ...
    def read_rows(self, features: Int[Tensor, " n"]) -> Float[Tensor, "n d_in"]: ...
    def write_rows(self, features: Int[Tensor, " n"], to: int) -> Float[Tensor, "n d_out"]: ...
    def bias(self, to: int) -> Float[Tensor, " d_out"]: ...
    def skip(self, x: Float[Tensor, "n_pos d_in"]) -> Float[Tensor, "n_pos d_out"] | None: ...


@runtime_checkable
class GraphMembers(Protocol):
    """The SAEs of a graph in reading order; `saescope.sets.SAESet` is one."""

    @property
    def kind(self) -> str: ...
    @property
    def members(self) -> Sequence[GraphMember]: ...
    def encode(self, xs: Mapping[int, Tensor]) -> list[SparseActs]: ...


@dataclass(frozen=True, eq=False)
class HeldMember:
    """An SAE in memory as a member of a graph."""

    index: int
    layer: int
    sae: SAE
    model: LanguageModel
    later: Mapping[int, str] = field(default_factory=dict[int, str])
    """Members of later layers that it writes too, and where: a cross-layer transcoder's."""

    @property
    def cfg(self) -> SAEConfig:
        return self.sae.cfg

    @property
    def read_hook(self) -> str:
        return read_hook(self.sae)

    @property
    def write_hooks(self) -> Mapping[int, str]:
        return {self.index: write_hook(self.sae), **self.later}

    def encode(self, x: Float[Tensor, "n_pos d_in"]) -> SparseActs:
        return encode_site(self.model, self.sae, x[None])[1]

    def hidden_pre(
        self, x: Float[Tensor, "n_pos d_in"], features: Int[Tensor, " n"]
    ) -> Float[Tensor, "n_pos n"]:
        return self.sae.hidden_pre_of(prepare_input(self.model, self.sae, x), features)

    def read_rows(self, features: Int[Tensor, " n"]) -> Float[Tensor, "n d_in"]:
        rows = self.sae.read_by(features).rows
        return rows - rows.mean(-1, keepdim=True) if is_centred(self.model, self.sae) else rows

    def write_rows(self, features: Int[Tensor, " n"], to: int) -> Float[Tensor, "n d_out"]:
        if to == self.index or self.sae.decoders is None:
            return own_rows(self.sae, features)
        further = 1 + later_hooks(self.sae).index(self.later[to])
        return self.sae.decoders.rows(features, further)

    def bias(self, to: int) -> Float[Tensor, " d_out"]:
        return self.sae.b_dec

    def skip(self, x: Float[Tensor, "n_pos d_in"]) -> Float[Tensor, "n_pos d_out"] | None:
        if not self.cfg.skip:
            return None
        x = prepare_input(self.model, self.sae, x)
        return self.sae.skip_path(x, x.new_zeros(len(x), self.cfg.d_out))


@dataclass(frozen=True, eq=False)
class HeldSet:
    """SAEs in memory, in reading order: transcoders or SAEs that read where they write."""

    members: tuple[HeldMember, ...]
    kind: str

    def encode(self, xs: Mapping[int, Tensor]) -> list[SparseActs]:
        return [member.encode(xs[member.index]) for member in self.members]


def held(model: LanguageModel, saes: SAE | Sequence[SAE]) -> HeldSet:
    """SAEs in memory as a set, in the order in which a forward pass reaches them.

    Raises:
        ConfigError: GRAPH_UNSUPPORTED_SAE: transcoders and others together, or one that scales
            each position by its own norm. CROSS_LAYER_FEATURE: a layer of a cross-layer
            transcoder without its decoders.
        MismatchError: two write one site, or one does not fit the model.
    """
    saes = as_stack(model, saes).saes
    kinds = {sae.cfg.transcoder for sae in saes}
    scaled = [sae for sae in saes if sae.cfg.normalize_activations in PER_POSITION]
    if len(kinds) > 1 or scaled:
        got = scaled[0].cfg.normalize_activations if scaled else "both kinds"
        raise ConfigError(
            "A graph needs SAEs that all replace MLPs or all read where they write, and that do "
            f"not scale a position by its own norm (got {got}).",
            code="GRAPH_UNSUPPORTED_SAE",
            field="saes",
            got=got,
            hint="Name SAEs of one kind; ss.find_saes() lists them.",
        )
    for sae in saes:
        require_decoders(sae)
    at, members = {write_hook(sae): i for i, sae in enumerate(saes)}, list[HeldMember]()
    for i, sae in enumerate(saes):
        later = {at[name]: name for name in later_hooks(sae) if name in at}
        members.append(HeldMember(i, split_hook(read_hook(sae))[0] or 0, sae, model, later))
    if any(sae.decoders for sae in saes):
        return HeldSet(tuple(members), "cross_layer")
    return HeldSet(tuple(members), "transcoders" if kinds == {True} else "residual")
