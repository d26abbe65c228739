"""Cooperative cancellation: a caller binds an event, long work asks between two steps whether to
stop."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

from saescope.errors import Cancelled

_stop: ContextVar[threading.Event | None] = ContextVar("saescope_stop", default=None)


@contextmanager
def cancellable(event: threading.Event) -> Generator[None]:
    """Work inside the block ends with `Cancelled` at its next `stop_if_cancelled()` once `event`
    is set."""
    token = _stop.set(event)
    try:
        yield
    finally:
        _stop.reset(token)


def stop_if_cancelled() -> None:
    """Raise `Cancelled` if the caller has asked this work to stop.

    Called before every block of a forward pass, chunk of an SAE's work and downloaded part.
    """
    _check(_stop.get())


def bound_stop_if_cancelled() -> Callable[[], None]:
    """`stop_if_cancelled` bound to this work's event, for another thread: the backward pass on a
    GPU runs in one that does not see the context variable."""
    return partial(_check, _stop.get())


def _check(event: threading.Event | None) -> None:
    if event is not None and event.is_set():
        raise Cancelled("The call was cancelled; the model is as before.")
