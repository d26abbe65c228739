"""Core functions in worker threads that stop when their call is cancelled."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import anyio

from saescope.cancel import cancellable
from saescope.fence import AskFence, fenced

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Work(Generic[T]):
    """A function that runs in a thread, and the event that asks it to stop."""

    future: Future[T]
    stop: threading.Event
    grace_s: float

    async def result(self) -> T:
        """The function's result; when cancelled, asks it to stop and waits a little for that."""
        try:
            return await asyncio.wrap_future(self.future)
        finally:
            self.stop.set()
            if not self.future.done():
                with anyio.move_on_after(self.grace_s, shield=True):
                    await self.settled()

    async def settled(self) -> None:
        """Until the thread has really ended, however its call did."""
        while not self.future.done():
            await anyio.sleep(0.01)


class Workers:
    """A few threads of our own: anyio's 40 would run 40 models at once."""

    def __init__(self, threads: int, grace_s: float, *, fence: AskFence = lambda: None) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="saescope")
        self._grace_s, self._fence = grace_s, fence
        self._works: list[Work[Any]] = []

    def start(self, function: Callable[[], T]) -> Work[T]:
        stop = threading.Event()
        future = self._pool.submit(copy_context().run, self._work, function, stop)
        work = Work(future, stop, self._grace_s)
        self._works = [other for other in self._works if not other.future.done()] + [work]
        return work

    def _work(self, function: Callable[[], T], stop: threading.Event) -> T:
        # The fence is asked for here, not in the event loop: links of a slow disk are followed.
        with cancellable(stop), fenced(self._fence):
            return function()

    def run(self, function: Callable[[], T]) -> Coroutine[Any, Any, T]:
        return self.start(function).result()

    def stop_all(self) -> None:
        for work in self._works:
            work.stop.set()
