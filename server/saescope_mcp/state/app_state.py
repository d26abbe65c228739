"""AppState: find, use and let go of what is loaded."""

import gc
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from saescope.errors import ArgumentError, NotFoundError, ResourceError
from saescope.names import Source, home, nearest
from saescope_mcp.groups import Offer
from saescope_mcp.jobs import Jobs, Runs
from saescope_mcp.settings import Settings
from saescope_mcp.state.entries import LoadedSAE, LoadedSet
from saescope_mcp.state.fences import reading
from saescope_mcp.state.keeper import LedgerKeeper
from saescope_mcp.state.memory import Room, total_bytes
from saescope_mcp.state.showing import Showing
from saescope_mcp.state.slots import ModelSlot
from saescope_mcp.state.sources import KnownHandles, Placement, load_call
from saescope_mcp.state.stacks import LoadedStack
from saescope_mcp.state.threads import Workers
from saescope_mcp.state.turns import FairLock, Holds

if TYPE_CHECKING:
    from saescope.sets import Member

P = ParamSpec("P")
T = TypeVar("T")
RECORD_THREADS = 4


class AppState:
    """One per server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.workers = self._threads()
        self.loaders = self._threads()
        """Threads apart for what opens files that a call names: a disk that does not answer holds
        up no other tool."""
        self.records = Workers(RECORD_THREADS, 0.0)
        """Threads for the table of runs alone: work that takes long must not keep anybody from
        asking about it."""
        self.keeper = LedgerKeeper(settings)
        self.jobs = Jobs(settings.keep_jobs)
        self.models: dict[str, ModelSlot] = {}
        self.saes: dict[str, LoadedSAE] = {}
        self.sets: dict[str, LoadedSet] = {}
        self.loading = FairLock()
        self.holds = Holds()
        self.showing = Showing()
        self.offer = Offer()
        """The tools that clients are offered; the command line has all."""

    def _threads(self) -> Workers:
        settings = self.settings
        return Workers(
            settings.threads, settings.cancel_grace_s, fence=lambda: reading(self.settings)
        )

    def address_of(self, result_id: str) -> str:
        """Where a person sees a kept result; empty where there is no window or no ledger."""
        shown = self.showing.results if self.settings.ledger else ""
        return shown and f"{shown}{result_id}"

    @property
    def known(self) -> KnownHandles:
        return KnownHandles()

    @property
    def runs(self) -> Runs:
        """Trainings: in processes of their own, the same for every server of this user."""
        return Runs(home() / "jobs")

    async def ask(
        self, question: Callable[Concatenate[Runs, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """A method of `Runs`, in a thread: another process may keep the table locked for a
        while."""
        return await self.records.run(partial(question, self.runs, *args, **kwargs))

    @asynccontextmanager
    async def use(self, handle: str, *, patient: bool = False) -> AsyncGenerator[LoadedSAE]:
        """The SAE and its model, for this call alone; `patient` as in `ModelSlot.turn`.

        Raises:
            NotFoundError: SAE_NOT_LOADED, with the call that loads it.
            ResourceError: BUSY.
        """
        async with self.use_all([handle], patient=patient) as stack:
            yield stack.entries[0]

    @asynccontextmanager
    async def use_all(
        self, handles: Sequence[str], *, patient: bool = False
    ) -> AsyncGenerator[LoadedStack]:
        """SAEs of one model, and it, for this call alone: none of them can be unloaded meanwhile.

        Raises:
            NotFoundError: SAE_NOT_LOADED, with the call that loads it.
            ArgumentError, MismatchError: they cannot work together.
            ResourceError: BUSY.
        """
        stack = self.require_all(handles)
        async with stack.slot.turn(patient=patient):
            for entry in stack.entries:
                if self.saes.get(entry.handle) is not entry:  # unloaded while this call waited
                    raise self._not_loaded(entry.handle)
                entry.last_used = time.monotonic()
                self.holds.take(entry.handle)
            yield stack

    @asynccontextmanager
    async def use_set(self, handle: str, *, patient: bool = False) -> AsyncGenerator[LoadedSet]:
        """The set and its model, for this call alone; `patient` as in `ModelSlot.turn`.

        Raises:
            NotFoundError: SAE_NOT_LOADED, with the call that loads it.
            ArgumentError: NOT_A_SET.
            ResourceError: BUSY.
        """
        entry = self.require_set(handle)
        async with entry.slot.turn(patient=patient):
            if self.sets.get(handle) is not entry:  # unloaded while this call waited
                raise self._not_loaded(handle)
            entry.last_used = time.monotonic()
            self.holds.take(handle)
            yield entry

    def set_from(self, source: Source, placement: Placement) -> LoadedSet | None:
        """The set from this source, if it is in memory; raises as `loaded_from`."""
        entry = next((entry for entry in self.sets.values() if entry.source == source), None)
        if entry:
            _check_placement(entry.handle, entry.slot, placement)
        return entry

    def in_a_set(self, source: Source) -> "Member | None":
        """The member of a loaded set that this source loads."""
        found = (entry.member_of(source) for entry in self.sets.values())
        return next((member for member in found if member is not None), None)

    def loaded_from(self, source: Source, placement: Placement) -> LoadedSAE | None:
        """The SAE from this source, if it is in memory.

        Raises:
            ResourceError: ALREADY_LOADED: it is, but on another device or in another dtype.
        """
        entry = next((entry for entry in self.saes.values() if entry.source == source), None)
        if entry:
            _check_placement(entry.handle, entry.slot, placement)
        return entry

    def slot_of(self, model: str, placement: Placement) -> ModelSlot | None:
        slot = next((slot for slot in self.models.values() if model in slot.names), None)
        if slot:
            _check_placement(slot.handle, slot, placement)
        return slot

    def room(self, device: str = "cpu") -> Room:
        total = total_bytes(device)
        kind = device.split(":")[0]
        slots = [slot for slot in self.models.values() if slot.model.device.type == kind]
        used = sum(slot.model.weights_bytes for slot in slots)
        used += sum(entry.sae.weights_bytes for entry in self._alone() if entry.slot in slots)
        used += sum(entry.reserved_bytes for entry in self.sets.values() if entry.slot in slots)
        return Room(total, int(total * self.settings.memory_share), used)

    def make_sure_of_counts(self, then: str, *, new_model: bool) -> None:
        """Raises: ResourceError: too many models or SAEs are loaded; the hint names what to
        unload."""
        if new_model and len(self.models) >= self.settings.max_models:
            raise self._no_room(
                f"{len(self.models)} models are loaded, the most allowed (SAESCOPE_MAX_MODELS).",
                "TOO_MANY_MODELS",
                self._models_alone(),
                then,
            )
        n_saes = len(self._alone()) + len(self.sets)
        if n_saes >= self.settings.max_saes:
            raise self._no_room(
                f"{n_saes} SAEs are loaded, the most allowed (SAESCOPE_MAX_SAES).",
                "TOO_MANY_SAES",
                [*self._oldest(), *(each for each in self.sets if not self._is_of_others(each))],
                then,
            )

    def make_sure_of_room(self, need: int, then: str, device: str) -> None:
        """Raises: ResourceError: it does not fit into the budget; the hint names what to unload."""
        room = self.room(device)
        if need > room.free:
            enough = [
                name
                for name, freed in self._freed_by_unloading().items()
                if room.free + freed >= need
            ]
            what = (
                f"This load needs {_mb(need)}; {_mb(room.free)} of the budget of "
                f"{_mb(room.budget)} are free (SAESCOPE_MEMORY_SHARE)."
            )
            raise self._no_room(
                what, "OUT_OF_MEMORY_BUDGET", [*enough, *self._models_alone()], then
            )

    def drop_unused(self, slot: ModelSlot) -> None:
        """Forget a model that no SAE uses."""
        if not any(entry.slot is slot for entry in (*self.saes.values(), *self.sets.values())):
            self.models.pop(slot.handle, None)

    async def unload(self, handle: str) -> tuple[int, list[str], list[str]]:
        """Bytes freed, handles gone, and handles that stay for another client; a known handle that
        is not loaded frees nothing.

        Raises:
            NotFoundError: HANDLE_NOT_FOUND.
        """
        named = self.saes.get(handle) or self.sets.get(handle)
        slot = self.models.get(handle) or (named.slot if named else None)
        if slot is None:
            if any(known == handle or known.startswith(f"{handle}/") for known in self.known.all()):
                return 0, [], []
            raise self._unknown(handle)
        async with slot.turn():
            freed, names, kept = self._let_go(handle, slot)
            if self.models.get(handle) is slot and not kept:
                freed += self.models.pop(handle).model.weights_bytes
                names.append(handle)
        del named, slot
        await self.workers.run(_collect)
        return freed, names, kept

    def close(self) -> None:
        """Ask all work to stop."""
        self.jobs.cancel_all()
        self.workers.stop_all()
        self.loaders.stop_all()

    def require(self, handle: str) -> LoadedSAE:
        """The SAE, for what does not run its model.

        Raises:
            NotFoundError: SAE_NOT_LOADED, with the call that loads it.
        """
        if handle not in self.saes:
            self._refuse_set(handle)
            raise self._not_loaded(handle)
        return self.saes[handle]

    def require_set(self, handle: str) -> LoadedSet:
        """The set, for what does not run its model.

        Raises:
            NotFoundError: SAE_NOT_LOADED, with the call that loads it.
            ArgumentError: NOT_A_SET.
        """
        source, _ = self.known.all().get(handle, (None, None))
        if handle in self.saes or (source and not source.layers and handle not in self.sets):
            raise ArgumentError(
                f"{handle!r} is the SAE of one layer.",
                code="NOT_A_SET",
                field="sae",
                got=handle,
                allowed=", ".join(self.sets) or "a set, which load_sae(..., layers=...) loads",
                hint='Load the layers together: load_sae(..., layers="all").',
            )
        if handle not in self.sets:
            raise self._not_loaded(handle)
        return self.sets[handle]

    def require_all(self, handles: Sequence[str]) -> LoadedStack:
        """SAEs of one model, for what does not run it yet.

        Raises:
            NotFoundError: SAE_NOT_LOADED, with the call that loads it.
            ArgumentError, MismatchError: they cannot work together.
        """
        return LoadedStack.of([self.require(handle) for handle in handles])

    def _refuse_set(self, handle: str) -> None:
        """Raises ArgumentError: SET_HANDLE: it is a set's; the hint names its first SAE."""
        entry = self.sets.get(handle)
        source, _ = self.known.all().get(handle, (None, None))
        if entry is None and not (source and source.layers):
            return
        members = [*entry.members] if entry else self._members_of(handle)
        raise ArgumentError(
            f"{handle!r} is a set of SAEs, and this call takes one layer's.",
            code="SET_HANDLE",
            field="sae",
            got=handle,
            allowed=", ".join(members[:3]) + (" ..." if len(members) > 3 else ""),
            hint=f'Name one of them: sae="{members[0]}".' if members else "Load one SAE.",
        )

    def _members_of(self, handle: str) -> list[str]:
        """The known handles of a set's SAEs: `<model>/3.mlp.in/tag` of `<model>/all.mlp.in/tag`."""
        model, _, rest = handle.partition("/")
        site = rest.partition(".")[2]
        known = (each for each in self.known.all() if each.startswith(f"{model}/"))
        numbers = {each: each[len(model) + 1 :].partition(".") for each in known}
        found = [each for each, (n, _, end) in numbers.items() if n.isdigit() and end == site]
        return sorted(found, key=lambda each: int(numbers[each][0]))

    def _alone(self) -> list[LoadedSAE]:
        """SAEs whose weights are not those of a set."""
        sets = [entry.sae_set for entry in self.sets.values()]
        return [
            entry
            for entry in self.saes.values()
            if not any(sae_set.holds(entry.sae) for sae_set in sets)
        ]

    def _let_go(self, handle: str, slot: ModelSlot) -> tuple[int, list[str], list[str]]:
        """Forget an SAE, a set with those of its SAEs that were loaded, or all of a model, but for
        what another client uses."""
        sets = [
            entry
            for entry in self.sets.values()
            if entry.slot is slot and handle in (entry.handle, slot.handle)
        ]
        of_sets = {member for entry in sets for member in entry.members}
        saes = [
            entry
            for entry in self.saes.values()
            if entry.slot is slot
            and (handle in (entry.handle, slot.handle) or entry.handle in of_sets)
        ]
        for entry in (*sets, *saes):
            self.holds.let_go(entry.handle)
        kept = [entry.handle for entry in (*sets, *saes) if self._is_of_others(entry.handle)]
        gone = [entry.handle for entry in (*sets, *saes) if entry.handle not in kept]
        alone = self._alone()
        freed = sum(e.sae.weights_bytes for e in saes if e in alone and e.handle in gone)
        for handle in gone:
            self.saes.pop(handle, None)
            if entry := self.sets.pop(handle, None):
                freed += entry.sae_set.drop()
        return freed, gone, kept

    def _is_of_others(self, handle: str) -> bool:
        """Whether another client uses it, or an SAE of the set that it is."""
        members = self.sets[handle].members if handle in self.sets else ()
        return any(self.holds.by_another(each) for each in (handle, *members))

    def _not_loaded(self, handle: str) -> NotFoundError:
        known, there = self.known.all(), ", ".join([*self.saes, *self.sets]) or "none"
        source, placement = known.get(handle, (None, None))
        running = [
            job
            for job in self.jobs.all()
            if job.state == "running" and (source is None or job.key == source)
        ]
        named = [*self.saes, *self.sets, *known]
        close = [each for each in named if each.rpartition("/")[2] == handle]
        close = close or nearest(handle, named, 1)
        if running:
            hint = f'A load is still running: call job_status(job_id="{running[0].id}", wait_s=30).'
        elif source and placement:
            hint = load_call(source, placement)
        else:
            hint = (
                f'Use sae="{close[0]}", or load_sae() for the embedded SAE.'
                if close
                else "load_sae() loads the embedded SAE."
            )
        message = (
            f"SAE {handle!r} is {'known but ' if source else ''}not loaded (loaded: "
            f"{there}). Call load_sae first."
        )
        return NotFoundError(
            message, code="SAE_NOT_LOADED", field="sae", got=handle, allowed=there, hint=hint
        )

    def _unknown(self, handle: str) -> NotFoundError:
        there = [*self.models, *self.saes, *self.sets]
        close = nearest(handle, there, 1)
        return NotFoundError(
            f"Nothing called {handle!r} is loaded.",
            code="HANDLE_NOT_FOUND",
            field="handle",
            got=handle,
            allowed=", ".join(there) or "nothing is loaded",
            hint=f'unload(handle="{close[0]}")'
            if close
            else "server_status() lists what is loaded.",
        )

    def _freed_by_unloading(self) -> dict[str, int]:
        """SAEs least recently used first, then models with all of theirs."""
        freed = {handle: self.saes[handle].sae.weights_bytes for handle in self._oldest()}
        freed |= {
            handle: entry.reserved_bytes
            for handle, entry in self.sets.items()
            if not self._is_of_others(handle)
        }
        for slot in map(self.models.__getitem__, self._models_alone()):
            freed[slot.handle] = slot.model.weights_bytes + sum(
                e.sae.weights_bytes for e in self._alone() if e.slot is slot
            )
            freed[slot.handle] += sum(
                e.reserved_bytes for e in self.sets.values() if e.slot is slot
            )
        return freed

    def _oldest(self) -> list[str]:
        """SAEs that no other client uses, least recently used first."""
        ours = [handle for handle in self.saes if not self._is_of_others(handle)]
        return sorted(ours, key=lambda handle: self.saes[handle].last_used)

    def _models_alone(self) -> list[str]:
        """Models of which no other client uses an SAE."""
        used = [
            entry.slot
            for entry in (*self.saes.values(), *self.sets.values())
            if self._is_of_others(entry.handle)
        ]
        return [handle for handle, slot in self.models.items() if slot not in used]

    def _no_room(self, message: str, code: str, handles: list[str], then: str) -> ResourceError:
        if handles:
            hint = f'Call unload(handle="{handles[0]}"), then {then}.'
        elif any(map(self._is_of_others, (*self.saes, *self.sets))):
            hint = (
                "Other clients use what is loaded: try again when they have not for half an hour."
            )
        else:
            hint = 'Use a smaller model or SAE, dtype="bfloat16", or raise the limit.'
        return ResourceError(message, code=code, hint=hint)


def _check_placement(handle: str, slot: ModelSlot, placement: Placement) -> None:
    device, dtype = str(slot.model.device), str(slot.model.dtype).removeprefix("torch.")
    if not (slot.model.whole or placement.up_to_site):
        raise loaded_in_part(slot, f"{handle!r} is")
    if placement.device in ("auto", device, device.split(":")[0]) and placement.dtype in (
        "auto",
        dtype,
    ):
        return
    field = "dtype" if placement.dtype not in ("auto", dtype) else "device"
    raise ResourceError(
        f"{handle!r} is loaded on {device} as {dtype}.",
        code="ALREADY_LOADED",
        field=field,
        got=f"{placement.device}, {placement.dtype}",
        allowed=f"{device}, {dtype}",
        hint=f'Call unload(handle="{slot.handle}"), then make the same call again.',
    )


def loaded_in_part(slot: ModelSlot, what: str, wanted: int | None = None) -> ResourceError:
    """Says that so many layers are wanted, all if no number is given, and fewer are there."""
    n_loaded, n_layers = slot.model.n_loaded, slot.model.n_layers
    return ResourceError(
        f"{what} loaded with the first {n_loaded} of the model's {n_layers} layers (up_to_site).",
        code="ALREADY_LOADED",
        field="up_to_site",
        got=wanted or n_layers,
        allowed=n_loaded,
        hint=f'Call unload(handle="{slot.handle}"), then make the same call again.',
    )


def _collect() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"
