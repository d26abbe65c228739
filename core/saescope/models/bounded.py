"""Chat templates are programs that came with a model: they may be cancelled, end after a time, and
make nothing huge.

Jinja's sandbox bounds one `range`, not a loop within a loop, nor a power or a repeated text, which
are one step each.
"""

import re
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache
from types import BuiltinMethodType, FrameType
from typing import Any

from saescope.cancel import stop_if_cancelled

TEMPLATE_S = 2.0
"""Seconds of computing: the longest of published templates takes some milliseconds for a
message."""
MOST = 1_000_000
"""Characters of a text, entries of a list or bits of a number that one step of a template may
make."""
_WIDE = re.compile(r"%[^a-zA-Z%]*(?:\*|\d{6})")
"""A width in a format: of six digits, or taken from the values."""
_FIELD = re.compile(r"\{[^{}]*(?:\{|\d{6})")
_FILENAME = "<template>"
"""Jinja's name for what it compiles from a string."""


@contextmanager
def bounded_template(seconds: float = TEMPLATE_S) -> Generator[None]:
    """A template that this thread renders in the block ends with an error at its next line once it
    is cancelled or computes for too long.

    Raises:
        RuntimeError: it took too long.
    """
    end, before = time.thread_time() + seconds, sys.gettrace()

    def at_line(frame: FrameType, event: str, arg: Any) -> Any:
        stop_if_cancelled()
        if time.thread_time() > end:
            raise RuntimeError(f"it computes for more than {seconds:g} s")
        return at_line

    def at_call(frame: FrameType, event: str, arg: Any) -> Any:
        return at_line if frame.f_code.co_filename == _FILENAME else None

    _bound_steps()
    sys.settrace(at_call)
    try:
        yield
    finally:
        sys.settrace(before)


@cache
def _bound_steps() -> None:
    """Make transformers compile templates for a sandbox in which no single step makes something
    huge."""
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from transformers.utils import chat_template_utils as compiler

    huge = SecurityError(f"one step of it would make more than {MOST} characters")

    class Bounded(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if _size(operator, left, right) > MOST:
                raise huge
            return super().call_binop(context, operator, left, right)

        def call(self, *args: Any, **kwargs: Any) -> Any:
            """The context, what is called, and its arguments: `"x".center(n)` makes n
            characters."""
            given = (*args[2:], *kwargs.values())
            large = any(isinstance(value, int) and abs(value) > MOST for value in given)
            if large and isinstance(args[1], BuiltinMethodType):
                raise huge
            return super().call(*args, **kwargs)

        def wrap_str_format(self, value: Any) -> Any:
            if isinstance(text := getattr(value, "__self__", None), str) and _FIELD.search(text):
                raise huge
            return super().wrap_str_format(value)

    # Its own compilation, cached by the template's text, asks for this name.
    setattr(compiler, "ImmutableSandboxedEnvironment", Bounded)  # noqa: B010


def _size(operator: str, left: Any, right: Any) -> int:
    """How much the result takes at most, as far as it can be large: characters, entries or bits."""
    if operator == "%":
        return MOST + 1 if isinstance(left, str) and _WIDE.search(left) else 0
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        return bits * abs(right) if operator == "**" else bits + right.bit_length()
    for one, other in ((left, right), (right, left)):
        if isinstance(one, Sequence) and isinstance(other, int):
            return len(one) * max(other, 0)
    return 0
