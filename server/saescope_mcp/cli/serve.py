"""`saescope serve`: the tool server on stdio, or on HTTP."""

import argparse
import gc
import logging
import os
import queue
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from logging.handlers import QueueHandler, QueueListener
from types import FrameType

import anyio

from saescope.errors import ConfigError
from saescope_mcp.app import build_server
from saescope_mcp.cli.window import window_of
from saescope_mcp.groups import SETTING, Group
from saescope_mcp.settings import (
    LEAST_TOKEN,
    TOKEN,
    Settings,
    http_token,
    log_level,
    unknown_variables,
)
from saescope_mcp.state import AppState
from saescope_mcp.state.keeper import LAST_S

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SWITCH_S = 0.0005
"""How long a thread that computes in Python keeps the event loop waiting; by default it is ten
times as long, at each read and write."""


class DroppingHandler(QueueHandler):
    """A client that never reads our stderr must not bring the server to a halt."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):
            self.queue.put_nowait(record)


def serve(words: Sequence[str]) -> int:
    """Serve until the client goes, then end the process; returns only the status of a refusal."""
    options = options_in(words)
    is_open = options.host not in LOOPBACK
    if options.http and is_open and not os.environ.get(TOKEN):
        return _refuse(
            f"--host {options.host} is refused without a token: set {TOKEN} to a secret of "
            f"{LEAST_TOKEN} characters or more, which clients send as a bearer token; or stay on "
            f"loopback {LOOPBACK} and reach this machine through ssh."
        )
    if options.http and (reason := _not_free(options.host, options.port)):
        return _refuse(
            f"port {options.port} cannot be used: {reason}. Name another one with --port."
        )
    try:
        settings, level, token = Settings.from_env(), log_level(), http_token()
        if options.tools is not None:
            settings = settings.model_copy(update={"tools": options.tools})
        state = AppState(settings)
        server = build_server(state=state)
        window = window_of(state) if options.view or settings.view else None
    except ConfigError as error:
        return _refuse(f"{error.message} {error.hint}")
    _log(level)
    for name in unknown_variables():
        logging.getLogger("saescope").warning("%s is no setting of saescope", name)
    sys.setswitchinterval(SWITCH_S)
    gc.freeze()  # what lives as long as the server is never searched for garbage
    if options.http:
        shown = f"[{options.host}]" if ":" in options.host else options.host
        whom = "who bears the token, unencrypted" if is_open else "this machine"
        sys.stderr.write(
            f"saescope serves http://{shown}:{options.port}/mcp to {whom}; Ctrl-C ends it.\n"
        )
        from saescope_mcp.cli.http import serve_http

        serve_http(server, host=options.host, port=options.port, token=token, window=window)
    else:
        _end_by_signals(state)
        anyio.run(window(server.run_stdio_async) if window else server.run_stdio_async)
    state.close()
    for warning in state.keeper.settle(LAST_S):
        logging.getLogger("saescope").warning("%s", warning)
    sys.stdout.flush()
    # taking torch apart in good order, or waiting for a load, takes longer than a client waits
    os._exit(0)


def _end_by_signals(state: AppState) -> None:
    """End at a signal, once the last results are written; Python would wait until stdin closes."""

    def end(sig: int, frame: FrameType | None) -> None:
        signal.signal(sig, signal.SIG_DFL)
        state.keeper.settle(LAST_S)
        signal.raise_signal(sig)

    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, end)


def _not_free(host: str, port: int) -> str:
    """Why nothing can listen there; empty: it can."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
            if os.name != "nt":  # there it would share a port that is taken
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except (OSError, OverflowError) as error:
        return (error.strerror if isinstance(error, OSError) else None) or "it must be 0-65535"
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="saescope serve",
        description="Run the MCP tool server: on stdio, for a client that starts it.",
    )
    parser.add_argument(
        "--tools",
        help=f"the tools to offer, in the place of {SETTING}: groups "
        f"({', '.join(group.word for group in Group)}) and tools, with commas; -train takes away",
    )
    parser.add_argument(
        "--http",
        action="store_true",
        help=f"streamable HTTP instead, at /mcp, for this machine; with {TOKEN} requests have to "
        "bear that token",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help=f"with --http: 127.0.0.1, localhost or ::1; with {TOKEN} any address of this machine",
    )
    parser.add_argument("--port", type=int, default=8000, help="with --http")
    parser.add_argument(
        "--view",
        action="store_true",
        help="show this server's window too (as SAESCOPE_VIEW); server_status says how to open it",
    )
    return parser


def _refuse(message: str) -> int:
    sys.stderr.write(f"saescope serve: {message}\n")
    return 2


def options_in(words: Sequence[str]) -> argparse.Namespace:
    """The options; `--tools -train` is read as one word: argparse would take the second for
    another option."""
    joined: list[str] = []
    for word in words:
        if joined[-1:] == ["--tools"] and word.startswith("-") and not word.startswith("--"):
            joined[-1] = f"--tools={word}"
        else:
            joined.append(word)
    return _parser().parse_args(joined)


def _log(level: str) -> None:
    lines: queue.Queue[logging.LogRecord] = queue.Queue(1000)
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    QueueListener(lines, output).start()
    logging.basicConfig(level=level, handlers=[DroppingHandler(lines)])
