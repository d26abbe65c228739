"""The set itself: its members together, what they take, and what they make of a text's
activations."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.layers import written
from saescope.models import LanguageModel
from saescope.ops import CHUNK, SparseActs, sparse_decode
from saescope.origin import settle_metadata
from saescope.saes import SAE
from saescope.sets.cache import Resident
from saescope.sets.identity import files_hash
from saescope.sets.member import CrossLayerMember, Member
from saescope.splice import prepare_input

Kind = Literal["transcoders", "cross_layer", "residual"]
MOST_HASHED_BYTES = 1 << 30
"""Weights that are hashed one and all; of larger ones samples are."""


class SetMemory(NamedTuple):
    """The bytes of a set's weights."""

    on_disk: int
    whole: int
    """With every member in memory; decoders of a cross-layer transcoder always stay on disk."""
    least: int
    """With one member in memory at a time: the largest."""
    resident: int
    """In memory now."""
    budget: int | None
    """The most that is kept in memory; None: no limit."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SAESet:
    """The SAEs of several layers of one model, one a layer."""

    kind: Kind
    """Transcoders, a cross-layer transcoder, or "residual": SAEs that reconstruct what they
    read."""
    members: tuple[Member, ...]
    """One a layer, in the order in which a forward pass reaches them."""
    name: str
    """Where it was loaded from."""
    dialect: str
    revision: str
    """The commit of its repository; empty for a set that is not from the hub."""
    notes: tuple[str, ...]
    """What must be known before its numbers are believed."""
    resident: Resident

    @property
    def layers(self) -> str:
        """Its layers as `ss.load_set` takes them: "0-11"."""
        return written([member.layer for member in self.members])

    @property
    def saes(self) -> list[SAE]:
        """The SAE of each layer, all in memory: what `ss.intervene` and `ss.steer` take, which then
        change features of several layers in one call."""
        return [member.sae for member in self.members]

    @property
    def model_name(self) -> str:
        """The model that it was trained on, as its files say."""
        return self.members[0].cfg.metadata.model_name

    @property
    def weights_bytes(self) -> int:
        """The bytes that its weights take now."""
        return self.resident.n_bytes

    @property
    def memory(self) -> SetMemory:
        """What it takes, on disk and in memory."""
        sizes = [member.weights_bytes for member in self.members]
        return SetMemory(
            on_disk=sum(member.disk_bytes for member in self.members),
            whole=sum(sizes),
            least=max(sizes),
            resident=self.resident.n_bytes,
            budget=self.resident.budget,
        )

    @cached_property
    def weights_hash(self) -> str:
        """One sha256 of the hashes of all members' weights; where these are too large to read them
        for that, and of a cross-layer transcoder, whose decoders stay on disk, of samples of their
        files."""
        if self.kind == "cross_layer" or self.memory.whole > MOST_HASHED_BYTES:
            return files_hash(self.members)
        hashes = "".join(member.sae.weights_hash for member in self.members)
        return hashlib.sha256(hashes.encode()).hexdigest()

    def of_layer(self, layer: int) -> Member:
        """The member of a layer.

        Raises:
            ArgumentError: LAYER_NOT_FOUND.
        """
        found = next((member for member in self.members if member.layer == layer), None)
        if found is None:
            raise ArgumentError(
                f"The set has no layer {layer}.",
                code="LAYER_NOT_FOUND",
                field="layer",
                got=layer,
                allowed=self.layers,
                hint=f"Give one of the layers {self.layers}.",
            )
        return found

    def encode(self, xs: Mapping[int, Tensor]) -> list[SparseActs]:
        """The active features of every member, in its order, of `xs`: index of the member -> the
        raw activation at its read hook, [n_pos, d_in]."""
        return [member.encode(xs[member.index]) for member in self.members]

    def decode(
        self, acts: Sequence[SparseActs], xs: Mapping[int, Tensor]
    ) -> list[Float[Tensor, "n_pos d_out"]]:
        """The reconstruction at every member's site, in its order, of all members' activations and
        the inputs `xs` that they came from; skip connections included."""
        return [self.reconstruction(member.index, acts, xs) for member in self.members]

    def reconstruction(
        self,
        to: int,
        acts: Mapping[int, SparseActs] | Sequence[SparseActs],
        xs: Mapping[int, Tensor],
    ) -> Float[Tensor, "n_pos d_out"]:
        """What is written at member `to`'s site: of its own activations and input, in a cross-layer
        transcoder of those of all members up to it."""
        member = self.members[to]
        if not isinstance(member, CrossLayerMember):
            given = prepare_input(member.model, member.sae, xs[to])
            return member.sae.skip_path(given, member.sae.decode(acts[to], like=given))
        out, skipped = member.bias(to).expand(acts[to].n_pos, -1), member.skip(xs[to])
        out = out if skipped is None else out + skipped
        for source in self.members[: to + 1]:
            out = out + _written(source, acts[source.index], to)
        return out

    def holds(self, sae: SAE) -> bool:
        """Whether this SAE is one of its members', in memory now."""
        return self.resident.holds(sae)

    def drop(self) -> int:
        """Let go of all weights in memory, which are read again when needed; the bytes that they
        took."""
        return self.resident.drop()

    def settled(self, model: LanguageModel) -> "SAESet":
        """The set as it works in this model: on its device, at the hooks whose tensors its modules
        read and gave (as `ss.settle` does for one SAE), and reading raw activations, also where its
        SAEs were trained on a processed model.

        Raises:
            HookError: no hook of this model has that tensor.
        """
        metadata = [settle_metadata(model, each.cfg.metadata) for each in self.members]
        writes = [meta.hook_name_out or meta.hook_name for meta in metadata]
        resident = Resident(self.resident.budget)
        members = tuple(
            replace(
                each,
                cfg=replace(each.cfg, metadata=meta),
                write_hooks={to: writes[to] for to in each.write_hooks},
                storage=each.storage._replace(device=model.device, resident=resident),
                model=model,
            )
            for each, meta in zip(self.members, metadata, strict=True)
        )
        return replace(self, members=members, resident=resident)


def _written(member: Member, acts: SparseActs, to: int) -> Tensor:
    """What a layer of a cross-layer transcoder writes at member `to`; rows of CHUNK features exist
    at a time."""
    assert isinstance(member, CrossLayerMember), "others write at one site, with their own decoder"
    features = acts.features.unique()
    out: Tensor | None = None
    for some in features.split(CHUNK):
        rows = member.write_rows(some, to)
        here = acts.select(torch.isin(acts.features, some))
        local = replace(here, features=torch.searchsorted(some, here.features), d_sae=len(some))
        part = sparse_decode(local, rows)
        out = part if out is None else out + part
    return acts.values.new_zeros(acts.n_pos, member.cfg.d_out) if out is None else out
