"""Calls of every tool on the embedded model, cancelled at odd moments: heard within a second, and
the model is exactly as before."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.attack.conftest import Attack

from saescope.models import LanguageModel
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.binding import Tool
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

MOST_S = 1.0
"""Of computing, which is what a quiet machine takes; tests run beside others."""
MOMENTS_S = (0.05, 0.4, 1.0, 2.0, 3.5)
TEXT = "The trial began on a cold morning, and the jury listened to the first witness in silence. "
LONG = 50 * TEXT
"""About a thousand tokens, the most that one text may have."""
EDIT = {"feature": 100, "mode": "ablate"}


def numbered(n: int) -> list[str]:
    """Texts that differ, since a repetition counts once."""
    return [f"{i}. {4 * TEXT}" for i in range(n)]


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("attribute_logit", {"prompt": LONG, "n_controls": 20, "k": 100}),
    ("attribute_logit", {"prompt": LONG, "method": "integrated_gradients"}),
    ("attribute_logit", {"prompt": 12 * TEXT, "method": "direct", "n_controls": 20, "k": 100}),
    ("trace_circuit", {"prompt": 12 * TEXT}),
    ("encode_text", {"texts": [LONG] * 7}),
    ("top_features", {"texts": [LONG] * 7}),
    ("top_features", {"texts": numbered(9), "against": numbered(9), "rank_by": "contrast"}),
    ("intervene", {"prompt": LONG, "edits": [EDIT], "n_controls": 20}),
    (
        "steer_generate",
        {
            "prompt": LONG,
            "features": [{"feature": 100, "strength": 2.0}],
            "n_samples": 4,
            "temperature": 1.0,
            "max_new_tokens": 256,
        },
    ),
    ("compare_prompts", {"a": LONG, "b": f"Then {LONG}"}),
    ("steer_search", {"features": [{"feature": 100}], "concept": [" sea"]}),
    ("find_features", {"texts": numbered(64), "against": numbered(64)}),
    ("find_features", {"query": "courts and judges"}),
    ("describe_feature", {"feature": 100, "picture": True, "n_examples": 30}),
    ("quiz_feature", {"feature": 100, "n": 40}),
    ("evaluate_sae", {"n_tokens": 50_000, "picture": True}),
    ("publish_sae", {"path": "published"}),
    ("export_report", {"check": "report"}),
    ("load_sae", {}),
    ("find_saes", {"query": "gemma"}),
    ("server_status", {}),
]
APART = {"index_features", "train_sae", "cancel_job", "job_status"}
"""Runs in processes of their own outlive their calls: tests/attack/test_kills.py."""
AT_ONCE = {"unload", "label_feature", "results", "claim"}


def tool(name: str) -> Tool:
    return next(each for each in ALL_TOOLS if each.name == name)


@asynccontextmanager
async def loaded(folder: Path) -> AsyncGenerator[tuple[AppState, str]]:
    """A state with the embedded SAE, and its handle."""
    state = AppState(Settings(read_roots=(folder,), write_roots=(folder,), offline=True))
    try:
        while not state.saes:
            assert not (await tool("load_sae").call(state, {"wait_s": 55})).is_error
        yield state, next(iter(state.saes))
    finally:
        state.close()


async def heard(state: AppState, call: tuple[str, dict[str, Any]], *, after_s: float) -> float:
    """Seconds of computing from a cancel until the call has ended and no thread is left at work for
    it."""
    task = asyncio.create_task(tool(call[0]).call(state, call[1]))
    await asyncio.sleep(after_s)
    started = time.process_time()
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        said = task.result()
        assert not said.is_error or said.document["code"] == "CANCELLED", said.text
    for slot in list(state.models.values()):  # a load may end meanwhile
        async with slot.turn():
            pass
    return time.process_time() - started


async def exported(state: AppState, sae: str, folder: Path) -> str:
    """A report of a result that was kept."""
    shown = await tool("top_features").call(state, {"sae": sae, "text": TEXT})
    asked = {"path": str(folder), "results": [shown.document["result_id"]]}
    assert not (await tool("export_report").call(state, asked)).is_error
    return str(folder)


async def left_running() -> bool:
    """Whether a process that this one started is still at work after a second; only Linux tells."""
    for _ in range(10):
        if os.getpid() not in parents():
            return False
        await asyncio.sleep(0.1)
    return True


def parents() -> set[int]:
    """The parent of each process that is at work."""
    found = set[int]()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it may end meanwhile
            state, parent = file.read_text().rpartition(")")[2].split()[:2]
            found |= {int(parent)} if state != "Z" else set()
    return found


def hooks_of(state: AppState) -> int:
    modules = [each for slot in state.models.values() for each in slot.model.bridge.modules()]
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in modules)


def logits_of(state: AppState) -> torch.Tensor:
    model = next(iter(state.models.values())).model
    return model.forward(model.batch(model.tokenize(TEXT).ids))[0]


def test_every_tool_is_cancelled() -> None:
    assert {name for name, _ in CALLS} | APART | AT_ONCE == {each.name for each in ALL_TOOLS}


@pytest.mark.attack
@pytest.mark.model
@pytest.mark.parametrize("call", CALLS, ids=[f"{i}-{name}" for i, (name, _) in enumerate(CALLS)])
async def test_a_cancel_is_heard_within_a_second(
    call: tuple[str, dict[str, Any]], attack: Attack, tmp_path: Path, smollm: LanguageModel
) -> None:
    async with loaded(tmp_path) as (state, sae):
        before, hooks = logits_of(state), hooks_of(state)
        arguments = dict(call[1])
        if "sae" in tool(call[0]).request.model_fields:
            arguments["sae"] = sae
        if "path" in arguments:
            arguments["path"] = str(tmp_path / "published")
        if "check" in arguments:
            arguments["check"] = await exported(state, sae, tmp_path / "report")
        if call[0] == "load_sae":
            assert not (
                await tool("unload").call(state, {"handle": state.saes[sae].slot.handle})
            ).is_error
        for moment in MOMENTS_S:
            after_s = moment * attack.rng.uniform(0.8, 1.2)
            with attack.case(f"{call[0]} after {after_s:.2f} s"):
                seconds = await heard(state, (call[0], arguments), after_s=after_s)
                assert seconds < MOST_S, f"heard after {seconds:.2f} s"
                assert not await left_running(), "a process that it started goes on"
        if state.models:
            with attack.case("the model is as before"):
                assert torch.equal(logits_of(state), before) and hooks_of(state) == hooks
