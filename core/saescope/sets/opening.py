"""The front door for sets: names and headers are read and compared, no weight."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from saescope.devices import pick_device, pick_dtype
from saescope.errors import ArgumentError, ConfigError, FormatError
from saescope.formats.agreement import agree, layer_in
from saescope.formats.hf_sites import layer_of
from saescope.formats.recipe import Recipe
from saescope.hub import Fetch
from saescope.layers import parse_layers
from saescope.load import LocatedSAE, SAEInfo, advised, info_of
from saescope.names import split_hook
from saescope.progress import Say, silent
from saescope.saes import SAEMetadata
from saescope.sets.cache import Resident
from saescope.sets.finding import Asked, Setting, UnreadMember, find_locally, find_on_hub
from saescope.sets.member import CrossLayerMember, Member, MemberSource, Storage
from saescope.sets.sae_set import Kind, SAESet


class _Peeked(NamedTuple):
    """A member whose headers have been read."""

    layer: int
    place: MemberSource
    located: LocatedSAE
    info: SAEInfo
    recipe: Recipe

    @property
    def last_written(self) -> int:
        """The last layer that a layer of a cross-layer transcoder writes."""
        return self.layer + self.recipe.n_written - 1

    @property
    def metadata(self) -> SAEMetadata:
        return self.info.cfg.metadata


def load_set(
    path: str | Path | None = None,
    *,
    release: str = "",
    sae_id: str = "",
    layers: str = "all",
    device: str = "auto",
    dtype: str = "auto",
    revision: str = "",
    offline: bool = False,
    progress: Say | None = None,
    known: Mapping[str, Any] | None = None,
    resident_bytes: int | None = None,
) -> SAESet:
    """SAEs of several layers as one set: a circuit-tracer transcoder set or cross-layer transcoder,
    Gemma Scope's transcoders, sparsify's folders, or any folder, release or repository with an SAE
    a layer. Only configurations and headers are read now; weights come when they are first needed,
    and stay while they fit into `resident_bytes` (None: all of them).

    `layers` is "all", "0-11" or "3,7". Where a place holds several SAEs a layer, {layer} in `path`
    or `sae_id` says which: "layer_{layer}/width_16k/average_l0_71". It stands for the layer in what
    is `known`, too: {"hook_name": "blocks.{layer}.mlp.hook_in"}. The rest is as in `ss.load_sae`.

    Raises:
        ArgumentError, NotFoundError, OfflineError: no such layers, or they are not there.
        ConfigError, FormatError: as `ss.load_sae`; or the files of a layer say another one, a layer
            has several SAEs, or the layers do not belong together.
    """
    _check_place(path, release, sae_id)
    fetch = Fetch(revision, offline, progress)
    asked = Asked(layers=parse_layers(layers), known=dict(known or {}), fetch=fetch)
    if path is None:
        found, setting = find_on_hub(release, sae_id, asked)
    else:
        found, setting = find_locally(Path(path).expanduser(), asked)
    peeked = _all_peeked(found, progress or silent)
    kind, where, resident = _kind(peeked), pick_device(device), Resident(resident_bytes)
    return SAESet(
        kind=kind,
        members=_members(kind, peeked, where, dtype, resident),
        name=str(path) if path else f"{release}/{sae_id}".rstrip("/"),
        dialect=peeked[0].info.dialect,
        revision=peeked[0].info.revision,
        notes=_notes(kind, peeked, setting),
        resident=resident,
    )


def _all_peeked(found: Mapping[int, UnreadMember], say: Say) -> list[_Peeked]:
    peeked: list[_Peeked] = []
    for layer, each in found.items():
        say(f"reading the header of layer {layer} ({len(peeked) + 1} of {len(found)})")
        peeked.append(_peek(layer, each))
    return peeked


def _check_place(path: str | Path | None, release: str, sae_id: str) -> None:
    if (path is None) == (not release) or (path is not None and sae_id):
        raise ArgumentError(
            "A set is one folder or one release.",
            code="INVALID_ARGUMENT",
            field="release" if path is None else "path",
            got=f"path={str(path or '')!r}, release={release!r}, sae_id={sae_id!r}",
            allowed="path, or release with or without sae_id",
            hint='Call ss.load_set("folder") or ss.load_set(release="owner/name").',
        )


def _peek(layer: int, found: UnreadMember) -> _Peeked:
    located = found.locate()
    with advised(located):
        recipe = located.dialect.checked(located.source, preview=True)
        info = info_of(located, recipe)
        _check_layer(layer, info.cfg.metadata, info.source)
    return _Peeked(layer, found.place, located, info, recipe)


def _check_layer(layer: int, meta: SAEMetadata, source: str) -> None:
    """The files must say the layer that their name says."""
    if not (meta.hook_name or meta.module):
        raise ConfigError(
            f"{source} does not say which site it belongs to.",
            code="HOOK_UNKNOWN",
            field="hook_name",
            hint='Say it for all layers: known={"hook_name": "blocks.{layer}.hook_resid_post"}.',
        )
    inside = layer_in(meta.hook_name)
    inside = inside if inside is not None else layer_of(meta.module)
    agree((f"the layer in the name of {source}", layer), ("the layer in its files", inside))


def _kind(peeked: Sequence[_Peeked]) -> Kind:
    """What the members are, which must be one thing at one site.

    Raises:
        FormatError: MIXED_SET.
    """
    first = peeked[0]
    for each in peeked[1:]:
        for what, one, other in (
            ("a transcoder", first.info.cfg.transcoder, each.info.cfg.transcoder),
            ("cross-layer", first.recipe.n_written > 0, each.recipe.n_written > 0),
            ("the site", _site(first), _site(each)),
            ("the model", first.metadata.model_name, each.metadata.model_name),
        ):
            if one != other:
                raise FormatError(
                    f"Layers {first.layer} and {each.layer} do not belong to one set: {what} is "
                    f"{one!r} for one and {other!r} for the other.",
                    code="MIXED_SET",
                    field="layers",
                    got=f"{one!r}, {other!r}",
                    allowed="layers that agree",
                    hint="Say which SAEs belong together with {layer} in their path or id, or "
                    "leave layers out.",
                )
    if first.recipe.n_written:
        return "cross_layer"
    return "transcoders" if first.info.cfg.transcoder else "residual"


def _site(each: _Peeked) -> str:
    return split_hook(each.metadata.hook_name)[1]


def _members(
    kind: Kind,
    peeked: Sequence[_Peeked],
    where: torch.device,
    dtype: str,
    resident: Resident,
) -> tuple[Member, ...]:
    if kind == "cross_layer":
        _check_decoders(peeked)
    writes = [each.metadata.hook_name_out or each.metadata.hook_name for each in peeked]
    members: list[Member] = []
    for i, each in enumerate(peeked):
        stored = getattr(torch, each.info.cfg.dtype)
        shared: dict[str, Any] = {
            "index": i,
            "layer": each.layer,
            "cfg": each.info.cfg,
            "place": each.place,
            "storage": Storage(
                each.located, each.recipe, where, pick_dtype(dtype, where, stored), resident
            ),
        }
        if kind != "cross_layer":
            members.append(Member(write_hooks={i: writes[i]}, **shared))
            continue
        later = {j: peeked[j].layer - each.layer for j in range(i, len(peeked))}
        hooks = {j: writes[j] for j in later}
        members.append(CrossLayerMember(write_hooks=hooks, layers_after=later, **shared))
    return tuple(members)


def _check_decoders(peeked: Sequence[_Peeked]) -> None:
    """Every layer writes to itself and to all later ones, so all name the same last one."""
    first = peeked[0]
    for each in peeked:
        agree(
            (f"the last layer that layer {first.layer} writes", first.last_written),
            (f"the last layer that layer {each.layer} writes", each.last_written),
            code="SHAPE_MISMATCH",
        )


def _notes(kind: Kind, peeked: Sequence[_Peeked], setting: Setting) -> tuple[str, ...]:
    notes: list[str] = []
    own = peeked[0].metadata
    for said, hook in zip(setting, (own.hook_name, own.hook_name_out), strict=True):
        if said and not hook.endswith(f".{said}"):
            notes.append(
                f"The set's config.yaml names the hook {said}, the files of its members "
                f"{hook}: the members' is used."
            )
    last = peeked[0].last_written
    if kind == "cross_layer" and len(peeked) <= last:
        notes.append(
            f"Of this cross-layer transcoder's layers 0-{last} only some are here: what the others "
            "write is missing in its reconstructions, and what these write at the others' layers "
            "in its graphs (ss.intervene writes there too)."
        )
    elif kind != "cross_layer":
        notes.extend(dict.fromkeys(each.metadata.note for each in peeked if each.metadata.note))
    return tuple(notes)
