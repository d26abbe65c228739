"""`saescope serve`: the tool server on stdio, or on loopback HTTP."""

import argparse
import logging
import os
import queue
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from logging.handlers import QueueHandler, QueueListener

from saescope.errors import ConfigError
from saescope_mcp.app import build_server
from saescope_mcp.settings import Settings, unknown_variables
from saescope_mcp.state import AppState

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class DroppingHandler(QueueHandler):
    """A client that never reads our stderr must not bring the server to a halt."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):
            self.queue.put_nowait(record)


def serve(words: Sequence[str]) -> int:
    """Serve until the client goes, then end the process; returns only the status of a refusal."""
    options = _parser().parse_args(words)
    if options.http and options.host not in LOOPBACK:
        return _refuse(f"--host {options.host} is refused: saescope has no authentication, so it listens on loopback only {LOOPBACK}.")
    try:
        settings = Settings.from_env()
    except ConfigError as error:
        return _refuse(f"{error.message} {error.hint}")
    _log()
    for name in unknown_variables():
        logging.getLogger("saescope").warning("%s is no setting of saescope", name)
    state = AppState(settings)
    server = build_server(state=state)
    if options.http:
        with suppress(KeyboardInterrupt):
            server.run("streamable-http", host=options.host, port=options.port)
    else:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # else Ctrl-C waits until stdin closes
        server.run("stdio")
    state.close()
    sys.stdout.flush()
    os._exit(0)  # taking torch apart in good order, or waiting for a load, takes longer than a client waits; nothing is left to finish


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="saescope serve", description="Run the MCP tool server: on stdio, for a client that starts it.")
    parser.add_argument("--http", action="store_true", help="streamable HTTP on loopback instead, at /mcp")
    parser.add_argument("--host", default="127.0.0.1", help="with --http: 127.0.0.1, localhost or ::1")
    parser.add_argument("--port", type=int, default=8000, help="with --http")
    return parser


def _refuse(message: str) -> int:
    sys.stderr.write(f"saescope serve: {message}\n")
    return 2


def _log() -> None:
    lines: queue.Queue[logging.LogRecord] = queue.Queue(1000)
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    QueueListener(lines, output).start()
    logging.basicConfig(level=os.environ.get("SAESCOPE_LOG_LEVEL", "WARNING").upper(), handlers=[DroppingHandler(lines)])
