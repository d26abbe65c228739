"""Several clients of one server: turns that are fair, and SAEs that none takes from another."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from tests.server.helpers import PROMPT, call, save_random_sae
from tests.server.test_http import serving
from tests.server.test_slots import Busy, slot

from saescope.errors import ResourceError
from saescope_mcp.jobs import CLIENT
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState
from saescope_mcp.state.turns import HOLD_S, FairLock, Holds

HANDLE = "glassllm-en/2.resid_post/random"


@pytest.fixture(autouse=True)
def nobody_afterwards() -> Iterator[None]:
    """What a test that is no coroutine sets would be there in the tests after it."""
    before = CLIENT.set("")
    yield
    CLIENT.reset(before)


async def test_one_call_of_a_client_waits_for_one_of_another_not_for_all_of_them() -> None:
    model, served = slot(), list[str]()

    async def ask(client: str) -> None:
        CLIENT.set(client)
        async with model.turn():
            served.append(client)
            await anyio.sleep(0.01)

    async with anyio.create_task_group() as group:
        for client in ["many"] * 5 + ["one", "two", "two"]:
            group.start_soon(ask, client)
            await anyio.sleep(0)
    assert served == ["many", "one", "two", "many", "two", "many", "many", "many"]


async def test_a_full_queue_of_one_client_does_not_refuse_another() -> None:
    model, work = slot(max_queue=1), Busy()

    async def ask(client: str) -> None:
        CLIENT.set(client)
        async with model.turn():
            await model.run(work, 0.1)

    async with anyio.create_task_group() as group:
        group.start_soon(ask, "many")
        group.start_soon(ask, "many")
        await anyio.sleep(0.02)
        with pytest.raises(ResourceError, match="calls of yours wait already"):
            await ask("many")
        await ask("one")
    assert (work.most, work.ended) == (1, 3)


@pytest.mark.parametrize("seed", range(5))
async def test_calls_that_go_away_at_any_moment_leave_the_lock_to_the_others(seed: int) -> None:
    lock, rng, inside, most, done = FairLock(), random.Random(seed), 0, 0, 0

    async def ask(client: str, patience: float) -> None:
        nonlocal inside, most, done
        CLIENT.set(client)
        with anyio.move_on_after(patience):
            async with lock:
                inside += 1
                most = max(most, inside)
                try:
                    await anyio.sleep(rng.random() * 0.002)
                    done += 1
                finally:
                    inside -= 1

    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(ask, rng.choice("abc"), rng.choice([0, 0.001, 0.01, 10]))
            if rng.random() < 0.2:
                await anyio.sleep(0.001)
    assert most == 1 and done >= 30 and not lock.locked()


def test_a_client_that_uses_nothing_for_half_an_hour_holds_nothing() -> None:
    now = 0.0
    holds = Holds(clock=lambda: now)
    CLIENT.set("a")
    holds.take("x")
    CLIENT.set("b")
    assert holds.by_another("x") and not holds.by_another("y")
    now = HOLD_S + 1
    assert not holds.by_another("x")


async def by(client: str, state: AppState, tool: str, **arguments: Any) -> dict[str, Any]:
    CLIENT.set(client)
    return await call(state, tool, **arguments)


async def test_an_sae_that_another_client_uses_outlasts_an_unload(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    source = {"path": str(sae_dir), "model": str(glass_dir)}
    await by("a", state, "load_sae", **source)
    await by("b", state, "load_sae", **source)
    for handle in (HANDLE, "glassllm-en"):
        kept = await by("a", state, "unload", handle=handle)
        assert kept["unloaded"] == [] and kept["freed_bytes"] == 0
        assert "another client has used it within half an hour" in kept["summary"]
    assert (await by("b", state, "encode_text", sae=HANDLE, text=PROMPT))["n_tokens"]
    last = await by("b", state, "unload", handle="glassllm-en")
    assert last["unloaded"] == [HANDLE, "glassllm-en"] and not state.models


async def test_where_there_is_no_room_no_sae_of_another_client_is_named(
    sae_dir: Path, glass_dir: Path, tmp_path: Path
) -> None:
    roots = (sae_dir.parent, glass_dir.parent, tmp_path)
    state = AppState(Settings(max_saes=1, read_roots=roots, offline=True))
    source = {"model": str(glass_dir)}
    await by("a", state, "load_sae", path=str(sae_dir), **source)
    other = save_random_sae(tmp_path / "other", seed=1)
    CLIENT.set("b")
    refused = await _refused(state, path=str(other), **source)
    assert refused["code"] == "TOO_MANY_SAES"
    assert "unload(" not in refused["hint"] and "half an hour" in refused["hint"]
    CLIENT.set("a")
    refused = await _refused(state, path=str(other), **source)
    assert f'unload(handle="{HANDLE}")' in refused["hint"]


async def _refused(state: AppState, **arguments: Any) -> dict[str, Any]:
    from saescope_mcp.app import ALL_TOOLS

    load = next(tool for tool in ALL_TOOLS if tool.name == "load_sae")
    outcome = await load.call(state, arguments)
    assert outcome.is_error
    return outcome.document


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_two_clients_over_http_are_two(
    mode: Any, sae_dir: Path, glass_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the protocol with sessions by session, in the one without by the name they give."""
    from mcp.types import Implementation

    roots = os.pathsep.join(map(str, (sae_dir.parent, glass_dir.parent)))
    monkeypatch.setenv("SAESCOPE_READ_ROOTS", roots)
    source = {"path": str(sae_dir), "model": str(glass_dir), "wait_s": 50}
    with serving(tmp_path) as (_, url):
        first = Client(url, mode=mode, client_info=Implementation(name="first", version="1"))
        second = Client(url, mode=mode, client_info=Implementation(name="second", version="1"))
        async with first, second:
            for client in (first, second):
                assert not (await client.call_tool("load_sae", source)).is_error
            kept = await first.call_tool("unload", {"handle": HANDLE})
            assert "another client" in str(kept.content)
            gone = await second.call_tool("unload", {"handle": HANDLE})
            assert gone.structured_content and gone.structured_content["unloaded"] == [HANDLE]
