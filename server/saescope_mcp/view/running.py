"""The window served on loopback: by itself, or beside a server on the same event loop."""

import socket
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import uvicorn
from starlette.types import ASGIApp

from saescope_mcp.view.guard import HOST

GRACE_S = 1
"""Asked to end, the window gives open requests this long; live pages hold one."""


def free_port(wanted: int = 0) -> int:
    """The port, or any that is free for 0.

    Raises:
        OSError, OverflowError: nothing can listen there.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind((HOST, wanted))
        return trial.getsockname()[1]


def serve_view(app: ASGIApp, *, port: int, opened: Callable[[], None]) -> None:
    """Serve the window until Ctrl-C; `opened` is called once it can be looked at."""

    async def run() -> None:
        server = uvicorn.Server(_config(app, port))
        async with anyio.create_task_group() as group:
            group.start_soon(_when_started, server, opened)
            await server.serve()
            group.cancel_scope.cancel()

    with suppress(KeyboardInterrupt):
        anyio.run(run)


async def beside(main: Callable[[], Awaitable[Any]], app: ASGIApp, *, port: int) -> None:
    """Serve the window as long as `main` runs; the signals are main's."""
    window = _Quiet(_config(app, port))
    async with anyio.create_task_group() as group:
        group.start_soon(window.serve)
        await main()
        window.should_exit = window.force_exit = True
        group.cancel_scope.cancel()


def _config(app: ASGIApp, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=HOST,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )


async def _when_started(server: uvicorn.Server, opened: Callable[[], None]) -> None:
    while not server.started:
        await anyio.sleep(0.02)
    opened()


class _Quiet(uvicorn.Server):
    """Leaves signals to the server that it stands beside."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
