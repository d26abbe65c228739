"""What long work tells its caller on the way: four callbacks, each of one type."""

import re
from collections.abc import Callable
from typing import TypeVar

_Record = TypeVar("_Record")
_SHARE = re.compile(r"(\d+)%")

Progress = Callable[[int, int], None]
"""Called with the number of units done and the number wanted."""

Advance = Callable[[int], None]
"""Called with the number of units done since the last call."""

Say = Callable[[str], None]
"""Called with a phrase for people on what is being done now ("loading gpt2")."""

Report = Callable[[_Record], None]
"""Called with a record of how far a run is: `Report[TrainingProgress]`, `Report[IndexProgress]`."""


def counting(progress: Progress | None, n_all: int, *, n_before: int = 0) -> Advance:
    """Tell `progress` how much of `n_all` units is done in all, each time that some are; `n_before`
    were done before."""
    n_done = n_before

    def done(n: int) -> None:
        nonlocal n_done
        n_done += n
        if progress is not None:
            progress(n_done, n_all)

    return done


NOBODY: Advance = counting(None, 0)
"""The `Advance` of a caller that wants to hear nothing."""


def silent(message: str) -> None:
    """The `Say` of a caller that wants to hear nothing."""


def sparing(say: Say) -> Say:
    """Says what is new, and of a share that grows every quarter: a log keeps each line."""
    last = ""

    def say_it(message: str) -> None:
        nonlocal last
        rough = _SHARE.sub(lambda found: str(int(found[1]) // 25), message)
        if rough != last:
            last = rough
            say(message)

    return say_it


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
