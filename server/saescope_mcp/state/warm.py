"""Imports where they keep nobody waiting: in a thread, once, and out of the garbage collector's
rounds.

An import on the event loop holds up every client. So does a full collection in any thread (0.3 s
with torch in memory), and Python starts one whenever a quarter more objects live than before; what
`gc.freeze` has put aside is not looked at again.
"""

import gc
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module

MODULES = (
    *("saescope.attribution", "saescope.embedded", "saescope.evals", "saescope.features"),
    *("saescope.features.index", "saescope.graphs", "saescope.load", "saescope.models"),
    *("saescope.origin", "saescope.saes.sparsity", "saescope.sets", "saescope.sinks"),
    *("saescope.splice", "saescope.steering"),
)
"""What the tools import on the event loop once an SAE is loaded."""
_turn = threading.Lock()


def warm() -> None:
    """Import what calls compute with."""
    with put_aside():
        for name in MODULES:
            import_module(name)


@contextmanager
def put_aside() -> Generator[None]:
    """What the block imports is collected neither meanwhile nor later, if it is the first to import
    torch.

    Later no object may be put aside: a model that is let go of would stay in memory.
    """
    with _turn:
        if "torch" in sys.modules:
            yield
            return
        gc.disable()
        try:
            yield
            gc.freeze()
        finally:
            gc.enable()
