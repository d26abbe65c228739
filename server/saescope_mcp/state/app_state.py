"""AppState: find, use and let go of what is loaded."""

import gc
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

import anyio

from saescope.errors import NotFoundError, ResourceError
from saescope.names import home, nearest
from saescope_mcp.groups import Offer
from saescope_mcp.jobs import Jobs, Runs
from saescope_mcp.settings import Settings
from saescope_mcp.state.entries import LoadedSAE
from saescope_mcp.state.fences import reading
from saescope_mcp.state.memory import Room, total_bytes
from saescope_mcp.state.slots import ModelSlot
from saescope_mcp.state.sources import KnownHandles, Placement, Source, load_call
from saescope_mcp.state.stacks import LoadedStack
from saescope_mcp.state.threads import Workers

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
        self.jobs = Jobs(settings.keep_jobs)
        self.models: dict[str, ModelSlot] = {}
        self.saes: dict[str, LoadedSAE] = {}
        self.loading = anyio.Lock()
        self.offer = Offer()
        """The tools that clients are offered; the command line has all."""

    def _threads(self) -> Workers:
        settings = self.settings
        return Workers(
            settings.threads, settings.cancel_grace_s, fence=lambda: reading(self.settings)
        )

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
            yield stack

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
        used += sum(entry.sae.weights_bytes for entry in self.saes.values() if entry.slot in slots)
        return Room(total, int(total * self.settings.memory_share), used)

    def make_sure_of_counts(self, then: str, *, new_model: bool) -> None:
        """Raises: ResourceError: too many models or SAEs are loaded; the hint names what to
        unload."""
        if new_model and len(self.models) >= self.settings.max_models:
            raise _no_room(
                f"{len(self.models)} models are loaded, the most allowed (SAESCOPE_MAX_MODELS).",
                "TOO_MANY_MODELS",
                [*self.models],
                then,
            )
        if len(self.saes) >= self.settings.max_saes:
            raise _no_room(
                f"{len(self.saes)} SAEs are loaded, the most allowed (SAESCOPE_MAX_SAES).",
                "TOO_MANY_SAES",
                self._oldest(),
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
            raise _no_room(what, "OUT_OF_MEMORY_BUDGET", [*enough, *self.models], then)

    def drop_unused(self, slot: ModelSlot) -> None:
        """Forget a model that no SAE uses."""
        if not any(entry.slot is slot for entry in self.saes.values()):
            self.models.pop(slot.handle, None)

    async def unload(self, handle: str) -> tuple[int, list[str]]:
        """Bytes freed and handles gone; a known handle that is not loaded frees nothing.

        Raises:
            NotFoundError: HANDLE_NOT_FOUND.
        """
        slot = self.models.get(handle) or (self.saes[handle].slot if handle in self.saes else None)
        if slot is None:
            if any(known == handle or known.startswith(f"{handle}/") for known in self.known.all()):
                return 0, []
            raise self._unknown(handle)
        async with slot.turn():
            gone = [
                entry
                for entry in self.saes.values()
                if entry.slot is slot and handle in (entry.handle, slot.handle)
            ]
            freed = sum(self.saes.pop(entry.handle).sae.weights_bytes for entry in gone)
            names = [entry.handle for entry in gone]
            if self.models.get(handle) is slot:
                freed += self.models.pop(handle).model.weights_bytes
                names.append(handle)
        del gone, slot
        await self.workers.run(_collect)
        return freed, names

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
            raise self._not_loaded(handle)
        return self.saes[handle]

    def require_all(self, handles: Sequence[str]) -> LoadedStack:
        """SAEs of one model, for what does not run it yet.

        Raises:
            NotFoundError: SAE_NOT_LOADED, with the call that loads it.
            ArgumentError, MismatchError: they cannot work together.
        """
        return LoadedStack.of([self.require(handle) for handle in handles])

    def _not_loaded(self, handle: str) -> NotFoundError:
        known, there = self.known.all(), ", ".join(self.saes) or "none"
        source, placement = known.get(handle, (None, None))
        running = [
            job
            for job in self.jobs.all()
            if job.state == "running" and (source is None or job.key == source)
        ]
        named = [*self.saes, *known]
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
        there = [*self.models, *self.saes]
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
        for slot in self.models.values():
            freed[slot.handle] = slot.model.weights_bytes + sum(
                e.sae.weights_bytes for e in self.saes.values() if e.slot is slot
            )
        return freed

    def _oldest(self) -> list[str]:
        return sorted(self.saes, key=lambda handle: self.saes[handle].last_used)


def _check_placement(handle: str, slot: ModelSlot, placement: Placement) -> None:
    device, dtype = str(slot.model.device), str(slot.model.dtype).removeprefix("torch.")
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


def _no_room(message: str, code: str, handles: list[str], then: str) -> ResourceError:
    hint = (
        f'Call unload(handle="{handles[0]}"), then {then}.'
        if handles
        else 'Use a smaller model or SAE, dtype="bfloat16", or raise the limit.'
    )
    return ResourceError(message, code=code, hint=hint)


def _collect() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"
