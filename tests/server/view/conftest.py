"""The window over the tiny model with its SAE, at a real port, in a thread of its own."""

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import httpx
import pytest
import uvicorn

from saescope_mcp.state import AppState, Placement, Showing, Source
from saescope_mcp.state.sources import KnownHandles
from saescope_mcp.view import opened_view

if TYPE_CHECKING:
    from pathlib import Path


class Window(NamedTuple):
    """A window that is served."""

    url: str
    port: int
    state: AppState
    sae: str

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, arguments: Any) -> httpx.Response:
        """What a page sends."""
        headers = {"Origin": self.origin}
        return httpx.post(f"{self.url}{path}", json=arguments, headers=headers, timeout=60)

    def call(self, tool: str, **arguments: Any) -> httpx.Response:
        """A call as a page makes it."""
        return self.post(f"call/{tool}", arguments)

    def load(self, handle: str) -> str:
        """Load an SAE that is known, as a page does, and wait for it."""
        done = self.post("load", {"handle": handle}).json()
        while done.get("state") == "running":
            job = {"job_id": done["job_id"], "wait_s": 5, "response_format": "detailed"}
            told = self.call("job_status", **job).json()
            done = told.get("result") or told
        assert "sae" in done, done
        return done["sae"]


@contextmanager
def showing(state: AppState) -> Generator[Window]:
    view = opened_view(state)
    state.showing = Showing(results=view.results)
    config = uvicorn.Config(view.served.app, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    sockets = [view.served.listener]
    thread = threading.Thread(target=lambda: anyio.run(server.serve, sockets), daemon=True)
    thread.start()
    with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:
        assert client.get(view.address).status_code == 200
    try:
        yield Window(view.address, view.served.listener.getsockname()[1], state, "")
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)
        view.door.close()


def remember(folder: "Path", model: "Path", hook_name: str) -> str:
    """The handle of an SAE as if it had been loaded here before."""
    source, handles = Source(path=str(folder), model=str(model)), KnownHandles()
    handle = handles.name(model.name, source, hook_name)
    handles.remember(handle, source, Placement())
    return handle


@pytest.fixture(scope="session")
def shown(
    sae_dir: "Path",
    glass_dir: "Path",
    glass: object,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Window]:
    """A window with the tiny SAE loaded through it; do not unload."""
    from tests.server.helpers import HOOK

    from saescope_mcp.settings import Settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAESCOPE_HOME", str(tmp_path_factory.mktemp("view_home")))
        roots = (sae_dir.parent, glass_dir.parent)
        state = AppState(Settings(read_roots=roots, write_roots=(sae_dir.parent,), offline=True))
        with showing(state) as window:
            loaded = window._replace(sae=window.load(remember(sae_dir, glass_dir, HOOK)))
            patch.undo()  # in this home are no models, and tests of other folders want one
            yield loaded
        state.close()
