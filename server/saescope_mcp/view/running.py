"""The window served on loopback: by itself, or beside a server on the same event loop."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import anyio
import uvicorn
from starlette.types import ASGIApp

from saescope_mcp.view.guard import HOST

GRACE_S = 0.4
"""Asked to end, the window gives open requests this long; live pages are told, and end at once."""
log = logging.getLogger("saescope")


class Served(NamedTuple):
    """An application at the socket that it is to be served at."""

    app: ASGIApp
    listener: socket.socket
    ended: anyio.Event
    """Set when the window ends: pages that wait for news are answered then."""


def listening(port: int = 0) -> socket.socket:
    """A socket that is bound to the port, or to any that is free for 0: nobody else can take it
    any more.

    Raises:
        OSError, OverflowError: nothing can listen there.
    """
    listener = socket.socket()
    try:
        if os.name != "nt":  # there it would share a port that is taken
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener


def serve_view(served: Served, *, opened: Callable[[], None]) -> None:
    """Serve the window until Ctrl-C; `opened` is called once it can be looked at."""

    async def run() -> None:
        server = _ViewServer(served)
        async with anyio.create_task_group() as group:
            group.start_soon(_when_started, server, opened)
            await server.serve(sockets=[served.listener])
            group.cancel_scope.cancel()

    anyio.run(run)


async def beside(main: Callable[[], Awaitable[Any]], served: Served) -> None:
    """Serve the window as long as `main` runs; the signals are main's, and what befalls the window
    is not."""
    window = _BesideServer(served)
    with served.listener:
        async with anyio.create_task_group() as group:
            group.start_soon(_apart, window, served)
            await main()
            served.ended.set()
            window.should_exit = window.force_exit = True
            group.cancel_scope.cancel()


async def _apart(window: uvicorn.Server, served: Served) -> None:
    try:
        await window.serve(sockets=[served.listener])
    except Exception as error:
        log.warning("The window has ended: %s: %s", type(error).__name__, error)


async def _when_started(server: uvicorn.Server, opened: Callable[[], None]) -> None:
    while not server.started:
        await anyio.sleep(0.02)
    opened()


class _ViewServer(uvicorn.Server):
    """Ends within a second of Ctrl-C, without a word, whatever is open."""

    def __init__(self, served: Served) -> None:
        super().__init__(
            uvicorn.Config(
                served.app,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=GRACE_S,  # type: ignore[arg-type]  # seconds
            )
        )
        self._ended = served.ended

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Hear signals as uvicorn does, but raise none of them once more at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit, self.force_exit = True, self.should_exit

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ended.set()
        # requests that are cancelled now are no faults
        logging.getLogger("uvicorn.error").disabled = True
        await super().shutdown(sockets)


class _BesideServer(_ViewServer):
    """Leaves signals to the server that it stands beside."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
