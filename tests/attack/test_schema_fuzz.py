"""Arguments drawn from the published schemas and beside them, half emojis included: a result or a
coded error, never INTERNAL."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.attack.conftest import Attack
from tests.attack.damage import ODD
from tests.attack.hostile import TEXTS
from tests.server.knowing import Bench
from tests.server.workers import Ended

import saescope_mcp
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.jobs import runs as runs_module
from saescope_mcp.state import AppState

SCHEMAS: dict[str, Any] = json.loads(
    (Path(saescope_mcp.__file__).parent / "tools.json").read_text(encoding="utf-8")
)
TOOLS = {tool.name: tool for tool in ALL_TOOLS if tool.name != "unload"}
LIKELY: dict[str, tuple[Any, ...]] = {
    "model": ("", "smollm2-135m", "../..", "no/such-model"),
    "hook_name": ("blocks.1.hook_resid_post", "blocks.99.hook_z", "hook_embed"),
    "path": ("", "out", "/", "..", "\x00"),
    "dataset": ("embedded", "none.txt", "hf:a/b", "/etc"),
    "feature": (0, 3, -1, 10**9),
    "job_id": ("", "train-000000"),
    "wait_s": (0.0,),
}
"""What is worth trying beside what the schema says."""


def drawn(rng: random.Random, name: str, schema: dict[str, Any], depth: int = 0) -> Any:
    """A value of the schema most of the time, else one beside it."""
    if rng.random() < 0.15:
        return rng.choice([*ODD, *TEXTS])
    if name in LIKELY and rng.random() < 0.7:
        return rng.choice(LIKELY[name])
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "anyOf" in schema:
        return drawn(rng, name, rng.choice(schema["anyOf"]), depth)
    match schema.get("type"):
        case "integer" | "number":
            low, high = schema.get("minimum", -2), schema.get("maximum", 12)
            return rng.choice([low, high, low - 1, high + 1, rng.randint(-3, 12), 0.5])
        case "boolean":
            return rng.random() < 0.5
        case "array":
            items = schema.get("items", {})
            return [drawn(rng, name, items, depth + 1) for _ in range(rng.choice([0, 1, 2, 5]))]
        case "object":
            inner = schema.get("properties", {})
            return {key: drawn(rng, key, value, depth + 1) for key, value in inner.items()}
        case _:
            return rng.choice(["the old man", "King", *TEXTS])


def arguments_of(rng: random.Random, tool: str, sae: str) -> dict[str, Any]:
    schema = SCHEMAS[tool]["inputSchema"]
    properties: dict[str, Any] = schema["properties"]
    required = schema.get("required", [])
    share = rng.choice([0.1, 0.5])
    said = {
        name: drawn(rng, name, inner)
        for name, inner in properties.items()
        if name in required or rng.random() < share
    }
    if "sae" in properties and rng.random() < 0.9:
        said["sae"] = sae
        said.pop("saes", None)  # only one of the two is taken
    if "wait_s" in properties:
        said["wait_s"] = 0.0
    if rng.random() < 0.05:
        said[rng.choice(["", "\ud83d", "_", "sae ", "x" * 300])] = 1
    return said


async def fuzz(state: AppState, sae: str, attack: Attack, *, n: int, tools: list[str]) -> None:
    for name in tools:
        for i in range(n):
            said = arguments_of(attack.rng, name, sae)
            with attack.case(f"{name} {i} {said!r:.400}"):
                outcome = await TOOLS[name].call(state, said)
                assert outcome.document.get("code") != "INTERNAL", outcome.text[:500]
                outcome.text.encode()
                assert len(outcome.text.encode()) < 1.2 * 3 * state.settings.max_result_tokens


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    start: Callable[[str, Path], Ended] = lambda run_id, folder: Ended()  # noqa: E731
    monkeypatch.setattr(runs_module, "start_worker", start)


async def quick_state(bench: Bench, glass_dir: Path) -> tuple[AppState, str]:
    state, sae = await bench.loaded(glass_dir, indexed=True)
    state.settings = state.settings.model_copy(update={"plan_wait_s": 0.0})
    return state, sae


async def test_a_few_odd_calls_of_every_tool(
    attack: Attack, bench: Bench, glass_dir: Path, no_process: None
) -> None:
    state, sae = await quick_state(bench, glass_dir)
    await fuzz(state, sae, attack, n=6, tools=list(TOOLS))


@pytest.mark.attack
@pytest.mark.parametrize("tool", TOOLS)
async def test_odd_calls(
    tool: str, attack: Attack, bench: Bench, glass_dir: Path, no_process: None
) -> None:
    state, sae = await quick_state(bench, glass_dir)
    await fuzz(state, sae, attack, n=150, tools=[tool])
