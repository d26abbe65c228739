"""The HTTP server around the tools: no client, whatever it sends or leaves out, keeps it from ending."""

import os
import threading
from contextlib import suppress
from types import FrameType

import anyio
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saescope_mcp.tool import Server

BODY_S = 60.0
"""Between two parts of a request's body."""
GRACE_S = 2
"""Asked to end, the server gives open requests this long."""
LAST_S = 8.0
"""After which it ends whatever still runs."""


def serve_http(server: Server, *, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    app = within(
        server.streamable_http_app(host=host, max_request_body_size=server.max_message_bytes),
        body_s=BODY_S,
    )
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=GRACE_S
    )
    with suppress(KeyboardInterrupt):
        anyio.run(_Endpoint(config).serve)


def within(app: ASGIApp, *, body_s: float) -> ASGIApp:
    """The application, for requests whose body comes; one whose next part takes longer than that is answered with 408."""

    async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        awaited = True

        async def receive_soon() -> Message:
            nonlocal awaited
            with anyio.move_on_after(body_s if awaited else None):
                message = await receive()
                awaited = awaited and message.get("more_body", False)
                return message
            raise _TooSlow

        with suppress(_TooSlow):
            await app(scope, receive_soon, send)
            return
        await send(
            {"type": "http.response.start", "status": 408, "headers": [(b"connection", b"close")]}
        )
        await send({"type": "http.response.body"})

    return bounded


class _TooSlow(Exception):
    """A body's next part did not come."""


class _Endpoint(uvicorn.Server):
    """Ends when it is asked to, even while a client holds a connection or a thread does not let go."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            last = threading.Timer(LAST_S, os._exit, [128 + sig])
            last.daemon = True
            last.start()
        super().handle_exit(sig, frame)
