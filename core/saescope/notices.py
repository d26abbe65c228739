"""What a call must say beside its result, from wherever it is noticed: a file of ours that was
damaged, say."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar


class _Told(list[str]):
    """What was told so far; closed once the call is over, though work that it started may go on."""

    closed = False


_told: ContextVar[_Told | None] = ContextVar("saescope_notices", default=None)


@contextmanager
def collected() -> Generator[list[str]]:
    """What is told inside the block, in its threads too if they run in its context."""
    told = _Told()
    token = _told.set(told)
    try:
        yield told
    finally:
        told.closed = True
        _told.reset(token)


def tell(message: str) -> None:
    """Say this with the result of the call; outside of a call it goes to the log."""
    told = _told.get()
    if told is None or told.closed:
        logging.getLogger("saescope").warning("%s", message)
    elif message not in told:
        told.append(message)
