"""The window over the tiny model with its SAE, at a real port, in a thread of its own."""

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import httpx
import pytest
import uvicorn

from saescope_mcp.state import AppState
from saescope_mcp.view import address_of, free_port, new_token, view_app

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

    def call(self, tool: str, **arguments: Any) -> httpx.Response:
        """A call as a page makes it."""
        headers = {"Origin": self.origin}
        return httpx.post(f"{self.url}call/{tool}", json=arguments, headers=headers, timeout=60)


@contextmanager
def showing(state: AppState, sae: str) -> Generator[Window]:
    port, token = free_port(), new_token()
    app = view_app(state, token=token, port=port)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: anyio.run(server.serve), daemon=True)
    thread.start()
    url = address_of(port, token)
    with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:
        assert client.get(url).status_code == 200
    try:
        yield Window(url, port, state, sae)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)


@pytest.fixture(scope="session")
def shown(
    sae_dir: "Path",
    glass_dir: "Path",
    glass: object,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Window]:
    """A window with the tiny SAE loaded through it; do not unload."""
    from saescope_mcp.settings import Settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAESCOPE_HOME", str(tmp_path_factory.mktemp("view_home")))
        roots = (sae_dir.parent, glass_dir.parent)
        state = AppState(Settings(read_roots=roots, write_roots=(sae_dir.parent,), offline=True))
        with showing(state, "") as window:
            where = {"path": str(sae_dir), "model": str(glass_dir)}
            while (done := window.call("load_sae", **where).json()).get("state") == "running":
                pass
            assert "sae" in done, done
            yield window._replace(sae=done["sae"])
        state.close()
