"""`saescope view`, and the window beside a server: the address, the browser, what the terminal
says."""

import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from saescope_mcp.state import AppState

Main = Callable[[], Awaitable[Any]]
Beside = Callable[[Main], Main]
"""Makes of a server's main function one that shows the window as long as it runs."""
IN_A_WINDOW = {"max_result_tokens": 60_000, "max_wait_s": 55.0}
"""A page is read by a person: it has room, and asks again."""
MISUSED = 2


def show_window(port: int, *, open_it: bool) -> int:
    """Serve the window until Ctrl-C, then end the process; returns only the status of a
    refusal."""
    import typer

    from saescope.errors import ConfigError
    from saescope_mcp.cli.calls import person_settings
    from saescope_mcp.view import address_of, free_port, new_token, serve_view, view_app

    try:
        settings = person_settings().model_copy(update=IN_A_WINDOW)
        port = free_port(port)
    except ConfigError as error:
        return _refuse(f"{error.message} {error.hint}")
    except OSError as error:
        return _refuse(f"port {port} cannot be used: {error.strerror}. Name another with --port.")
    state, token = AppState(settings), new_token()
    address = address_of(port, token)

    def opened() -> None:
        sys.stderr.write(f"The window is at {address} on this machine; Ctrl-C ends it.\n")
        sys.stderr.flush()
        if open_it and typer.launch(address):
            sys.stderr.write("Nothing here opens it: open that address in a browser.\n")

    serve_view(view_app(state, token=token, port=port), port=port, opened=opened)
    state.close()
    state.keeper.settle()
    sys.stderr.flush()
    # waiting for a load, or taking torch apart in good order, takes longer than a person waits
    os._exit(0)


def window_of(state: AppState) -> Beside:
    """The window of a server, at a port that is free; its address is said on stderr and by
    server_status."""
    from saescope_mcp.view import address_of, beside, free_port, new_token, view_app

    port, token = free_port(), new_token()
    state.view_url = address_of(port, token)
    sys.stderr.write(f"The window is at {state.view_url} on this machine.\n")
    app = view_app(state, token=token, port=port)
    return lambda main: partial(beside, main, app, port=port)


def _refuse(message: str) -> int:
    sys.stderr.write(f"saescope view: {message}\n")
    return MISUSED
