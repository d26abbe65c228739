"""`saescope view`, and the window beside a server: the address, the browser, what the terminal
says."""

import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from saescope_mcp.state import AppState, Showing

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
    from saescope_mcp.view import opened_view, serve_view

    try:
        state = AppState(person_settings().model_copy(update=IN_A_WINDOW))
        view = opened_view(state, port=port)
    except ConfigError as error:
        return _refuse(f"{error.message} {error.hint}")
    except (OSError, OverflowError) as error:
        return _refuse(f"port {port} cannot be used: {_why(error)}. Name another with --port.")

    def opened() -> None:
        sys.stderr.write(f"The window is at {view.address} on this machine; Ctrl-C ends it.\n")
        sys.stderr.flush()
        if open_it and (view.door.path is None or typer.launch(str(view.door.path))):
            sys.stderr.write("Nothing here opens it: open that address in a browser.\n")

    serve_view(view.served, opened=opened)
    view.door.close()
    state.close()
    state.keeper.settle()
    sys.stderr.flush()
    # waiting for a load, or taking torch apart in good order, takes longer than a person waits
    os._exit(0)


def window_of(state: AppState) -> Beside | None:
    """The window of a server, at a port that is free: its address is said on stderr, and where it
    is opened by server_status. None where there can be none; server_status says why."""
    from saescope_mcp.view import beside, opened_view

    try:
        view = opened_view(state)
    except OSError as error:
        state.showing = Showing(trouble=_why(error))
        sys.stderr.write(f"There is no window: {_why(error)}.\n")
        return None
    door = view.door.path
    state.showing = Showing(results=view.results, door=door.as_uri() if door else "")
    sys.stderr.write(f"The window is at {view.address} on this machine.\n")

    def with_window(main: Main) -> Main:
        async def both() -> None:
            try:
                await beside(main, view.served)
            finally:
                view.door.close()

        return both

    return with_window


def _why(error: OSError | OverflowError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "it must be 0-65535"


def _refuse(message: str) -> int:
    sys.stderr.write(f"saescope view: {message}\n")
    return MISUSED
