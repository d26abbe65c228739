"""Our tools in the SDK's clothes: published schemas, raw arguments past the SDK's lenient
validation, error results with structure."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

from mcp.server import MCPServer
from mcp.server.lowlevel import NotificationOptions
from mcp.server.mcpserver.tools import Tool as SDKTool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp.types import INVALID_PARAMS, CallToolResult, JSONRPCError, ResourceLink, TextContent
from mcp.types import Tool as ListedTool
from pydantic import PrivateAttr

from saescope.names import nearest
from saescope_mcp.binding.call import Link, Outcome, State, Tool
from saescope_mcp.binding.client import client_of
from saescope_mcp.binding.progress import reported
from saescope_mcp.binding.published import input_schema, listed_schema
from saescope_mcp.binding.refusal import switched_off, unknown_tool
from saescope_mcp.binding.wire import Lines, private_stdin
from saescope_mcp.groups import Offer
from saescope_mcp.jobs import CLIENT


class BoundTool(SDKTool):
    """A tool together with the state that it works on."""

    _tool: Tool = PrivateAttr()
    _state: State = PrivateAttr()

    async def run(
        self, arguments: dict[str, Any], context: Any, convert_result: bool = False
    ) -> CallToolResult:
        CLIENT.set(client_of(context))
        async with reported(context, self._state):
            outcome = await self._tool.call(self._state, arguments)
        return _result(outcome, [] if outcome.is_error else self._tool.links(outcome.document))


def bind(tool: Tool, state: State) -> BoundTool:
    """Make of the tool what the SDK registers."""
    bound = BoundTool(
        fn=tool.function,
        name=tool.name,
        title=tool.annotations.title,
        description=tool.description,
        parameters=input_schema(tool.request, state.settings),
        fn_metadata=FuncMetadata(
            arg_model=ArgModelBase,
            output_schema=listed_schema(tool.reply, state.settings),
        ),
        is_async=True,
        context_kwarg=None,
        annotations=tool.annotations,
        meta={"ui": {"resourceUri": tool.app}} if tool.app else None,
    )
    bound._tool, bound._state = tool, state  # pyright: ignore[reportPrivateUsage]
    return bound


class Server(MCPServer[Any]):
    """A server that answers a tool, a prompt or a prompt's argument that does not exist with an
    error that names the nearest one."""

    def __init__(self, *words: Any, offer: Offer, max_message_bytes: int, **options: Any) -> None:
        super().__init__(*words, **options)
        self.offer = offer
        self.max_message_bytes = max_message_bytes
        # MCPServer has no argument for it: a client of the older protocol is told here that it will
        # hear of a list that has changed.
        low: Any = self._lowlevel_server
        low.create_initialization_options = partial(
            low.create_initialization_options, NotificationOptions(tools_changed=True)
        )

    async def list_tools(self) -> list[ListedTool]:
        """The tools that are switched on."""
        return [tool for tool in await super().list_tools() if self.offer.lists(tool.name)]

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        offer, listed = self.offer, set(self.offer.on)
        offer.wake(name)
        if name in offer.off:
            refused = switched_off(name, offer.groups[name], offer.setting)
            return _result(Outcome(refused, is_error=True))
        known = [tool.name for tool in self._tool_manager.list_tools()]
        if name not in known:
            shown = [tool for tool in known if offer.lists(tool)]
            return _result(Outcome(unknown_tool(name, shown), is_error=True))
        result = await super().call_tool(name, arguments, context)
        if offer.on != listed and context is not None:
            await context.session.send_tool_list_changed()  # to clients of the older protocol
            await context.notify_tools_changed()
        return result

    async def run_stdio_async(self) -> None:
        """Serve on stdin and stdout; every line is answered, whatever it holds."""
        with private_stdin() as wire:
            lines = Lines(wire, max_bytes=self.max_message_bytes)
            async with stdio_server(stdin=cast("Any", lines)) as (read, write):

                async def answer(error: JSONRPCError) -> None:
                    await write.send(SessionMessage(error))

                lines.answer = answer
                low = self._lowlevel_server
                await low.run(read, write, low.create_initialization_options())

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Any = None
    ) -> Any:
        prompts = {
            prompt.name: {argument.name: argument.required for argument in prompt.arguments or []}
            for prompt in await self.list_prompts()
        }
        if name not in prompts:
            raise _invalid("prompt", name, prompts)
        for argument in arguments or {}:
            if argument not in prompts[name]:
                raise _invalid(f"argument of {name}", argument, prompts[name])
        if missing := [
            argument
            for argument, required in prompts[name].items()
            if required and argument not in (arguments or {})
        ]:
            raise MCPError(
                code=INVALID_PARAMS,
                message=f"{name} needs the argument {', '.join(missing)}.",
                data={"name": name},
            )
        result: Any = await super().get_prompt(name, arguments, context)
        for message in result.messages:
            if isinstance(message.content, TextContent):
                message.content.text = self.offer.reached_in(message.content.text)
        return result


def _invalid(what: str, name: str, known: Iterable[str]) -> MCPError:
    close, there = nearest(name, known, 1), ", ".join(known)
    hint = f" Nearest: {close[0]}." if close else ""
    return MCPError(
        code=INVALID_PARAMS,
        message=f"There is no {what} {name!r} (there are: {there}).{hint}",
        data={"name": name},
    )


def _result(outcome: Outcome, links: Sequence[Link] = ()) -> CallToolResult:
    blocks = [
        ResourceLink(type="resource_link", name=link.name, uri=link.uri, mime_type=link.mime_type)
        for link in links
    ]
    return CallToolResult(
        content=[TextContent(type="text", text=outcome.text), *blocks],
        structured_content=outcome.sent,
        is_error=outcome.is_error,
    )
