"""Requests to the hub: patient with a bad network, silent about tokens and addresses, in errors
that name the next step."""

import io
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

from saescope import network
from saescope.cancel import stop_if_cancelled
from saescope.errors import FormatError, OfflineError, SaescopeError
from saescope.hub.failures import passes, translate

T = TypeVar("T")

TIMEOUT_S = 10.0
"""The longest wait for a connection, and for each pause in an answer."""
ATTEMPTS = 4
BACKOFF_S = 0.5
STALL_S = 30.0
STALL_BYTES = 30 << 10
"""Less than this in STALL_S seconds counts as a broken connection."""
HEAD_BYTES = 128 << 10
"""The unit of ranged reads: the header of an SAE's weights usually fits in one."""
MAX_SKIPPED_BYTES = 8 << 20


def endpoint() -> str:
    """The hub's address, or that of the mirror in HF_ENDPOINT."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def errors() -> tuple[type[Exception], ...]:
    """Everything that a request may fail with."""
    from huggingface_hub.errors import HfHubHTTPError

    # huggingface_hub 1 speaks through httpx, 2 through httpx2: its own error derives from the root
    # of either's errors.
    return (
        *(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError"),
        OSError,
        UnicodeError,
    )


def patiently(what: str, call: Callable[[], T]) -> T:
    """The result of `call`, tried again while the failure is one that passes; without a network
    nothing is tried.

    Raises:
        NotFoundError, OfflineError: coded by what happened; the text of the original error, which
            may hold secrets, is dropped.
    """
    for attempt in range(1, ATTEMPTS + 1):
        stop_if_cancelled()
        try:
            network.require(endpoint())
            return call()
        except errors() as error:
            if attempt == ATTEMPTS or not passes(error):
                raise translate(what, error) from None
            pause(attempt, error)
    raise AssertionError("unreachable")


def pause(attempt: int, error: Exception) -> None:
    """Wait before the next try, as long as the server asks for (within reason)."""
    asked = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    end = time.monotonic() + (
        min(float(asked), 20 * BACKOFF_S) if asked.isdigit() else BACKOFF_S * 2 ** (attempt - 1)
    )
    while (left := end - time.monotonic()) > 0:
        stop_if_cancelled()
        time.sleep(min(left, 0.1))


def unreachable(error: SaescopeError) -> bool:
    """Whether the hub gave no answer that counts, so that what is cached may stand in."""
    return isinstance(error, OfflineError)


@contextmanager
def get(url: str, first: int, last: int | None) -> Generator[Any]:
    """The answer to a request for the bytes `first` to `last`, its body not yet read; the token
    stays with the hub on redirects."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    wanted = f"bytes={first}-{'' if last is None else last}"
    headers = build_hf_headers() | {"Range": wanted, "Accept-Encoding": "identity"}
    with get_session().stream(
        "GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True
    ) as response:
        if response.status_code != 416:
            if response.is_error:
                response.read()
            hf_raise_for_status(response)
        yield response


def body(response: Any) -> Generator[bytes]:
    """Yield the parts of the body as they arrive.

    Raises:
        TimeoutError: hardly anything arrives any more.
    """
    since, n_bytes = time.monotonic(), 0
    for part in response.iter_raw():
        stop_if_cancelled()
        yield part
        n_bytes += len(part)
        if time.monotonic() - since > STALL_S:
            if n_bytes < STALL_BYTES:
                raise TimeoutError
            since, n_bytes = time.monotonic(), 0


def first_byte(response: Any) -> int:
    """The offset in the file at which the body begins: a server may ignore the range."""
    if response.status_code != 206:
        return 0
    return int(
        response.headers.get("Content-Range", "bytes 0").removeprefix("bytes ").split("-")[0]
    )


def open_remote(url: str, what: str) -> BinaryIO:
    """A file on the hub of which only the parts that are read are fetched.

    Raises:
        NotFoundError, OfflineError: as `patiently`; now or when it is read.
    """
    return io.BufferedReader(_RangedFile(url, what), HEAD_BYTES)


class _RangedFile(io.RawIOBase):
    mode = "rb"

    def __init__(self, url: str, what: str) -> None:
        self.name, self._url, self._what, self._at = what, url, what, 0
        self._size = 0
        self._head = self._fetch(0, HEAD_BYTES)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        length = min(len(view), self._size - self._at)
        if length <= 0:
            return 0
        here = self._head[self._at : self._at + length]
        part = here or self._fetch(self._at, length)
        view[: len(part)] = part
        self._at += len(part)
        return len(part)

    def _fetch(self, start: int, length: int) -> bytes:
        return patiently(self._what, lambda: self._try(start, length))

    def _try(self, start: int, length: int) -> bytes:
        with get(self._url, start, start + length - 1) as response:
            self._size = _total(response) or self._size
            if response.status_code == 416:
                return b""
            skip = start - first_byte(response)
            if not 0 <= skip <= MAX_SKIPPED_BYTES:
                raise FormatError(
                    f"The server does not send parts of {self._what}.",
                    code="HUB_NO_RANGES",
                    hint="Set HF_ENDPOINT to another mirror.",
                )
            content = bytearray()
            for part in body(response):
                content += part
                if len(content) >= skip + length:
                    break
        if len(content) < min(skip + length, self._size - start + skip):
            raise ConnectionError
        return bytes(content[skip : skip + length])


def _total(response: Any) -> int:
    """Size of the whole file."""
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    if total.isdigit():
        return int(total)
    return int(response.headers.get("Content-Length") or 0) if response.status_code == 200 else 0
