"""Chat templates are programs that came with a model: they may be cancelled, and end after a time.

Jinja's sandbox bounds one `range`, not a loop within a loop.
"""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from saescope.cancel import checkpoint

TEMPLATE_S = 2.0
"""Of computing: the longest of published templates takes some milliseconds for a message."""
_FILENAME = "<template>"
"""Jinja's name for what it compiles from a string."""


@contextmanager
def bounded_template(seconds: float = TEMPLATE_S) -> Generator[None]:
    """A template that this thread renders in the block ends with an error at its next line once it is cancelled or computes for too long.

    Raises:
        RuntimeError: it took too long.
    """
    end, before = time.thread_time() + seconds, sys.gettrace()

    def at_line(frame: FrameType, event: str, arg: Any) -> Any:
        checkpoint()
        if time.thread_time() > end:
            raise RuntimeError(f"it computes for more than {seconds:g} s")
        return at_line

    def at_call(frame: FrameType, event: str, arg: Any) -> Any:
        return at_line if frame.f_code.co_filename == _FILENAME else None

    sys.settrace(at_call)
    try:
        yield
    finally:
        sys.settrace(before)
