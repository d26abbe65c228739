"""A process of its own in which torch cannot be imported: prints the tools, as JSON, whose first
call tries to import it on the event loop, or where the garbage collector will search it."""

import gc
import json
import sys
import threading
from importlib.abc import MetaPathFinder
from typing import Any

import anyio

from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState


class NoTorch(MetaPathFinder):
    """Refuses torch, and notes whose call asked for it on the main thread or without `put_aside`,
    which turns the collector off."""

    def __init__(self) -> None:
        self.tool, self.held_up = "", set[str]()

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "torch":
            if threading.current_thread() is threading.main_thread() or gc.isenabled():
                self.held_up.add(self.tool)
            raise ImportError("no torch in this process")


CLAIM: dict[str, Any] = {
    **{"text": "It fires.", "feature": 3, "effect": " sea", "direction": "fires"},
    **{"level": "seen", "results": ["0123456789ab"]},
}


def calls_of(sae: str, model: str) -> list[tuple[str, dict[str, Any]]]:
    """A call of each tool, on a handle that is not in memory."""
    site = "blocks.1.hook_resid_post"
    one = {"sae": sae, "feature": 3}
    edits = [{"feature": 3, "mode": "ablate"}]
    return [
        ("find_saes", {"query": "gemma"}),
        ("load_sae", {"path": sae, "model": model}),
        ("load_sae", {"path": sae, "model": model, "layers": "0-1", "dry_run": True}),
        ("unload", {"handle": sae}),
        ("server_status", {}),
        ("job_status", {}),
        ("cancel_job", {"job": "train-1"}),
        ("encode_text", {"sae": sae, "text": "The sea"}),
        ("top_features", {"sae": sae, "text": "The sea"}),
        ("attribute_logit", {"sae": sae, "prompt": "The sea"}),
        ("trace_circuit", {"sae": sae, "prompt": "The sea", "groups": ["a: 1"]}),
        ("compare_prompts", {"sae": sae, "a": "The sea", "b": "The man"}),
        ("intervene", {"sae": sae, "prompt": "The sea", "edits": edits}),
        ("steer_generate", {"sae": sae, "prompt": "The sea", "features": [{"feature": 3}]}),
        ("steer_search", {"sae": sae, "features": [{"feature": 3}], "concept": [" sea"]}),
        ("index_features", {"sae": sae, "dataset": model}),
        ("describe_feature", one),
        ("find_features", {"sae": sae, "texts": ["a"], "against": ["b"]}),
        ("quiz_feature", one),
        ("label_feature", {**one, "label": "the sea"}),
        ("train_sae", {"model": model, "dataset": model, "hook_name": site, "layers": "0-1"}),
        ("evaluate_sae", {"sae": sae}),
        ("publish_sae", {"sae": sae, "repo_id": "a/b"}),
        ("claim", CLAIM),
        ("export_report", {"path": model, "results": ["0123456789ab"]}),
        ("results", {"text": "The sea"}),
        ("results", {"result_id": "0123456789ab"}),
    ]


async def main(sae: str, model: str) -> None:
    state, watch = AppState(Settings.from_env()), NoTorch()
    tools = {tool.name: tool for tool in ALL_TOOLS}
    sys.meta_path.insert(0, watch)
    calls = calls_of(sae, model)
    assert {name for name, _ in calls} == tools.keys()
    for name, arguments in calls:
        watch.tool = name
        await tools[name].call(state, arguments)
    sys.stdout.write(json.dumps(sorted(watch.held_up)))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
