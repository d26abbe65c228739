"""Who may look: whoever has the token, from a page of ours, on this machine."""

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
OUTSIDE = "r"
"""The first part of the paths that need no token; no token is as short."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MOST_BODY_BYTES = 2**20
"""The most that a page sends at once."""


def new_token() -> str:
    """A first part of a path that nobody can guess."""
    return secrets.token_urlsafe(24)


def address_of(port: int, token: str) -> str:
    """The address of the window's first page."""
    return f"http://{HOST}:{port}/{token}/"


def address_of_results(port: int) -> str:
    """What the id of a result is put behind: an address without the token, that says nothing to
    whoever lacks it."""
    return f"http://{HOST}:{port}/{OUTSIDE}/"


def guarded(app: ASGIApp, *, outside: ASGIApp, token: str, port: int) -> ASGIApp:
    """The application for those who may look; anybody else learns nothing, and may read what
    `outside` answers.

    The Host header must name this machine: else a page of another site, whose name was turned to
    127.0.0.1, would be of our origin. The token is no longer in the path that `app` sees.
    """
    hosts = {f"{name}:{port}" for name in NAMES}

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        _, _, rest = scope["path"].partition("/")
        given, slash, inner = rest.partition("/")
        if headers.get("host", "") not in hosts:
            refusal = PlainTextResponse("This is not a name of this machine.", status_code=421)
        elif given == OUTSIDE and scope["method"] in ("GET", "HEAD"):
            refusal = outside
        elif not (slash and secrets.compare_digest(given.encode(), token.encode())):
            refusal = PlainTextResponse("Not found.", status_code=404)
        elif scope["method"] not in ("GET", "HEAD") and not _is_ours(headers):
            refusal = PlainTextResponse("Only a page of this window may ask.", status_code=403)
        elif not headers.get("content-length", "0").isdigit() or (
            int(headers.get("content-length", "0")) > MOST_BODY_BYTES
        ):
            refusal = PlainTextResponse("Too much at once.", status_code=413)
        else:
            await app({**scope, "path": f"/{inner}", "raw_path": None}, receive, _sealed(send))
            return
        await refusal(scope, receive, _sealed(send))

    return checked


def _is_ours(headers: Headers) -> bool:
    """Whether a page of ours asks: a browser sends the origin with every POST. A body without a
    length is none of ours."""
    return (
        headers.get("origin") == f"http://{headers.get('host')}"
        and headers.get("sec-fetch-site", "same-origin") == "same-origin"
        and headers.get("content-type", "").partition(";")[0] == "application/json"
        and "content-length" in headers
    )


def _sealed(send: Send) -> Send:
    """What is sent, with the headers that keep a page by itself."""

    async def sealed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sealed
