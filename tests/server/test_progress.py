"""What a client hears while a call is at work."""

from typing import Any

import anyio
import pytest
from mcp import Client

from saescope_mcp.app import build_server
from saescope_mcp.binding import progress as reporting
from saescope_mcp.state import AppState


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_that_asks_hears_what_a_long_call_is_at(
    mode: Any, state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "EVERY_S", 0.02)
    heard: list[tuple[float, str | None]] = []
    enough = anyio.Event()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message))
        if len(heard) >= 3:
            enough.set()

    async def work(job: Any) -> None:
        job.say("downloading 3 of 93 MB")
        await enough.wait()

    async with Client(build_server(state=state), mode=mode) as client:
        job = state.jobs.start("load_sae", "key", None, work)
        await client.call_tool(
            "job_status", {"job_id": job.id, "wait_s": 20}, progress_callback=hear
        )
    times = [done for done, _ in heard]
    assert {message for _, message in heard[1:]} == {"downloading 3 of 93 MB"} and times == sorted(
        times
    )


async def test_a_client_that_does_not_ask_and_a_quick_call_are_left_alone(state: AppState) -> None:
    heard: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with Client(build_server(state=state)) as client:
        assert not (await client.call_tool("job_status", {})).is_error
        assert not (await client.call_tool("job_status", {}, progress_callback=hear)).is_error
    assert heard == []
