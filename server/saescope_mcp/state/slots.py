"""A loaded model and whose turn it is: two calls at once on one hooked model give wrong numbers
without an error."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio

from saescope.errors import ResourceError
from saescope_mcp.jobs import CURRENT, Current
from saescope_mcp.settings import Settings
from saescope_mcp.state.threads import Work, Workers
from saescope_mcp.state.turns import FairLock

if TYPE_CHECKING:
    from saescope.models import LanguageModel

P = ParamSpec("P")
T = TypeVar("T")


LOOK_S, FIRST_LOOK_S = 0.2, 0.02
"""How often a call that waits looks whether it waits in vain. Not at once: work that was just
cancelled has yet to let go."""
KNOWN_AFTER_S = 1.0
"""Before it has worked so long, nobody says how long work will take."""


@dataclass(eq=False)
class Occupant:
    """The call whose turn it is."""

    who: Current
    since: float
    share: float = 0.0
    """How much of its work is done, as far as it says."""

    @property
    def to_go_s(self) -> float | None:
        """Seconds, at the pace so far; None where that is not known."""
        elapsed = time.monotonic() - self.since
        if not self.share or elapsed < KNOWN_AFTER_S:
            return None
        return elapsed * (1 - self.share) / self.share

    def __str__(self) -> str:
        job = f" ({self.who.job_id})" if self.who.job_id else ""
        return f"{self.who.tool or 'another call'}{job}"


@dataclass(eq=False)
class ModelSlot:
    """One model, its lock and its queue."""

    handle: str
    model: "LanguageModel"
    names: set[str]
    """What it was asked for as."""
    settings: Settings
    workers: Workers
    work: Work[Any] | None = None
    occupant: Occupant | None = None
    lock: FairLock = field(default_factory=FairLock)

    @cached_property
    def weights_hash(self) -> str:
        """sha256 of the model's weights, which the load of the model takes once: a server changes
        none."""
        return self.model.weights_hash

    @asynccontextmanager
    async def turn(self, *, patient: bool = False) -> AsyncGenerator[None]:
        """The model for this call alone, once no thread of an earlier call is left on it; one that
        is patient, as jobs are, waits in line for as long as it takes.

        Raises:
            ResourceError: BUSY: the queue is full, it took too long, or the work ahead is known to
                take longer.
        """
        if self.lock.locked() or (self.work is not None and not self.work.future.done()):
            await self._in_line(patient)
        else:
            await self.lock.acquire()
        self.occupant = Occupant(CURRENT.get(), time.monotonic())
        try:
            yield
        finally:
            self.occupant = None
            self.lock.release()

    def run(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        """The function in a thread; only within `turn`."""
        self.work = work = self.workers.start(partial(function, *args, **kwargs))
        return work.result()

    def done(self, share: float) -> None:
        """How much of its work the call has done whose turn it is; may be called from a thread."""
        if occupant := self.occupant:
            occupant.share = share

    async def _in_line(self, patient: bool) -> None:
        """Take the lock once those ahead have let go of the model.

        Raises: ResourceError: as `turn`.
        """
        waiting = self.lock.waiting
        if not patient and self.lock.locked() and waiting >= self.settings.max_queue:
            raise self._busy(f"{waiting} calls of yours wait already (SAESCOPE_MAX_QUEUE)")
        mine = False
        with self._waiting(math.inf if patient else self.settings.lock_wait_s):
            await self.lock.acquire()
            try:
                if self.work is not None:
                    await self.work.settled()
                mine = True
            finally:
                if not mine:
                    self.lock.release()
        if not mine:
            raise self._in_vain()

    @contextmanager
    def _waiting(self, most_s: float) -> Generator[None]:
        """The block, broken off after that long, or as soon as it is known to take longer."""
        loop = asyncio.get_running_loop()
        with anyio.move_on_after(most_s) as scope:

            def look() -> None:
                nonlocal timer
                left = self.occupant.to_go_s if self.occupant else None
                if left is not None and left > scope.deadline - anyio.current_time():
                    scope.cancel()
                timer = loop.call_later(LOOK_S, look)

            timer = loop.call_later(FIRST_LOOK_S, look)
            try:
                yield
            finally:
                timer.cancel()

    def _in_vain(self) -> ResourceError:
        ahead = self.occupant
        if ahead is None:
            return self._busy(f"others kept it for {self.settings.lock_wait_s:g} s")
        left = ahead.to_go_s
        if left is None:
            since = time.monotonic() - ahead.since
            return self._busy(f"{ahead} has been at work on it for {since:.0f} s", ahead)
        return self._busy(f"{ahead} is at work on it, about {left:.0f} s to go", ahead)

    def _busy(self, why: str, ahead: Occupant | None = None) -> ResourceError:
        job_id = ahead.who.job_id if ahead else ""
        seconds = max(5, math.ceil((ahead.to_go_s if ahead else None) or 0))
        wait = f'Call job_status(job_id="{job_id}", wait_s=30), then s' if job_id else "S"
        when = " once it is done." if job_id else f" in {seconds} seconds."
        return ResourceError(
            f"Model {self.handle!r} is busy: {why}.",
            code="BUSY",
            hint=f"{wait}end the same call again{when}",
        )
