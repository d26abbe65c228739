"""The process of `saescope warm`: a model and an SAE in memory, and one command at a time."""

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from saescope.errors import ConfigError
from saescope.json_text import parse
from saescope.names import home
from saescope.progress import Say
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.binding import Outcome
from saescope_mcp.cli.calls import (
    FOREVER_S,
    LOAD_SAE,
    answer,
    person_settings,
    settled,
    with_progress,
)
from saescope_mcp.cli.typed import program
from saescope_mcp.cli.warm import MOST_BYTES, SOCKET, CommandCall, likeness
from saescope_mcp.state import AppState

MISUSED = 2
TOOLS = {tool.name: tool for tool in ALL_TOOLS}


class _SentCall(NamedTuple):
    """What a command sends."""

    like: str
    folder: str
    asked: CommandCall


def keep(source: dict[str, Any], say: Say) -> int:
    """Load an SAE and its model, and work for commands until Ctrl-C, then end the process; returns
    only the status of a refusal."""
    try:
        state, listener = AppState(person_settings()), _listening(home() / SOCKET)
    except (ConfigError, OSError) as error:
        why = f"{error.message} {error.hint}" if isinstance(error, ConfigError) else str(error)
        sys.stderr.write(f"{program()} warm: {why}\n")
        return MISUSED
    try:
        status = anyio.run(partial(_keep, state, source, listener, say))
    finally:
        (home() / SOCKET).unlink(missing_ok=True)
    state.close()
    sys.stderr.flush()
    # taking torch apart in good order takes longer than a person waits
    os._exit(status)


def _listening(place: Path) -> socket.socket:
    """A socket that only this user can reach.

    Raises:
        OSError: another process keeps warm already, or there can be no such socket here.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise OSError("this system has no Unix sockets")
    listener = socket.socket(socket.AF_UNIX)
    with socket.socket(socket.AF_UNIX) as trial:
        if trial.connect_ex(str(place)) == 0:
            raise OSError("another process keeps a model in memory already")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)  # of a process that was killed
    before = os.umask(0o177)
    try:
        listener.bind(str(place))
    finally:
        os.umask(before)
    listener.listen()
    return listener


async def _keep(state: AppState, source: dict[str, Any], listener: socket.socket, say: Say) -> int:
    async def load() -> Outcome:
        return await LOAD_SAE.call(state, {**source, "wait_s": FOREVER_S})

    ended, turn = asyncio.Event(), asyncio.Lock()
    hear = partial(_hear, state, turn, likeness())
    async with await asyncio.start_unix_server(hear, sock=listener, limit=MOST_BYTES):
        async with turn:  # commands work by themselves until it has loaded
            loaded = await with_progress(state, load, say)
        if loaded.is_error:
            sys.stderr.write(f"{program()} warm: {loaded.text}\n")
            return 1
        for sig in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(sig, ended.set)
        handle = loaded.document["sae"]
        say(f"{handle} is in memory: commands in other terminals use it; Ctrl-C ends this")
        await ended.wait()
    return 0


async def _hear(
    state: AppState,
    turn: asyncio.Lock,
    ours: str,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Work for one command; whatever it sends, the next one is heard."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        line = _read(await reader.readline())
        if turn.locked() or line.like != ours or line.asked.tool not in TOOLS:
            await _tell(writer, {"other": True})
        else:
            async with turn:
                await _work(state, line, reader, writer)
    writer.close()


def _read(line: bytes) -> _SentCall:
    said = parse(line)
    call = CommandCall(said["tool"], said["arguments"], said["loading"])
    return _SentCall(said["like"], said["folder"], call)


async def _work(
    state: AppState, line: _SentCall, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer the call, unless the command ends before."""
    os.chdir(line.folder)  # of one command at a time, so that its paths are meant from there
    tool, arguments, loading = line.asked

    def say(message: str) -> None:
        writer.write(json.dumps({"say": message}).encode() + b"\n")

    work = asyncio.ensure_future(answer(state, TOOLS[tool], arguments, loading, say))
    gone = asyncio.ensure_future(reader.read(1))  # it sends one line: what comes next is its end
    await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        work.cancel()
        await asyncio.wait({work})
        return
    gone.cancel()
    outcome = await anyio.to_thread.run_sync(settled, state, work.result())
    await _tell(writer, {"document": outcome.document, "is_error": outcome.is_error})


async def _tell(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
    await writer.drain()
