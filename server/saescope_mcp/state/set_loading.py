"""The load of a set: headers first, then its model, and of its weights what the check reads."""

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from saescope.names import Source
from saescope.progress import Say
from saescope_mcp.settings import Settings
from saescope_mcp.state.app_state import AppState
from saescope_mcp.state.entries import LoadedSet
from saescope_mcp.state.loading import Need, for_this_call, load_model_slot, model_needed, model_of
from saescope_mcp.state.slots import ModelSlot
from saescope_mcp.state.sources import Placement, load_call, model_name, readable
from saescope_mcp.state.warm import warm

if TYPE_CHECKING:
    from saescope.sets import Member, SAESet


class SetNeed(NamedTuple):
    """The bytes that a set takes: all of it in memory, or one layer at a time; and its model."""

    whole: int
    least: int
    model: Need

    @property
    def model_bytes(self) -> int:
        return self.model.model_bytes or 0


async def load_set(state: AppState, source: Source, placement: Placement, say: Say) -> LoadedSet:
    """The set and its model; what is there already is not loaded again."""
    async with state.loading:
        if there := state.set_from(source, placement):
            return there
        say("reading the headers of the set")
        await state.loaders.run(warm)
        opened = await state.loaders.run(partial(open_set, source, placement, state.settings, say))
        wanted, warnings = model_of(source, opened.model_name, state)
        slot = state.slot_of(wanted, placement)
        need = await state.loaders.run(partial(set_needed, state, opened, wanted, placement, slot))
        then = load_call(source, placement)
        state.make_sure_of_counts(then, new_model=slot is None)
        state.make_sure_of_room(need.least + need.model_bytes, then, need.model.device)
        with ExitStack() as undo:
            if slot is None:
                slot = await load_model_slot(state, wanted, placement, say)
                undo.callback(state.drop_unused, slot)
                state.make_sure_of_room(need.least, then, str(slot.model.device))
            entry = await _settled(state, slot, source, placement, opened)
            undo.pop_all()
    entry.warnings.extend(warnings)
    state.sets[entry.handle] = entry
    named = {entry.handle: source} | dict(entry.members)
    await state.workers.run(partial(state.known.remember_all, named, placement))
    return entry


async def load_known_set(state: AppState, handle: str) -> None:
    """Load the set of a handle that is not in memory, if it is known; as `load_known`."""
    source, placement = state.known.all().get(handle, (None, None))
    if source is None or placement is None or not source.layers:
        return
    if source.path:
        readable(source.path, state.settings, "sae")
    model_name(source.model, state.settings)
    await for_this_call(state, handle, (source, placement), load_set)


def open_set(source: Source, placement: Placement, settings: Settings, say: Say) -> "SAESet":
    """The set with nothing but its headers read."""
    from saescope import load_set as opened
    from saescope.formats.pickles import pickles_allowed

    with pickles_allowed(settings.allow_pickle):
        return opened(
            source.path or None,
            release=source.release,
            sae_id=source.sae_id,
            layers=source.layers,
            device=placement.device,
            dtype=placement.dtype,
            revision=source.revision,
            offline=settings.offline,
            progress=say,
            known=source.known,
        )


def set_needed(
    state: AppState,
    opened: "SAESet",
    model: str,
    placement: Placement,
    slot: ModelSlot | None,
) -> SetNeed:
    """What a load would take; this may ask the hub."""
    memory = opened.memory
    return SetNeed(memory.whole, memory.least, model_needed(state, model, placement, slot)[0])


async def _settled(
    state: AppState, slot: ModelSlot, source: Source, placement: Placement, opened: "SAESet"
) -> LoadedSet:
    """The set at its places in the model, measured there."""
    from saescope.evals import check_set

    memory, free = opened.memory, state.room(str(slot.model.device)).free
    opened.resident.budget = None if memory.whole <= free else max(memory.least, free)
    async with slot.turn(patient=True):
        settled = await slot.run(opened.settled, slot.model)
        unsure = await slot.run(_unsure, settled, slot, placement.allow_mismatch)
        most_bytes = state.settings.check_set_bytes
        check = await slot.run(check_set, slot.model, settled, most_bytes=most_bytes)
    hook_name = settled.members[0].read_hook
    tag = replace(source, layers="")
    sources = [_alone(member, source) for member in settled.members]
    handles = [
        state.known.name(slot.handle, alone, member.read_hook, tagged=tag)
        for alone, member in zip(sources, settled.members, strict=True)
    ]
    return LoadedSet(
        handle=state.known.name(slot.handle, source, hook_name),
        sae_set=settled,
        slot=slot,
        source=source,
        placement=placement,
        check=check,
        warnings=[*unsure, *slot.model.warnings, *settled.notes],
        members=dict(zip(handles, sources, strict=True)),
    )


def _unsure(settled: "SAESet", slot: ModelSlot, allow_mismatch: bool) -> list[str]:
    """What could not be verified of any member, each once."""
    from saescope.splice import check_cfg_fits

    told = [
        warning
        for each in settled.members
        for warning in check_cfg_fits(
            slot.model, each.cfg, allow_mismatch=allow_mismatch, measured=True
        )
    ]
    return [*dict.fromkeys(told)]


def _alone(member: "Member", source: Source) -> Source:
    """What loads a member by itself."""
    return replace(
        source,
        **member.place._asdict(),
        layers="",
        hook_name=source.hook_name.replace("{layer}", str(member.layer)),
    )
