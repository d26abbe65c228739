"""What long work tells its caller on the way: four callbacks, each of one type."""

from collections.abc import Callable
from typing import TypeVar

_Record = TypeVar("_Record")

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


def silent(message: str) -> None:
    """The `Say` of a caller that wants to hear nothing."""
