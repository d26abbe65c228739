"""What the ledger keeps of a call: the one place where a reply gets its id and is kept."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from saescope.ledger import KeptEntry
from saescope_mcp.binding.document import Document, Result
from saescope_mcp.schemas.common import Reply, Request
from saescope_mcp.settings import Settings

UNFINISHED = ("running", "queued")
"""States of a reply that is not yet a result."""
Keeps = Callable[[KeptEntry], KeptEntry | None]
"""What is kept of a result; None: nothing."""


@runtime_checkable
class Keeper(Protocol):
    """Keeps results; it never makes a call fail or wait for long."""

    async def keep(self, entry: KeptEntry) -> list[str]:
        """Warnings, where it cannot."""
        ...


@runtime_checkable
class Keeping(Protocol):
    """What is asked of a server's state here."""

    @property
    def settings(self) -> Settings: ...

    @property
    def keeper(self) -> Keeper: ...

    def address_of(self, result_id: str) -> str:
        """Where a person sees a kept result; empty: nowhere."""
        ...


def whole(entry: KeptEntry) -> KeptEntry | None:
    """All of the result."""
    return entry


def nothing(entry: KeptEntry) -> KeptEntry | None:
    """Nothing: the result says what is so at this moment, or may not be seen twice."""
    return None


async def kept_document(
    state: Keeping, reply: Reply, *, tool: str, request: Request, keeps: Keeps = whole
) -> Document:
    """The document of a reply, within the token budget, once the reply is on its way into the
    ledger.

    Raises:
        NumericError: a number in it is not finite.
    """
    result = Result(tool, request, reply)
    kept = keeps(result.entry)
    result_id = (kept or result.entry).result_id
    unkept = kept is None or result.whole.get("state") in UNFINISHED
    url = "" if unkept else state.address_of(result_id)
    done = result.told(state.settings.max_result_tokens, result_id=result_id, url=url)
    if kept is None or unkept:
        return done
    return done | {"warnings": [*done["warnings"], *await state.keeper.keep(kept)]}
