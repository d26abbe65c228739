"""A resource is a plain function of state and the variables of its URI, and one line of data."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError

from saescope.errors import NotFoundError, SaescopeError
from saescope_mcp.binding import Outcome
from saescope_mcp.replies import refusal
from saescope_mcp.state import AppState

Content = str | bytes


@dataclass(frozen=True)
class Resource:
    """What is read under a URI; the function's docstring is its description."""

    function: Callable[..., Awaitable[Content]]
    uri: str
    """A template (RFC 6570) where it has variables: they are the function's parameters after the
    state."""
    title: str
    mime_type: str = "application/json"

    @property
    def description(self) -> str:
        return " ".join((self.function.__doc__ or "").split())


def register(server: MCPServer[Any], resource: Resource, state: AppState) -> None:
    """Let `server` answer for this resource."""
    name = resource.function.__name__
    publish = server.resource(
        resource.uri,
        name=name,
        title=resource.title,
        description=resource.description,
        mime_type=resource.mime_type,
    )
    publish(_bound(resource.function, state))


def _bound(
    function: Callable[..., Awaitable[Content]], state: AppState
) -> Callable[..., Awaitable[Content]]:
    """The function without its first parameter; the SDK reads the others off its signature."""

    async def read(**variables: Any) -> Content:
        try:
            return await function(state, **variables)
        except SaescopeError as error:
            text = Outcome(dict(refusal("resources/read", error)), is_error=True).text
            raise (ResourceNotFoundError if isinstance(error, NotFoundError) else ResourceError)(
                text
            ) from error

    signature = inspect.signature(function)
    variables = [*signature.parameters.values()][1:]
    vars(read)["__signature__"] = signature.replace(parameters=variables)
    read.__annotations__ = {variable.name: variable.annotation for variable in variables}
    return read
