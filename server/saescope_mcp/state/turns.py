"""Several clients of one server: turns that are fair, and what one of them uses stays for it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from saescope_mcp.jobs import CLIENT

MOST_CLIENTS = 256
"""So many are remembered; one that was forgotten is served as a new one is."""
HOLD_S = 1800.0
"""A client that has not used an SAE for so long no longer keeps it in memory."""


@dataclass(eq=False)
class _Waiter:
    """Where a client waits in line."""

    client: str
    called: asyncio.Future[None]


class FairLock:
    """A lock that goes to the waiting client that was served least recently, and among the calls of
    one client to the first; an `anyio.Lock` serves most who asks most."""

    def __init__(self) -> None:
        self._held = False
        self._line: list[_Waiter] = []
        self._served: dict[str, None] = {}
        """Clients, the one that was served last at the end."""

    def locked(self) -> bool:
        return self._held

    @property
    def waiting(self) -> int:
        """Calls of the present client in line."""
        return sum(waiter.client == CLIENT.get() for waiter in self._line)

    async def acquire(self) -> None:
        if not self._held:
            self._give(CLIENT.get())
            return
        waiter = _Waiter(CLIENT.get(), asyncio.get_running_loop().create_future())
        self._line.append(waiter)
        try:
            await waiter.called
        except asyncio.CancelledError:
            if waiter in self._line:
                self._line.remove(waiter)
            else:
                self.release()  # it was called in the moment in which it went away
            raise

    def release(self) -> None:
        self._held = False
        there = [waiter for waiter in self._line if not waiter.called.cancelled()]
        if not there:
            return
        rank = {client: i for i, client in enumerate(self._served)}
        waiter = min(there, key=lambda waiter: rank.get(waiter.client, -1))
        self._line.remove(waiter)
        self._give(waiter.client)
        waiter.called.set_result(None)

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def _give(self, client: str) -> None:
        self._held = True
        self._served.pop(client, None)
        self._served[client] = None
        if len(self._served) > MOST_CLIENTS:
            del self._served[next(iter(self._served))]


@dataclass
class Holds:
    """Which client uses what is loaded: none takes an SAE from another by unloading it."""

    clock: Callable[[], float] = time.monotonic
    _used: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """When each client last used each handle."""

    def take(self, handle: str) -> None:
        """The present client uses it."""
        self._used.setdefault(handle, {})[CLIENT.get()] = self.clock()

    def let_go(self, handle: str) -> None:
        """The present client uses it no longer."""
        self._used.get(handle, {}).pop(CLIENT.get(), None)

    def by_another(self, handle: str) -> bool:
        """Whether another client has used it of late."""
        since = self.clock() - HOLD_S
        used = {client: at for client, at in self._used.get(handle, {}).items() if at > since}
        self._used[handle] = used
        return any(client != CLIENT.get() for client in used)
