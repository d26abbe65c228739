"""Requests to Neuronpedia: limited in time, size and number, silent about the key, never led to
another address."""

import json
import os
import random
import time
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from saescope import network
from saescope.cancel import stop_if_cancelled
from saescope.errors import ArgumentError, ConfigError, SaescopeError
from saescope.neuronpedia import failures
from saescope.neuronpedia.identity import SITE

MOST_BYTES = 16 << 20
"""The most bytes of one answer, unpacked: a card with all its examples has about 1 MB."""
KEY_VARIABLE, ENDPOINT_VARIABLE = "NEURONPEDIA_API_KEY", "NEURONPEDIA_ENDPOINT"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long to insist."""

    pause_s: float = 10.0
    """The longest wait for a connection, and for each pause in an answer."""
    total_s: float = 25.0
    """The longest time that everything of one call may take: asking, trying again and waiting."""
    attempts: int = 3
    backoff_s: float = 0.5
    """Before the second try; doubled before each further one, and shortened at random by up to a
    half."""
    longest_wait_s: float = 5.0
    """Waits that the other side asks for beyond this are left to the caller."""


class _Again(Exception):
    """A failure that may pass."""

    def __init__(self, error: SaescopeError, wait_s: float | None = None) -> None:
        super().__init__(error.message)
        self.error, self.wait_s = error, wait_s


class Transfer:
    """Asks one endpoint; the connection is kept between requests and may be used from several
    threads."""

    def __init__(self, patience: Patience) -> None:
        """Endpoint and key come from the environment.

        Raises:
            ConfigError, ArgumentError: one of the two cannot be what it should be.
        """
        self.endpoint = _endpoint()
        self.n_requests_left: int | None = None
        """The number of requests left, as the last answer gave it."""
        self._patience = patience
        self._client = httpx.Client(follow_redirects=False, headers=_headers(self.endpoint))

    def close(self) -> None:
        self._client.close()

    def ask(
        self, method: Literal["GET", "POST"], path: str, what: str, *, body: Any = None
    ) -> bytes:
        """The JSON at `path`, as bytes that are known to parse.

        Raises:
            OfflineError, NotFoundError, ArgumentError, FormatError: coded by what happened, after
                the tries that made sense.
        """
        try:
            network.require(self.endpoint)
        except network.Unreached as error:
            raise failures.unreachable(what, error) from None
        ends = time.monotonic() + self._patience.total_s
        limited_once = False
        for attempt in range(1, self._patience.attempts + 1):
            stop_if_cancelled()
            try:
                return self._once(method, path, what, body, ends)
            except _Again as failed:
                is_limit = failed.error.code == "NEURONPEDIA_RATE_LIMITED"
                if (
                    attempt == self._patience.attempts
                    or (is_limit and limited_once)
                    or not self._wait(attempt, failed.wait_s, ends)
                ):
                    raise failed.error from None
                limited_once |= is_limit
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, what: str, body: Any, ends: float) -> bytes:
        try:
            pause_s = max(0.01, min(self._patience.pause_s, ends - time.monotonic()))
            with self._client.stream(
                method, self.endpoint + path, json=body, timeout=pause_s
            ) as response:
                content = self._read(response, what, ends)
                status, retry_after = response.status_code, response.headers.get("Retry-After", "")
                left = response.headers.get("x-limit-remaining", "")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _Again(failures.unreachable(what, error)) from None
        self.n_requests_left = (
            int(left) if left.isascii() and left.isdigit() else self.n_requests_left
        )
        if status == 429:
            limit = failures.RateLimit.read(content, retry_after)
            raise _Again(failures.limited(limit), limit.wait_s)
        if not 200 <= status < 300:
            error = failures.refused(what, status)
            raise _Again(error) if failures.passes(status) else error
        return _checked(content, what)

    def _read(self, response: httpx.Response, what: str, ends: float) -> bytes:
        content = bytearray()
        for part in response.iter_bytes():
            stop_if_cancelled()
            content += part
            if len(content) > MOST_BYTES:
                raise failures.too_large(what, MOST_BYTES)
            if time.monotonic() > ends:
                raise httpx.ReadTimeout("")
        return bytes(content)

    def _wait(self, attempt: int, asked_s: float | None, ends: float) -> bool:
        """Wait before the next try; False if that would take too long."""
        wait_s = (
            self._patience.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)
            if asked_s is None
            else asked_s
        )
        until = time.monotonic() + wait_s
        if wait_s > self._patience.longest_wait_s or until > ends:
            return False
        while (left := until - time.monotonic()) > 0:
            stop_if_cancelled()
            time.sleep(min(left, 0.1))
        return True


def _checked(content: bytes, what: str) -> bytes:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        page = content.lstrip()[:1] == b"<"
        why = "is a web page, not JSON" if page else "is not JSON"
        raise _Again(failures.unreadable(what, why)) from None
    return content


def _endpoint() -> str:
    """`https://host/api`; the path may be left out."""
    address = os.environ.get(ENDPOINT_VARIABLE, "").rstrip("/")
    if not address:
        return f"{SITE}/api"
    try:
        parts = urlsplit(address)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        hint = f"Correct or unset {ENDPOINT_VARIABLE}."
        raise ConfigError(
            f"{ENDPOINT_VARIABLE} is no address.",
            field=ENDPOINT_VARIABLE,
            allowed="https://host/api",
            hint=hint,
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path or '/api'}"


def _headers(endpoint: str) -> dict[str, str]:
    """Headers with the key, if there is one and nobody on the way can read it."""
    headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "saescope"}
    key, address = os.environ.get(KEY_VARIABLE, "").strip(), urlsplit(endpoint)
    if not all("!" <= char <= "~" for char in key):
        raise ArgumentError(
            f"{KEY_VARIABLE} holds characters that no key has.",
            code="NEURONPEDIA_KEY_INVALID",
            hint=f"Set {KEY_VARIABLE} again, or unset it: reading needs none.",
        )
    if key and (address.scheme == "https" or address.hostname in _LOOPBACK):
        headers["x-api-key"] = key
    return headers
