"""Results on their way into the ledger: written by a thread of its own, one after the other, so
that no call waits for a disk or for another server."""

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio

from saescope.errors import SaescopeError
from saescope.ledger import KeptEntry, Ledger, ledger_path
from saescope_mcp.settings import Settings
from saescope_mcp.state.threads import Workers

P = ParamSpec("P")
T = TypeVar("T")
FIRST_S = 0.003
"""How long a call waits for its own writing while none has succeeded yet: a disk that is full or
read-only says so at once, and is told with this call's result."""
MOST_PENDING = 64
SETTLE_S = 20.0
LAST_S = 1.0
"""How long a server that is told to end waits for what is still to be written."""


class LedgerKeeper:
    """Writes results, and says once what keeps it from that."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._writer = Workers(1, 0.0)
        self._pending: set[Future[bool]] = set()
        self._works = False
        self._trouble, self._is_told = "", False

    @property
    def ledger(self) -> Ledger:
        settings = self._settings
        return Ledger(
            ledger_path(), max_bytes=settings.max_ledger_bytes, max_days=settings.max_ledger_days
        )

    async def keep(self, entry: KeptEntry) -> list[str]:
        """Hand a result to the writer, and return what there is to warn of."""
        if not self._settings.ledger:
            return []
        if len(self._pending) >= MOST_PENDING:
            self._trouble = f"{MOST_PENDING} results are still waiting to be written"
            return self._news()
        future = self._writer.start(partial(self.ledger.keep, entry)).future
        self._pending.add(future)
        future.add_done_callback(self._written)
        give_up = time.monotonic() + FIRST_S
        while not (self._works or future.done()) and time.monotonic() < give_up:
            await anyio.sleep(FIRST_S / 10)
        return self._news()

    async def ask(
        self, question: Callable[Concatenate[Ledger, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """A function of the ledger, once what was handed over before is written."""
        return await self._writer.run(partial(question, self.ledger, *args, **kwargs))

    def settle(self, most_s: float = SETTLE_S) -> list[str]:
        """Wait until all is written, for so many seconds at most, and return what there is to warn
        of: for a process that ends."""
        wait({*self._pending}, timeout=most_s)
        return self._news()

    def _written(self, future: "Future[Any]") -> None:
        # In the writer's thread, or in the event loop where it is done already.
        self._pending.discard(future)
        error = None if future.cancelled() else future.exception()
        if error is None:
            self._works = True
            self._is_told = False
        elif isinstance(error, SaescopeError):
            self._trouble = f"{error.message} {error.hint}"
        else:
            self._trouble = f"{type(error).__name__}: {error}."

    def _news(self) -> list[str]:
        trouble, self._trouble = self._trouble, ""
        if not trouble or self._is_told:
            return []
        self._is_told = True
        return [
            f"Results are not kept in the ledger: {trouble} SAESCOPE_LEDGER=false switches it off."
        ]
