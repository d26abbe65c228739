"""What a call must say beside its result, from wherever it is noticed: a file of ours that was damaged, say."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_told: ContextVar[list[str] | None] = ContextVar("saescope_notices", default=None)


@contextmanager
def collected() -> Generator[list[str]]:
    """What is told inside the block, in its threads too if they run in its context."""
    told = list[str]()
    token = _told.set(told)
    try:
        yield told
    finally:
        _told.reset(token)


def tell(message: str) -> None:
    """Say this with the result of the call; outside of a call it goes to the log."""
    told = _told.get()
    if told is None:
        logging.getLogger("saescope").warning("%s", message)
    elif message not in told:
        told.append(message)
