"""Sixteen callers at once get the answers that one alone gets, and a thousand calls leave no memory
behind."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest
from tests.attack.conftest import Attack
from tests.server.knowing import Bench

from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.state import AppState

TOOLS = {tool.name: tool for tool in ALL_TOOLS}
CALLERS = 16
MOST_GROWTH_BYTES = 24 << 20
"""Over a thousand calls, after a warm-up: a leak of 25 kB a call shows."""


def calls_of(sae: str) -> list[tuple[str, dict[str, Any]]]:
    edit = {"feature": 1, "mode": "ablate"}
    texts = [" King of the sea", "the old man said no", " Queen and King" * 4]
    return [
        *(("top_features", {"sae": sae, "text": text}) for text in texts),
        *(("encode_text", {"sae": sae, "text": text}) for text in texts),
        ("attribute_logit", {"sae": sae, "prompt": texts[0]}),
        ("intervene", {"sae": sae, "prompt": texts[1], "edits": [edit]}),
        ("describe_feature", {"sae": sae, "feature": 1}),
        ("find_features", {"sae": sae, "texts": texts}),
        ("find_saes", {"query": "gemma"}),
        ("top_features", {"sae": sae, "text": 7}),
        ("encode_text", {"sae": "none", "text": "a"}),
    ]


async def answers(state: AppState, calls: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [(await TOOLS[name].call(state, arguments)).text for name, arguments in calls]


async def together(state: AppState, sae: str, attack: Attack, *, n: int) -> None:
    calls = calls_of(sae)
    expected = await answers(state, calls)

    async def caller(number: int) -> None:
        for i in range(n):
            at = attack.rng.randrange(len(calls))
            name, arguments = calls[at]
            with attack.case(f"caller {number}, call {i}: {name}"):
                found = (await TOOLS[name].call(state, arguments)).text
                assert found == expected[at]

    await asyncio.gather(*(caller(number) for number in range(CALLERS)))


def resident_bytes() -> int:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


async def test_sixteen_callers_at_once(attack: Attack, bench: Bench, glass_dir: Path) -> None:
    state, sae = await bench.loaded(glass_dir, indexed=True)
    await together(state, sae, attack, n=3)


@pytest.mark.attack
async def test_sixteen_callers_a_hundred_times(
    attack: Attack, bench: Bench, glass_dir: Path
) -> None:
    state, sae = await bench.loaded(glass_dir, indexed=True)
    await together(state, sae, attack, n=100)


@pytest.mark.attack
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
async def test_a_thousand_calls_leave_no_memory_behind(
    attack: Attack, bench: Bench, glass_dir: Path
) -> None:
    state, sae = await bench.loaded(glass_dir, indexed=True)
    calls = calls_of(sae)
    for _ in range(8):
        await answers(state, calls)
    before = resident_bytes()
    for i in range(1000 // len(calls) + 1):
        with attack.case(f"round {i}"):
            await answers(state, calls)
    with attack.case("memory"):
        grown = resident_bytes() - before
        assert grown < MOST_GROWTH_BYTES, f"{grown / 2**20:.0f} MB more"
