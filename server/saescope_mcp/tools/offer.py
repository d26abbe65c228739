"""use_tools, which a server offers while some of its tools are switched off."""

from mcp.types import ToolAnnotations

from saescope.errors import ArgumentError
from saescope_mcp.binding import nothing
from saescope_mcp.replies import Tool
from saescope_mcp.schemas.status import UseTools, UseToolsReply
from saescope_mcp.state import AppState


async def use_tools(state: AppState, request: UseTools) -> UseToolsReply:
    """Switch on tools that this server was started without, by group or by name. It offers them to
    all its clients until it ends; list the tools again, if your client does not."""
    offer, wanted = state.offer, set[str]()
    for word in request.groups:
        try:
            wanted |= offer.meant_by(word)
        except ValueError as error:
            raise ArgumentError(
                str(error), code="GROUP_UNKNOWN", field="groups", got=word
            ) from None
    new = [tool for tool in offer.off if tool in wanted]
    offer.on |= wanted
    done = f"Switched on: {', '.join(new)}." if new else "They were on."
    return UseToolsReply(
        summary=f"{done} {offer.note() or 'All tools are on.'}",
        tools_on=[tool for tool in offer.groups if tool in offer.on],
        tools_off=offer.off,
    )


USE_TOOLS = Tool(
    use_tools,
    UseTools,
    ToolAnnotations(
        title="Switch on tools",
        read_only_hint=False,
        destructive_hint=False,
        idempotent_hint=True,
        open_world_hint=False,
    ),
    keeps=nothing,
)
