"""The steps of a load, in order; each may be cancelled, and a failure leaves nothing behind."""

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from saescope.errors import ArgumentError, Cancelled, ResourceError
from saescope.layers import number_in
from saescope.names import Source
from saescope.notices import collected, tell
from saescope.progress import Say
from saescope_mcp.jobs import Job
from saescope_mcp.schemas.load import LoadSae, LoadSaeReply
from saescope_mcp.settings import Settings
from saescope_mcp.state.app_state import AppState, loaded_in_part
from saescope_mcp.state.entries import LoadedSAE, LoadedSet
from saescope_mcp.state.slots import ModelSlot
from saescope_mcp.state.sources import Placement, load_call, model_name, readable
from saescope_mcp.state.warm import warm

if TYPE_CHECKING:
    from saescope.catalogue import Entry, ModelSize
    from saescope.load import SAEInfo
    from saescope.models import LanguageModel
    from saescope.saes import SAE
    from saescope.sets import Member


LoadIt = Callable[[AppState, Source, Placement, Say], Awaitable[LoadedSAE | LoadedSet]]
"""How an SAE, or a set, is loaded."""


class Need(NamedTuple):
    """The bytes that a load takes."""

    sae_bytes: int
    model_bytes: int | None
    """0 if the model is loaded; None if its size is not known before the download."""
    device: str


class UnseenSAE(NamedTuple):
    """What is known of a published SAE without its files, and what a load of it takes."""

    entry: "Entry"
    model: "ModelSize"
    need: Need


async def load(state: AppState, source: Source, placement: Placement, say: Say) -> LoadedSAE:
    """The SAE and its model in memory; what is there already is not loaded again."""
    async with state.loading:
        if there := state.loaded_from(source, placement):
            return there
        say("reading the configuration of the SAE")
        await state.loaders.run(warm)
        info = await state.loaders.run(partial(peek, source, state.settings))
        if source.path and source.path != info.source:  # it names a file of the SAE's folder
            source = replace(source, path=info.source)
            if there := state.loaded_from(source, placement):
                return there
        wanted, warnings = model_of(source, info.cfg.metadata.model_name, state)
        slot, up_to = state.slot_of(wanted, placement), hooks_of(info, placement)
        _check_reach(slot, up_to)
        need = await state.loaders.run(partial(needed, state, info, wanted, placement, slot))
        then = load_call(source, placement)
        state.make_sure_of_counts(then, new_model=slot is None)
        if state.in_a_set(source):
            need = need._replace(sae_bytes=0)
        state.make_sure_of_room(need.sae_bytes + (need.model_bytes or 0), then, need.device)
        with ExitStack() as undo:
            if slot is None:
                slot = await load_model_slot(state, wanted, placement, say, up_to=up_to)
                undo.callback(state.drop_unused, slot)
                state.make_sure_of_room(
                    need.sae_bytes, then, str(slot.model.device)
                )  # a model from the hub tells its size only now
            entry = await _load_sae(state, slot, source, placement, info, say)
            undo.pop_all()
    entry.warnings.extend(warnings)
    state.saes[entry.handle] = entry
    await state.workers.run(partial(state.known.remember, entry.handle, source, placement))
    return entry


async def load_known(state: AppState, handle: str) -> None:
    """Load the SAE of a handle that is not in memory, if it is known; any other is left to the call
    that names it.

    Raises:
        ResourceError: LOADING: it takes longer than calls wait, and goes on as a job.
    """
    source, placement = state.known.all().get(handle, (None, None))
    if source is None or placement is None or source.layers:
        return
    if source.path:
        readable(source.path, state.settings, "sae")
    model_name(source.model, state.settings)

    await for_this_call(state, handle, (source, placement), load)


async def for_this_call(
    state: AppState, handle: str, known: tuple[Source, Placement], how: LoadIt
) -> None:
    """Load what a call names as a job, for which the call waits a while.

    Raises:
        ResourceError: LOADING: it takes longer than calls wait, and goes on as a job.
    """
    source, placement = known

    async def work(job: Job) -> LoadSaeReply:
        entry = await how(state, source, placement, job.say)
        ready = f"{entry.handle} is ready."
        return LoadSaeReply(summary=ready, state="done", sae=entry.handle, model=entry.model.name)

    job = state.jobs.start("load_sae", source, LoadSae(), work)
    await state.jobs.wait(job, state.settings.lock_wait_s)
    if not job.task.done():
        raise ResourceError(
            f"{handle} was not in memory; it is being loaded for this call ({job.message}).",
            code="LOADING",
            hint=f'Call job_status(job_id="{job.id}", wait_s=30), then the same call again.',
        )
    if job.task.cancelled():
        raise Cancelled(f"The load {job.id} was cancelled.", hint=load_call(source, placement))
    job.task.result()
    tell(f"{handle} was not in memory: it was loaded for this call.")


def peek(source: Source, settings: Settings) -> "SAEInfo":
    """Read what is known before a weight is fetched."""
    from saescope.formats.pickles import pickles_allowed
    from saescope.load import peek_sae

    with pickles_allowed(settings.allow_pickle):
        info = peek_sae(
            source.path or None,
            release=source.release,
            sae_id=source.sae_id,
            revision=source.revision,
            offline=settings.offline,
            known=source.known,
        )
    if source.gate and info.cfg.metadata.gate != source.gate:
        raise ArgumentError(
            f"This SAE (format {info.dialect}) has no choice of gates.",
            code="GATE_UNKNOWN",
            field="gate",
            got=source.gate,
            hint="Call load_sae again without gate.",
        )
    meta = info.cfg.metadata
    if not (meta.hook_name or meta.module):
        raise ArgumentError(
            "This SAE does not say which site it belongs to.",
            code="HOOK_UNKNOWN",
            field="hook_name",
            hint='Call load_sae again with hook_name, e.g. hook_name="blocks.8.hook_resid_pre".',
        )
    return info


def model_of(source: Source, says: str, state: AppState) -> tuple[str, list[str]]:
    """The model that was asked for, else the one that the SAE names (`says`); and what to say about
    that choice."""
    from saescope.embedded import EMBEDDED_HANDLE, EMBEDDED_MODEL

    named = source.model or says
    if not named:
        raise ArgumentError(
            "This SAE does not say which model it belongs to.",
            code="MODEL_UNKNOWN",
            field="model",
            hint="Call load_sae again with model: a hub name, a local folder or a .gguf file.",
        )
    if source.model or named != EMBEDDED_MODEL:
        return model_name(named, state.settings), []
    if not (source.release or source.path):
        return EMBEDDED_HANDLE, []
    return EMBEDDED_HANDLE, [
        f"The embedded 4-bit copy of {named} is used; for the weights on the hub load "
        f'with model="{named}".'
    ]


def needed(
    state: AppState, info: "SAEInfo", model: str, placement: Placement, slot: ModelSlot | None
) -> Need:
    """What a load would take, from headers; this may ask the hub."""
    up_to = hooks_of(info, placement)
    need, dtype = model_needed(state, model, placement, slot, up_to=up_to)
    stored = info.cfg.dtype if dtype == "auto" else dtype
    n_bytes = info.weights_bytes // (2 if stored in ("float16", "bfloat16") else 1)
    return need._replace(sae_bytes=n_bytes)


def hooks_of(info: "SAEInfo", placement: Placement) -> list[str]:
    """The sites up to which the model is loaded; none where all of it is."""
    meta = info.cfg.metadata
    if not placement.up_to_site:
        return []
    if meta.hook_name:
        return [meta.hook_name, *([meta.hook_name_out] if info.cfg.transcoder else [])]
    layer = number_in(meta.module)
    return [] if layer is None else [f"blocks.{layer}.hook_resid_post"]


def _check_reach(slot: ModelSlot | None, up_to: list[str]) -> None:
    """Raises ResourceError where the model is loaded, and not so far."""
    from saescope.models import layers_below

    if slot and not slot.model.whole:
        n_layers = layers_below(up_to)
        if n_layers is None or n_layers > slot.model.n_loaded:
            raise loaded_in_part(slot, f"{slot.handle!r} is", n_layers)


def model_needed(
    state: AppState,
    model: str,
    placement: Placement,
    slot: ModelSlot | None,
    *,
    up_to: Sequence[str] = (),
) -> tuple[Need, str]:
    """What a load would take without its SAE, and the dtype."""
    device = str(slot.model.device) if slot else _device(placement.device)
    dtype = "float32" if placement.dtype == "auto" and device == "cpu" else placement.dtype
    return Need(0, 0 if slot else _model_bytes(model, dtype, state.settings, up_to), device), dtype


def by_catalogue(source: Source, placement: Placement) -> UnseenSAE | None:
    """A published SAE whose files cannot be had; None where the catalogue does not know it, or not
    how large it is."""
    from saescope.catalogue import BYTES, model_size, releases

    entry = releases().get(source.release, {}).get(source.sae_id)
    size = model_size(source.model or entry.model) if entry else None
    if entry is None or entry.d_sae is None or size is None or size.d_model is None:
        return None
    device = _device(placement.device)
    dtype = "float32" if placement.dtype == "auto" and device == "cpu" else placement.dtype
    n_weights = 2 * size.d_model * entry.d_sae + 2 * entry.d_sae + size.d_model
    bytes_each = BYTES.get(dtype, BYTES["float32"])
    return UnseenSAE(entry, size, Need(n_weights * bytes_each, size.n_bytes(dtype), device))


def _model_bytes(model: str, dtype: str, settings: Settings, up_to: Sequence[str]) -> int | None:
    """The bytes of a model, from the headers of its files, else by what is known of its name."""
    from saescope.catalogue import model_size
    from saescope.models import peek_model_bytes

    if n_bytes := peek_model_bytes(model, dtype=dtype, offline=settings.offline, up_to=up_to):
        return n_bytes
    size = None if os.path.exists(model) else model_size(model)
    return size.n_bytes(dtype) if size and size.counted else None


def _device(name: str) -> str:
    from saescope.models import pick_device

    return str(pick_device(name))


async def load_model_slot(
    state: AppState, name: str, placement: Placement, say: Say, *, up_to: Sequence[str] = ()
) -> ModelSlot:
    """The model in memory, under its handle."""
    say(f"loading the model {name}")
    read = partial(read_model, name, placement, state.settings, say, up_to=up_to)
    model = await state.loaders.run(read)
    if same := next((slot for slot in state.models.values() if _is_same(slot.model, model)), None):
        same.names.add(name)
        return same
    handle = (
        model.handle
        if model.handle not in state.models
        else f"{model.handle}-{Source(model=name).digest}"
    )
    slot = ModelSlot(handle, model, {name}, state.settings, state.workers)
    await state.loaders.run(lambda: slot.weights_hash)
    state.models[handle] = slot
    return slot


def _is_same(one: "LanguageModel", other: "LanguageModel") -> bool:
    """One commit on the hub, asked for by two of its names."""
    same = (one.name, one.revision, one.n_loaded) == (other.name, other.revision, other.n_loaded)
    return same and "local" not in one.revision


def read_model(
    name: str, placement: Placement, settings: Settings, say: Say, *, up_to: Sequence[str] = ()
) -> "LanguageModel":
    """The model alone, up to these hooks if any are given, with the settings that its numbers
    depend on; for this process and for workers."""
    from saescope.models import load_model

    model = load_model(
        name,
        device=placement.device,
        dtype=placement.dtype,
        offline=settings.offline,
        up_to=up_to,
        progress=say,
    )
    model.sink_factor = settings.sink_factor
    return model


async def _load_sae(
    state: AppState,
    slot: ModelSlot,
    source: Source,
    placement: Placement,
    info: "SAEInfo",
    say: Say,
) -> LoadedSAE:
    from saescope.evals import check_sae
    from saescope.origin import settle
    from saescope.sinks import many_sinks
    from saescope.splice import check_fits

    say("loading the SAE")
    read = partial(read_sae, source, str(slot.model.device), placement.dtype, state.settings, say)
    if member := state.in_a_set(source):
        read = partial(_shared, member)
    with collected() as told:
        sae = await state.loaders.run(read)
    say("checking the SAE on a probe text")
    async with slot.turn(patient=True):
        sae = await slot.run(settle, slot.model, sae)
        mismatch = placement.allow_mismatch
        warnings = await slot.run(
            check_fits, slot.model, sae, allow_mismatch=mismatch, measured=True
        )
        check = await slot.run(
            check_sae, slot.model, sae, published_l0=sae.cfg.metadata.published_l0
        )
        weights_hash = await slot.run(lambda: sae.weights_hash)
    meta = sae.cfg.metadata
    return LoadedSAE(
        handle=state.known.name(slot.handle, source, meta.hook_name),
        sae=sae,
        slot=slot,
        source=source,
        placement=placement,
        check=check,
        warnings=[
            *told,
            *warnings,
            *slot.model.warnings,
            *_in_part(slot.model),
            *([meta.note] if meta.note else []),
            *many_sinks(check.n_sinks, check.n_tokens),
        ],
        weights_hash=weights_hash,
        dialect=info.dialect,
        revision=info.revision,
    )


def _in_part(model: "LanguageModel") -> list[str]:
    if model.whole:
        return []
    return [
        f"Of {model.name} only the layers 0 to {model.n_loaded - 1} of {model.n_layers} are loaded "
        "(up_to_site): enough to encode and to index. Losses, attribution and edits need all of it."
    ]


def _shared(member: "Member") -> "SAE":
    """The weights of a set's member, which both use."""
    return member.sae


def read_sae(source: Source, device: str, dtype: str, settings: Settings, say: Say) -> "SAE":
    """The SAE alone; a function of its source, for this process and for workers."""
    from saescope.formats.pickles import pickles_allowed
    from saescope.load import load_sae

    with pickles_allowed(settings.allow_pickle):
        return load_sae(
            source.path or None,
            release=source.release,
            sae_id=source.sae_id,
            device=device,
            dtype=dtype,
            revision=source.revision,
            offline=settings.offline,
            progress=say,
            known=source.known,
        )
