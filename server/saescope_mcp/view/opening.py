"""A window over a state, ready to be served: its socket, its addresses, its door."""

from typing import NamedTuple

import anyio

from saescope_mcp.state import AppState
from saescope_mcp.view.app import view_app
from saescope_mcp.view.door import Door
from saescope_mcp.view.guard import address_of, address_of_results, new_token
from saescope_mcp.view.running import Served, listening


class OpenedView(NamedTuple):
    """A window that can be served."""

    served: Served
    address: str
    """Its first page; whoever has this has the window."""
    results: str
    """What the id of a result is put behind; without the token."""
    door: Door


def opened_view(state: AppState, *, port: int = 0) -> OpenedView:
    """The window over this state at the port, or at one that is free.

    Raises:
        OSError, OverflowError: nothing can listen there.
    """
    listener, token, ended = listening(port), new_token(), anyio.Event()
    port = listener.getsockname()[1]
    address = address_of(port, token)
    app = view_app(state, token=token, port=port, ended=ended)
    served = Served(app, listener, ended)
    return OpenedView(served, address, address_of_results(port), Door(address, port=port))
