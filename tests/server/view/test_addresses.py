"""`url` in results: only beside a window, without its token, and outside of what is kept."""

from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from tests.server.helpers import PROMPT, call
from tests.server.view.conftest import remember

from saescope_mcp.app import build_server
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState, Showing

AT = "http://127.0.0.1:8765/r/"


@pytest.fixture
def settings(own_home: Path, sae_dir: Path, glass_dir: Path, glass: object) -> Settings:
    return Settings(read_roots=(sae_dir.parent, glass_dir.parent), offline=True)


@pytest.fixture
def sae(settings: Settings, sae_dir: Path, glass_dir: Path) -> str:
    from tests.server.helpers import HOOK

    return remember(sae_dir, glass_dir, HOOK)


async def test_a_result_beside_a_window_says_where_it_is_seen_and_is_else_the_same(
    settings: Settings, sae: str
) -> None:
    alone, beside = AppState(settings), AppState(settings)
    beside.showing = Showing(results=AT)
    given: dict[str, Any] = {"sae": sae, "text": PROMPT}
    plain, shown = [await call(state, "encode_text", **given) for state in (alone, beside)]
    assert shown.pop("url") == AT + plain["result_id"] and "url" not in plain
    shown["warnings"] = plain["warnings"] = []
    assert shown == plain
    kept = await call(beside, "results", result_id=plain["result_id"], response_format="detailed")
    assert AT not in str(kept)


async def test_a_client_that_checks_schemas_takes_the_address(settings: Settings, sae: str) -> None:
    state = AppState(settings)
    state.showing = Showing(results=AT)
    async with Client(build_server(state=state)) as client:
        await client.list_tools()
        for tool in ("encode_text", "top_features"):
            done = await client.call_tool(tool, {"sae": sae, "text": PROMPT})
            assert done.structured_content is not None and not done.is_error
            assert done.structured_content["url"] == AT + done.structured_content["result_id"]
        status = await client.call_tool("server_status", {})
        assert status.structured_content is not None and "url" not in status.structured_content


async def test_what_is_not_kept_has_no_address(settings: Settings, sae: str) -> None:
    state = AppState(settings.model_copy(update={"ledger": False}))
    state.showing = Showing(results=AT)
    assert "url" not in await call(state, "encode_text", sae=sae, text=PROMPT)
    kept = AppState(settings)
    kept.showing = Showing(results=AT)
    quiz = await call(kept, "find_features", sae=sae, query="x")
    assert quiz.get("url", AT).startswith(AT)
