"""Core functions in worker threads that stop when their call is cancelled."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Generic, TypeVar

import anyio

from saescope.cancel import cancellable
from saescope.fence import Fence, fenced

T = TypeVar("T")


class Work(Generic[T]):
    """A function that runs in a thread, and the event that asks it to stop."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        function: Callable[[], T],
        *,
        grace_s: float,
        fence: Callable[[], Fence | None] = lambda: None,
    ) -> None:
        self.stop = threading.Event()
        self._fence = fence
        self._grace_s = grace_s
        self.future: Future[T] = pool.submit(copy_context().run, self._run, function)

    def _run(self, function: Callable[[], T]) -> T:
        with (
            cancellable(self.stop),
            fenced(self._fence()),
        ):  # links of a slow disk are followed here
            return function()

    async def result(self) -> T:
        """The function's result; when cancelled, asks it to stop and waits a little for that."""
        try:
            return await asyncio.wrap_future(self.future)
        finally:
            self.stop.set()
            with anyio.move_on_after(self._grace_s, shield=True):
                await self.settled()

    async def settled(self) -> None:
        """Until the thread has really ended, however its call did."""
        while not self.future.done():
            await anyio.sleep(0.01)


class Workers:
    """A few threads of our own: anyio's 40 would run 40 models at once."""

    def __init__(
        self, threads: int, grace_s: float, *, fence: Callable[[], Fence | None] = lambda: None
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="saescope")
        self._grace_s, self._fence = grace_s, fence
        self._works: list[Work[Any]] = []

    def start(self, function: Callable[[], T]) -> Work[T]:
        work = Work(self._pool, function, grace_s=self._grace_s, fence=self._fence)
        self._works = [other for other in self._works if not other.future.done()] + [work]
        return work

    async def run(self, function: Callable[[], T]) -> T:
        return await self.start(function).result()

    def stop_all(self) -> None:
        for work in self._works:
            work.stop.set()
