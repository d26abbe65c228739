"""The HTTP server around the tools: no client, whatever it sends or leaves out, keeps it from
ending."""

import hashlib
import hmac
import os
import threading
from contextlib import suppress
from types import FrameType

import anyio
import uvicorn
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saescope_mcp.binding import Server
from saescope_mcp.binding.wire import refusal_of
from saescope_mcp.cli.window import Beside

BODY_S = 60.0
"""Between two parts of a request's body."""
GRACE_S = 2
"""Asked to end, the server gives open requests this long."""
LAST_S = 8.0
"""Seconds after which the server ends whatever still runs."""


def serve_http(
    server: Server, *, host: str, port: int, token: str = "", window: Beside | None = None
) -> None:
    """Serve until SIGINT or SIGTERM, with the window where there is one; a token is asked of every
    request."""
    limit = server.max_message_bytes
    served = server.streamable_http_app(host=host, max_request_body_size=limit)
    app = within(answering(served, max_bytes=limit), body_s=BODY_S)
    app = bearing(app, token=token) if token else app
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=GRACE_S
    )
    with suppress(KeyboardInterrupt):
        endpoint = _Endpoint(config)
        anyio.run(window(endpoint.serve) if window else endpoint.serve)


def within(app: ASGIApp, *, body_s: float) -> ASGIApp:
    """The application, for requests whose body comes; one whose next part takes longer than that is
    answered with 408."""

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


def bearing(app: ASGIApp, *, token: str) -> ASGIApp:
    """The application, for requests that bear the token; nothing of another one is read."""
    wanted = hashlib.sha256(f"bearer {token}".encode()).digest()

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        said = hashlib.sha256(f"{scheme.lower()} {given.strip()}".encode()).digest()
        if hmac.compare_digest(said, wanted):
            await app(scope, receive, send)
            return
        refused = Response(
            "This server asks for a token: send the header Authorization: Bearer TOKEN.\n",
            status_code=401,
            headers={"WWW-Authenticate": "Bearer", "Connection": "close"},
            media_type="text/plain",
        )
        await refused(scope, receive, send)

    return guarded


def answering(app: ASGIApp, *, max_bytes: int) -> ASGIApp:
    """The application, for bodies that are messages; others get the answer that they would get on
    stdio, with 400 or 413."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await app(scope, receive, send)
            return
        body = await _body(receive, max_bytes)
        if body is None:
            return
        if refused := refusal_of(body, max_bytes):
            error = refused.model_dump_json(by_alias=True)
            status = 413 if len(body) > max_bytes else 400
            reply = Response(error, status_code=status, media_type="application/json")
            await reply(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": body}]

        async def replayed() -> Message:
            return whole.pop() if whole else await receive()

        await app(scope, replayed, send)

    return checked


async def _body(receive: Receive, max_bytes: int) -> bytes | None:
    """The body, or so much of it that it is too long; None if the client went away."""
    body, more = bytearray(), True
    while more and len(body) <= max_bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


class _TooSlow(Exception):
    """A body's next part did not come."""


class _Endpoint(uvicorn.Server):
    """Ends when it is asked to, even while a client holds a connection or a thread does not let
    go."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            last = threading.Timer(LAST_S, os._exit, [128 + sig])
            last.daemon = True
            last.start()
        super().handle_exit(sig, frame)
