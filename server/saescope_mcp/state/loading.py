"""The steps of a load, in order; each may be cancelled, and a failure leaves nothing behind."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from saescope.errors import ArgumentError
from saescope_mcp.state.entries import LoadedSAE
from saescope_mcp.state.slots import ModelSlot
from saescope_mcp.state.sources import Placement, Source, load_call, model_name

if TYPE_CHECKING:
    from saescope.load import SAEInfo
    from saescope.models import LanguageModel
    from saescope.saes import SAE
    from saescope_mcp.state.app_state import AppState

Say = Callable[[str], None]


async def load(state: "AppState", source: Source, placement: Placement, say: Say) -> LoadedSAE:
    """The SAE and its model in memory; what is there already is not loaded again."""
    async with state.loading:
        if there := state.loaded_from(source, placement):
            return there
        say("reading the configuration of the SAE")
        info = await state.workers.run(partial(peek, source, offline=state.settings.offline))
        wanted, warnings = model_of(source, info, state)
        slot = state.slot_of(wanted, placement)
        sae_bytes = in_memory(info.weights_bytes, placement)
        then = load_call(source, placement)
        await _make_sure_of_room(state, wanted, placement, slot, sae_bytes, then)
        with ExitStack() as undo:
            if slot is None:
                slot = await _load_model(state, wanted, placement, say)
                undo.callback(state.drop_unused, slot)
                state.make_sure_of_room(sae_bytes, then, str(slot.model.device))  # a model from the hub tells its size only now
            entry = await _load_sae(state, slot, source, placement, say)
            undo.pop_all()
    entry.warnings.extend(warnings)
    state.saes[entry.handle] = entry
    state.known.remember(entry.handle, source, placement)
    return entry


def peek(source: Source, *, offline: bool) -> "SAEInfo":
    from saescope.load import peek_sae

    info = peek_sae(source.path or None, release=source.release, sae_id=source.sae_id, offline=offline)
    if not (source.hook_name or info.cfg.metadata.hook_name):
        raise ArgumentError(
            "This SAE does not say which site it belongs to.",
            code="HOOK_UNKNOWN",
            field="hook_name",
            hint='Call load_sae again with hook_name, e.g. hook_name="blocks.8.hook_resid_pre".',
        )
    return info


def model_of(source: Source, info: "SAEInfo", state: "AppState") -> tuple[str, list[str]]:
    """The model that was asked for, else the one that the SAE names; and what to say about that choice."""
    from saescope.embedded import EMBEDDED_HANDLE, EMBEDDED_MODEL

    named = source.model or info.cfg.metadata.model_name
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
    return EMBEDDED_HANDLE, [f'The embedded 4-bit copy of {named} is used; for the weights on the hub load with model="{named}".']


def in_memory(float32_bytes: int, placement: Placement) -> int:
    return float32_bytes // 2 if placement.dtype in ("float16", "bfloat16") else float32_bytes


def model_bytes(name: str) -> int:
    """Size as float32; 0 if it is not known before the download."""
    from saescope.models import peek_model_bytes

    return peek_model_bytes(name)


async def _make_sure_of_room(
    state: "AppState", wanted: str, placement: Placement, slot: ModelSlot | None, sae_bytes: int, then: str
) -> None:
    model = 0 if slot else in_memory(await state.workers.run(partial(model_bytes, wanted)), placement)
    device = str(slot.model.device) if slot else await state.workers.run(partial(_device, placement.device))
    state.make_sure_of_counts(then, new_model=slot is None)
    state.make_sure_of_room(sae_bytes + model, then, device)


def _device(name: str) -> str:
    from saescope.models import pick_device

    return str(pick_device(name))


async def _load_model(state: "AppState", name: str, placement: Placement, say: Say) -> ModelSlot:
    say(f"loading the model {name}")
    model = await state.workers.run(partial(_read_model, name, placement, state.settings.offline, say))
    if same := next((slot for slot in state.models.values() if _is_same(slot.model, model)), None):
        same.names.add(name)
        return same
    handle = model.handle if model.handle not in state.models else f"{model.handle}-{Source(model=name).digest}"
    slot = ModelSlot(handle, model, {name}, state.settings, state.workers)
    state.models[handle] = slot
    return slot


def _is_same(one: "LanguageModel", other: "LanguageModel") -> bool:
    """One commit on the hub, asked for by two of its names."""
    return (one.name, one.revision) == (other.name, other.revision) and "local" not in one.revision


def _read_model(name: str, placement: Placement, offline: bool, say: Say) -> "LanguageModel":
    from saescope.models import load_model

    return load_model(name, device=placement.device, dtype=placement.dtype, offline=offline, progress=say)


async def _load_sae(state: "AppState", slot: ModelSlot, source: Source, placement: Placement, say: Say) -> LoadedSAE:
    from saescope.evals import check_sae
    from saescope.splice import check_fits

    say("loading the SAE")
    sae = await state.workers.run(partial(_read_sae, source, str(slot.model.device), placement.dtype, state.settings.offline, say))
    say("checking the SAE on a probe text")
    async with slot.turn():
        warnings = await slot.run(check_fits, slot.model, sae, allow_mismatch=placement.allow_mismatch)
        check = await slot.run(check_sae, slot.model, sae)
        weights_hash = await slot.run(lambda: sae.weights_hash)
    handle = state.known.name(slot.handle, source, sae.cfg.metadata.hook_name)
    return LoadedSAE(handle, sae, slot, source, placement, check, warnings, weights_hash)


def _read_sae(source: Source, device: str, dtype: str, offline: bool, say: Say) -> "SAE":
    from saescope.load import load_sae

    sae = load_sae(
        source.path or None, release=source.release, sae_id=source.sae_id, device=device, dtype=dtype, offline=offline, progress=say
    )
    if source.hook_name:
        sae.cfg = replace(sae.cfg, metadata=replace(sae.cfg.metadata, hook_name=source.hook_name))
    return sae
