"""An answer to whatever comes in and is no message, where the SDK drops it; and standard input in
lines of bounded length.

JSON-RPC 2.0, section 5.1: -32700 is for what is no JSON, -32600 for JSON that is no request; the id
is null where none can be read.
"""

import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from io import BufferedIOBase

from anyio import to_thread
from mcp.types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError
from pydantic_core import from_json

Answer = Callable[[JSONRPCError], Awaitable[None]]
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')
_ID = re.compile(r'-?\d{1,18}|"[^"\\]{0,256}"')
_ID_CHARS = 2**20
"""The id is looked for so far into a line; clients write it near the front."""


class Lines:
    """Messages as they come in, one a line; what is none is answered and never seen further on."""

    def __init__(
        self, wire: BufferedIOBase, *, max_bytes: int, answer: Answer | None = None
    ) -> None:
        self.wire, self.max_bytes, self.answer = wire, max_bytes, answer

    def __aiter__(self) -> "Lines":
        return self

    async def __anext__(self) -> str:
        while raw := await to_thread.run_sync(self._readline):
            if not raw.strip():
                continue  # an empty line between two messages asks nothing
            refused = refusal_of(raw, self.max_bytes)
            if refused is None:
                return raw.decode()
            if self.answer and not _is_response(raw):
                await self.answer(refused)
        raise StopAsyncIteration

    def _readline(self) -> bytes:
        """A line; of one that is too long its beginning, one byte longer than is allowed."""
        line = self.wire.readline(self.max_bytes + 1)
        rest = line
        while len(rest) > self.max_bytes and not rest.endswith(b"\n"):
            rest = self.wire.readline(self.max_bytes + 1)
        return line


def refusal_of(raw: bytes, max_bytes: int) -> JSONRPCError | None:
    """What to answer to bytes that are no message; None if they are one."""
    if len(raw) > max_bytes:
        return _error(raw, INVALID_REQUEST, f"A message may have {max_bytes} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return _error(raw, PARSE_ERROR, f"The message is not UTF-8 (byte {error.start})")
    try:
        message = jsonrpc_message_adapter.validate_json(text, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            return _error(raw, PARSE_ERROR, first["msg"])
        reason = (
            "Batches are not taken: send one message at a time" if text.lstrip()[:1] == "[" else ""
        )
        return _error(raw, INVALID_REQUEST, reason or "This is no JSON-RPC 2.0 message")
    # the SDK takes a request whose id is none for a notification, and says nothing
    if isinstance(message, JSONRPCNotification) and '"id"' in text and "id" in from_json(text):
        return _error(raw, INVALID_REQUEST, "An id is a string or an integer")
    return None


def _error(raw: bytes, code: int, message: str) -> JSONRPCError:
    return JSONRPCError(
        jsonrpc="2.0", id=id_in(raw), error=ErrorData(code=code, message=f"{message}.")
    )


def id_in(raw: bytes) -> int | str | None:
    """The id of a message that need not be JSON: the value of "id" in the outermost object, if it
    can be one."""
    tokens = (match[0] for match in _TOKEN.finditer(raw[:_ID_CHARS].decode(errors="replace")))
    depth, before = 0, ["", "", ""]
    for token in tokens:
        if depth == 1 and before[0] in "{," and before[1:] == ['"id"', ":"]:
            return json.loads(token) if _ID.fullmatch(token) else None
        depth += (token in "{[") - (token in "}]")
        before = [*before[1:], token]
    return None


def _is_response(raw: bytes) -> bool:
    """An answer to an answer might be answered again, without end."""
    try:
        message = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(message, dict)
        and "method" not in message
        and bool({"result", "error"} & message.keys())
    )


@contextmanager
def private_stdin() -> Generator[BufferedIOBase]:
    """The wire, while descriptor 0 is the null device: a child or a stray read takes nothing from
    it.

    Never closed: a thread may still wait at it when the server ends.
    """
    wire = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if sys.platform == "win32":
        from mcp.os.win32.utilities import rebind_std_handle_to_fd

        rebind_std_handle_to_fd(0)
    try:
        yield os.fdopen(wire, "rb", closefd=False)
    finally:
        os.dup2(wire, 0)
