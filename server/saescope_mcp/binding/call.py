"""One call: strict arguments in, a document out, whatever happens."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

from mcp.types import ToolAnnotations

from saescope.notices import collected
from saescope_mcp.binding.document import Document, compact, in_short
from saescope_mcp.binding.error_document import refusal_text
from saescope_mcp.binding.kept import Keeper, Keeps, kept_document, whole
from saescope_mcp.binding.refusal import refusal
from saescope_mcp.binding.wording import PLAIN, Wording
from saescope_mcp.groups import Group, Offer
from saescope_mcp.jobs import CURRENT, Current, Jobs
from saescope_mcp.schemas.common import Reply, Request
from saescope_mcp.settings import Settings

log = logging.getLogger("saescope")


class Link(NamedTuple):
    """A resource that a result names."""

    name: str
    uri: str
    mime_type: str


class Outcome(NamedTuple):
    """What a call came to: a result, or a refusal."""

    document: Document
    is_error: bool
    concise: type[Reply] | None = None
    """The kind of a concise reply; None: the document is sent as a whole."""

    @property
    def sent(self) -> Document:
        """What the client gets."""
        return in_short(self.document, self.concise) if self.concise else self.document

    @property
    def text(self) -> str:
        return refusal_text(self.document) if self.is_error else compact(self.sent)


@runtime_checkable
class State(Protocol):
    """What the binder asks of a server's state; all else is between the state and its tools."""

    @property
    def settings(self) -> Settings: ...

    @property
    def jobs(self) -> Jobs: ...

    @property
    def offer(self) -> Offer: ...

    @property
    def keeper(self) -> Keeper: ...

    def address_of(self, result_id: str) -> str: ...


async def _nothing(state: Any, request: Any) -> None:
    """A tool that needs nothing before its call."""


@dataclass(frozen=True)
class Tool:
    """A function of state and request; its name and docstring are the tool's."""

    function: Callable[[Any, Any], Awaitable[Reply]]
    request: type[Request]
    annotations: ToolAnnotations
    group: Group | None = None
    """None: a tool that is offered only while one of a group is switched off."""
    app: str = ""
    """The `ui://` resource that shows its results, for clients with MCP Apps."""
    links: Callable[[Document], list[Link]] = field(default=lambda document: [])
    """Resources that a result names, as blocks beside it."""
    wording: Wording = PLAIN
    """The words of its errors and warnings."""
    prepare: Callable[[Any, Any], Awaitable[None]] = _nothing
    """What is done with state and request before the function is called."""
    keeps: Keeps = whole
    """What the ledger keeps of a result."""

    @cached_property
    def name(self) -> str:
        return self.function.__name__

    @cached_property
    def description(self) -> str:
        return " ".join((self.function.__doc__ or "").split())

    @cached_property
    def reply(self) -> type[Reply]:
        return self.function.__annotations__["return"]

    async def call(self, state: State, arguments: Mapping[str, Any]) -> Outcome:
        """Answer the call; nothing is raised but a cancel."""
        started, settings = time.monotonic(), state.settings
        CURRENT.set(Current(self.name))
        with collected() as told:
            try:
                request = self.request.model_validate(
                    dict(arguments), context={"settings": settings}
                )
                await self.prepare(state, request)
                reply = await self.function(state, request)
                warnings = [self.wording.text(warning) for warning in (*reply.warnings, *told)]
                told_next = state.offer.reached(reply.next)
                reply = reply.model_copy(update={"warnings": warnings, "next": told_next})
                outcome = Outcome(
                    await kept_document(
                        state, reply, tool=self.name, request=request, keeps=self.keeps
                    ),
                    is_error=False,
                    concise=None if request.response_format == "detailed" else type(reply),
                )
            except (Exception, SystemExit) as error:
                for message in told:
                    log.warning("%s", message)
                refused = refusal(self.name, error, self.request, wording=self.wording)
                hint = state.offer.reached_by(refused["hint"])
                outcome = Outcome({**refused, "hint": hint}, is_error=True)
        what, taken = outcome.document.get("code", "done"), time.monotonic() - started
        log.info("%s %s in %.2f s", self.name, what, taken)
        return outcome
