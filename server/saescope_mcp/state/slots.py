"""A loaded model and whose turn it is: two calls at once on one hooked model give wrong numbers
without an error."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio

from saescope.errors import ResourceError
from saescope_mcp.settings import Settings
from saescope_mcp.state.threads import Work, Workers

if TYPE_CHECKING:
    from saescope.models import LanguageModel

P = ParamSpec("P")
T = TypeVar("T")


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
    lock: anyio.Lock = field(default_factory=anyio.Lock)

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """The model for this call alone, once no thread of an earlier call is left on it.

        Raises:
            ResourceError: BUSY: the queue is full, or it took too long.
        """
        waiting = self.lock.statistics().tasks_waiting
        if self.lock.locked() and waiting >= self.settings.max_queue:
            raise self._busy(f"{waiting} calls wait already (SAESCOPE_MAX_QUEUE)")
        mine = False
        with anyio.move_on_after(self.settings.lock_wait_s):
            await self.lock.acquire()
            try:
                if self.work is not None:
                    await self.work.settled()
                mine = True
            finally:
                if not mine:
                    self.lock.release()
        if not mine:
            raise self._busy(
                f"another call kept it for {self.settings.lock_wait_s:g} s (SAESCOPE_LOCK_WAIT_S)"
            )
        try:
            yield
        finally:
            self.lock.release()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function in a thread; only within `turn`."""
        self.work = self.workers.start(partial(function, *args, **kwargs))
        return await self.work.result()

    def _busy(self, why: str) -> ResourceError:
        return ResourceError(
            f"Model {self.handle!r} is busy: {why}.",
            code="BUSY",
            hint="Send the same call again in 5 seconds.",
        )
