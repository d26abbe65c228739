"""What a request to Neuronpedia failed with, as our error. The words of the other side are never
part of a message."""

import json
import re
from typing import Any, NamedTuple

from saescope.errors import ArgumentError, FormatError, NotFoundError, OfflineError, SaescopeError

MISSING, REFUSED = "NOT_ON_NEURONPEDIA", "NEURONPEDIA_REFUSED"
_WINDOW = re.compile(r"\d{1,4} ?(?:s|m|h|d)")
_LATER = "Go on without Neuronpedia, or call again later."


class RateLimit(NamedTuple):
    """What a 429 says; None where it does not."""

    n_requests: int | None
    """The number of requests that one window allows."""
    window: str | None
    """The length of a window, such as "60 m"."""
    n_left: int | None
    wait_s: float | None
    """The seconds that the header Retry-After asks to wait."""

    @classmethod
    def read(cls, body: bytes, retry_after: str) -> "RateLimit":
        try:
            reply: Any = json.loads(body)
        except (ValueError, RecursionError):
            reply = None
        reply = reply if isinstance(reply, dict) else {}
        window = str(reply.get("requestWindow"))
        return cls(
            _count(reply.get("limitPerWindow")),
            window if _WINDOW.fullmatch(window) else None,
            _count(reply.get("remainingRequests")),
            float(retry_after)
            if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 8
            else None,
        )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 10**9 else None


def limited(limit: RateLimit) -> OfflineError:
    """The error for an answer 429: too many requests."""
    allowed = (
        f" ({limit.n_requests} requests in {limit.window})"
        if limit.n_requests and limit.window
        else ""
    )
    return OfflineError(
        f"Neuronpedia limits requests of this kind{allowed}, and that many were made "
        "from this address.",
        code="NEURONPEDIA_RATE_LIMITED",
        got="HTTP 429",
        allowed=f"{limit.n_requests or '?'} in {limit.window or '?'}, "
        f"{'?' if limit.n_left is None else limit.n_left} left",
        hint=f"Call again in {limit.wait_s:.0f} s."
        if limit.wait_s
        else f"{_LATER} A key in NEURONPEDIA_API_KEY may raise the limit.",
    )


def refused(what: str, status: int) -> SaescopeError:
    """The error for any other answer that is not a success."""
    if 300 <= status < 400:
        return OfflineError(
            f"Neuronpedia's answer for {what} leads to another address, which is not followed.",
            code="NEURONPEDIA_REDIRECTED",
            got=f"HTTP {status}",
            hint="Unset NEURONPEDIA_ENDPOINT, or set it to the address itself; a sign-in "
            "page of the network does this too.",
        )
    if status == 404:
        return NotFoundError(
            f"Neuronpedia has no {what}.", code=MISSING, got=what, hint="Go on without its label."
        )
    if status in (401, 403):
        return NotFoundError(
            f"Neuronpedia refuses access to {what}.",
            code="NEURONPEDIA_ACCESS_DENIED",
            got=f"HTTP {status}",
            hint="Check or unset NEURONPEDIA_API_KEY: public SAEs need none.",
        )
    if 400 <= status < 500 and status not in (408, 425):
        return ArgumentError(
            f"Neuronpedia does not take the request for {what}.",
            code=REFUSED,
            got=f"HTTP {status}",
            hint=_LATER,
        )
    return OfflineError(
        f"Neuronpedia failed for {what}.",
        code="NEURONPEDIA_UNAVAILABLE",
        got=f"HTTP {status}",
        hint=_LATER,
    )


def unreachable(what: str, error: Exception) -> OfflineError:
    """The error where no answer came at all, or none in time."""
    kind = type(error).__name__
    if "Timeout" in kind:
        return OfflineError(
            f"Neuronpedia did not answer in time for {what}.",
            code="NEURONPEDIA_TIMEOUT",
            got=kind,
            hint=_LATER,
        )
    return OfflineError(
        f"Neuronpedia cannot be reached from here, and {what} is not cached.",
        code="NEURONPEDIA_UNREACHABLE",
        got=kind,
        hint="Connect to the network and call again, or continue without Neuronpedia.",
    )


def offline(what: str) -> OfflineError:
    """The error where the caller allows no network."""
    return OfflineError(
        f"saescope is offline (SAESCOPE_OFFLINE), and {what} of Neuronpedia is not cached.",
        code="NEURONPEDIA_OFFLINE",
        got=what,
        hint="Go on without Neuronpedia, or call once with the network allowed; from then "
        "on it works offline.",
    )


def unreadable(what: str, why: str) -> FormatError:
    """The error for an answer that is not what its route gives."""
    return FormatError(
        f"Neuronpedia's answer for {what} {why}.",
        code="NEURONPEDIA_BAD_REPLY",
        got=why,
        hint=_LATER,
    )


def too_large(what: str, most_bytes: int) -> FormatError:
    """The error for an answer that has more bytes than we read."""
    return FormatError(
        f"Neuronpedia's answer for {what} is larger than {most_bytes >> 20} MiB.",
        code="NEURONPEDIA_TOO_LARGE",
        allowed=f"{most_bytes} bytes",
        hint="Look at it in a browser instead.",
    )


def passes(status: int) -> bool:
    """Whether trying again may help."""
    return status in (408, 425) or status >= 500
