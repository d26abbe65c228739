"""Count the functions and files of ours that one call passes through, from the tool's arguments to
the number and back.

    python scripts/count_hops.py attribute_logit  # or encode_text, steer_generate ...

Prints what was passed, in order.

Functions that run in the tool's thread and in its event loop count; a function counts once, however
often it is called.
"""

import argparse
import asyncio
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parent.parent
OURS = (str(ROOT / "core"), str(ROOT / "server"))
CALLS = {
    "attribute_logit": {"prompt": "The old man saw the sea", "n_controls": 2, "k": 3},
    "encode_text": {"text": "The old man saw the sea"},
    "top_features": {"text": "The old man saw the sea"},
    "intervene": {"prompt": "The old man", "edits": [{"feature": 1, "mode": "ablate"}]},
    "steer_generate": {
        "prompt": "The old man",
        "features": [{"feature": 1, "strength": 1.0}],
        "max_new_tokens": 3,
    },
}


class Hops:
    """Every function of ours that a thread enters while this is on, in the order of its first
    call."""

    def __init__(self) -> None:
        self.passed: dict[tuple[str, str], None] = {}
        self.on = False

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        # Comprehensions and lambdas are part of the function that holds them.
        ours = code.co_filename.startswith(OURS) and code.co_name[0] != "<"
        if self.on and event == "call" and ours:
            self.passed[code.co_filename, code.co_qualname] = None

    def watch(self) -> None:
        """This thread and every later one: a tool's thread is started by its first call."""
        threading.setprofile(self)
        sys.setprofile(self)


async def passed(name: str) -> list[tuple[str, str]]:
    """The functions that a second call passes: the first has imported, compiled and cached."""
    from tests.server.helpers import save_random_sae

    from saescope_mcp.app import ALL_TOOLS
    from saescope_mcp.settings import Settings
    from saescope_mcp.state import AppState

    hops = Hops()
    hops.watch()
    tools = {tool.name: tool for tool in ALL_TOOLS}
    with tempfile.TemporaryDirectory() as folder:
        model, sae = ROOT / "tests/data/glassllm-en", save_random_sae(Path(folder, "sae"))
        state = AppState(Settings(read_roots=(model, sae), offline=True))
        try:
            where = {"path": str(sae), "model": str(model)}
            while not state.saes:
                await tools["load_sae"].call(state, where)
            arguments = CALLS[name] | {"sae": next(iter(state.saes))}
            for hops.on in (False, True):
                done = await tools[name].call(state, arguments)
                assert not done.is_error, done.text
            return list(hops.passed)
        finally:
            sys.setprofile(None)
            state.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tool", nargs="?", default="attribute_logit", choices=sorted(CALLS))
    sys.path.insert(0, str(ROOT))
    hops = asyncio.run(passed(parser.parse_args().tool))
    for file, function in hops:
        print(f"{Path(file).relative_to(ROOT)}  {function}")
    print(f"{len(hops)} functions in {len({file for file, _ in hops})} files")


if __name__ == "__main__":
    main()
