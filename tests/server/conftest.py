"""The server on the tiny model with a random SAE; loaded once, since every test may share it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from tests.server.helpers import call, save_random_sae

from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

if TYPE_CHECKING:
    from saescope.models import LanguageModel


@pytest.fixture(scope="session")
def sae_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_sae(tmp_path_factory.mktemp("saes") / "random")


@pytest.fixture
def settings(sae_dir: Path, glass_dir: Path) -> Settings:
    return Settings(
        read_roots=(sae_dir.parent, glass_dir.parent), write_roots=(sae_dir.parent,), offline=True
    )


@pytest.fixture
def state(settings: Settings) -> AppState:
    """A state with nothing loaded."""
    return AppState(settings)


@pytest.fixture(scope="session")
def tiny(
    sae_dir: Path,
    glass_dir: Path,
    glass: "LanguageModel",
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AppState]:
    """A state with the tiny model and its SAE loaded; do not unload. `glass` comes first: its
    imports may take as long as a call waits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAESCOPE_HOME", str(tmp_path_factory.mktemp("tiny_home")))
        state = AppState(
            Settings(
                read_roots=(sae_dir.parent, glass_dir.parent),
                write_roots=(sae_dir.parent,),
                offline=True,
            )
        )

        async def load() -> None:
            where = {"path": str(sae_dir), "model": str(glass_dir)}
            while (await call(state, "load_sae", **where))["state"] != "done":
                pass  # each call waits half a minute, and importing torch may take more

        anyio.run(load)
    yield state
    state.close()


@pytest.fixture
def sae(tiny: AppState) -> str:
    """The handle of the tiny SAE."""
    return next(iter(tiny.saes))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server over HTTP, in a process of its own."""
    from tests.server.test_http import serving

    with serving(tmp_path_factory.mktemp("home")) as (_, address):
        yield address
