"""Count the functions and files of ours that one call passes through, from the tool's arguments to
the number and back.

    python scripts/count_hops.py attribute_logit  # or encode_text, steer_generate ...

Prints what was passed, in order, and then the longest nesting: the functions that wait for each
other when the innermost one is entered.

Functions that run in the tool's thread and in its event loop count; a function counts once, however
often it is called. Of the nesting, what the call awaits in the event loop comes first, then what
stands on the stack of its thread.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CoroutineType, FrameType
from typing import Any

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


Function = tuple[str, str]
"""The file of one of our functions, and its name."""


class Hops:
    """Every function of ours that a thread enters while this is on, in the order of its first call,
    and the deepest nesting of them."""

    def __init__(self) -> None:
        self.passed: dict[Function, None] = {}
        self.nested: list[Function] = []
        self.call: asyncio.Task[Any] | None = None
        """What is counted; None while nothing is."""

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or self.call is None or not (here := _ours(frame)):
            return
        self.passed[here] = None
        on_stack = [*filter(None, map(_ours, _callers(frame)))]
        if threading.current_thread() is not threading.main_thread():
            on_stack += filter(None, map(_ours, _awaiting(self.call)))
        if len(on_stack) > len(self.nested):
            self.nested = on_stack

    def watch(self) -> None:
        """This thread and every later one: a tool's thread is started by its first call."""
        threading.setprofile(self)
        sys.setprofile(self)


def _ours(frame: FrameType) -> Function | None:
    code = frame.f_code
    # Comprehensions and lambdas are part of the function that holds them.
    is_ours = code.co_filename.startswith(OURS) and code.co_name[0] != "<"
    return (code.co_filename, code.co_qualname) if is_ours else None


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    """The frame and those that wait for it on its thread's stack, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _awaiting(call: "asyncio.Task[Any]") -> list[FrameType]:
    """The frames of the coroutines that wait in the event loop, innermost first."""
    frames, coroutine = list[FrameType](), call.get_coro()
    while isinstance(coroutine, CoroutineType) and coroutine.cr_frame:
        frames.insert(0, coroutine.cr_frame)
        coroutine = coroutine.cr_await
    return frames


async def count(name: str) -> Hops:
    """What a second call passes: the first has imported, compiled and cached."""
    from tests.server.helpers import save_random_sae

    from saescope.features import LabelStore
    from saescope_mcp.app import ALL_TOOLS
    from saescope_mcp.settings import Settings
    from saescope_mcp.state import AppState

    hops = Hops()
    hops.watch()
    tools = {tool.name: tool for tool in ALL_TOOLS}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAESCOPE_HOME"] = str(Path(folder, "home"))
        # A home as it is after some use: there are labels, of another SAE.
        LabelStore().add("0" * 64, 0, "a label", source="you")
        model, sae = ROOT / "tests/data/glassllm-en", save_random_sae(Path(folder, "sae"))
        state = AppState(Settings(read_roots=(model, sae), offline=True))
        try:
            where = {"path": str(sae), "model": str(model)}
            while not state.saes:
                await tools["load_sae"].call(state, where)
            arguments = CALLS[name] | {"sae": next(iter(state.saes))}
            await tools[name].call(state, arguments)
            hops.call = asyncio.create_task(tools[name].call(state, arguments))
            done = await hops.call
            hops.call = None
            assert not done.is_error, done.text
            return hops
        finally:
            sys.setprofile(None)
            state.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tool", nargs="?", default="attribute_logit", choices=sorted(CALLS))
    sys.path.insert(0, str(ROOT))
    hops = asyncio.run(count(parser.parse_args().tool))
    shown("functions", list(hops.passed))
    print()
    shown("functions nested", hops.nested[::-1])


def shown(what: str, functions: list[Function]) -> None:
    for file, function in functions:
        print(f"{Path(file).relative_to(ROOT)}  {function}")
    print(f"{len(functions)} {what} in {len({file for file, _ in functions})} files")


if __name__ == "__main__":
    main()
