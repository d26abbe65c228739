"""A process of its own: sixteen callers of one server, and what kept its event loop longest, in CPU
seconds; prints them as JSON.

Wall time tells how busy the machine is; what one callback, or one round of the garbage collector in
whatever thread, computes while nothing else can run is the server's own doing.
"""

import gc
import json
import os
import sys
import threading
import time
from asyncio import Handle
from typing import Any

import anyio

from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

CALLERS, ROUNDS = 16, 3
TEXT = "The old man went to the sea and the King said no. "


def calls_of(sae: str, result_id: str, reports: str) -> list[tuple[str, dict[str, Any]]]:
    edits = [{"feature": 3}]
    said = {"text": "It fires.", "feature": 3, "effect": " sea", "direction": "fires"}
    return [
        ("top_features", {"sae": sae, "text": TEXT}),
        ("encode_text", {"sae": sae, "text": TEXT, "response_format": "detailed"}),
        ("attribute_logit", {"sae": sae, "prompt": TEXT}),
        ("intervene", {"sae": sae, "prompt": TEXT, "edits": [{"feature": 3, "mode": "ablate"}]}),
        ("steer_generate", {"sae": sae, "prompt": TEXT, "features": edits, "max_new_tokens": 4}),
        ("describe_feature", {"sae": sae, "feature": 100}),
        ("find_features", {"sae": sae, "texts": [TEXT, "She " + TEXT], "against": ["No.", "Yes."]}),
        ("find_saes", {"query": "gemma"}),
        ("trace_circuit", {"sae": sae, "prompt": TEXT, "prove": False}),
        ("server_status", {}),
        ("top_features", {"sae": sae, "text": 7}),
        ("results", {"result_id": result_id}),
        ("claim", {"sae": sae, **said, "level": "seen", "results": [result_id]}),
        ("export_report", {"path": os.path.join(reports, "report"), "results": [result_id]}),
    ]  # fmt: skip


class Watch:
    """The longest callbacks and collections so far."""

    def __init__(self) -> None:
        self.callbacks: list[tuple[float, str]] = []
        self.collections: list[float] = []
        self._began = threading.local()
        run = Handle._run

        def timed(handle: Any) -> None:
            began = time.thread_time()
            run(handle)
            self.callbacks.append((time.thread_time() - began, repr(handle)[:300]))

        Handle._run = timed  # pyright: ignore[reportAttributeAccessIssue]
        gc.callbacks.append(self._collecting)

    def _collecting(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began.at = time.thread_time()
        else:
            self.collections.append(time.thread_time() - self._began.at)


async def main(path: str, model: str) -> None:
    state = AppState(Settings.from_env())
    tools = {tool.name: tool for tool in ALL_TOOLS}

    async def call(name: str, arguments: dict[str, Any]) -> Any:
        return (await tools[name].call(state, arguments)).document

    watch, loaded = Watch(), {}
    await anyio.sleep(0)  # a callback that began before the watch is not timed
    while loaded.get("state") != "done":
        loaded = await call("load_sae", {"path": path, "model": model})
    shown = await call("top_features", {"sae": loaded["sae"], "text": TEXT})
    calls = calls_of(loaded["sae"], shown["result_id"], os.environ["SAESCOPE_WRITE_ROOTS"])

    async def caller(first: int) -> None:
        for i in range(first, first + ROUNDS):
            await call(*calls[i % len(calls)])

    async with anyio.create_task_group() as group:
        for number in range(CALLERS):
            group.start_soon(caller, number)
    longest, what = max(watch.callbacks)
    found = {"callback_s": longest, "what": what, "n": len(watch.callbacks)}
    sys.stdout.write(json.dumps({**found, "gc_s": max(watch.collections)}))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
