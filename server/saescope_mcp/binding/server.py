"""Our tools in the SDK's clothes: published schemas, raw arguments past the SDK's lenient
validation, error results with structure."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal, cast

from mcp.server import MCPServer
from mcp.server.mcpserver.tools import Tool as SDKTool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp.types import INVALID_PARAMS, CallToolResult, JSONRPCError, ResourceLink, TextContent
from pydantic import BaseModel, PrivateAttr

from saescope.names import nearest
from saescope_mcp.binding.call import Link, Outcome, State, Tool
from saescope_mcp.binding.document import NOTHING_TO_SAY
from saescope_mcp.binding.progress import reported
from saescope_mcp.binding.refusal import unknown_tool
from saescope_mcp.binding.wire import Lines, private_stdin
from saescope_mcp.schemas.bounds import MARK, publish_bounds
from saescope_mcp.schemas.common import Reply, in_order
from saescope_mcp.settings import Settings


class BoundTool(SDKTool):
    """A tool together with the state that it works on."""

    _tool: Tool = PrivateAttr()
    _state: State = PrivateAttr()

    async def run(
        self, arguments: dict[str, Any], context: Any, convert_result: bool = False
    ) -> CallToolResult:
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
            output_schema=output_schema(tool.reply, state.settings),
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

    def __init__(self, *words: Any, max_message_bytes: int, **options: Any) -> None:
        super().__init__(*words, **options)
        self.max_message_bytes = max_message_bytes

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        known = [tool.name for tool in self._tool_manager.list_tools()]
        if name not in known:
            return _result(Outcome(dict(unknown_tool(name, known)), is_error=True))
        return await super().call_tool(name, arguments, context)

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
        return await super().get_prompt(name, arguments, context)


def _invalid(what: str, name: str, known: Iterable[str]) -> MCPError:
    close, there = nearest(name, known, 1), ", ".join(known)
    hint = f" Nearest: {close[0]}." if close else ""
    return MCPError(
        code=INVALID_PARAMS,
        message=f"There is no {what} {name!r} (there are: {there}).{hint}",
        data={"name": name},
    )


def input_schema(request: type[BaseModel], settings: Settings) -> dict[str, Any]:
    """The request's own schema with the limits in force; what every tool has comes last."""
    schema = dict(_published(request, _limits(settings), "validation"))
    schema.pop("description", None)
    properties = dict(schema["properties"])
    properties["response_format"] = properties.pop("response_format")
    return schema | {"properties": properties}


def output_schema(reply: type[Reply], settings: Settings) -> dict[str, Any]:
    """The reply's own schema; what may be empty is left out of a concise reply."""
    schema = _short(_left_out(_published(reply, _limits(settings), "serialization"), reply.spare))
    properties = in_order(reply, schema["properties"])
    # the same in every reply, and known from any detailed one
    properties["provenance"] = {"type": ["object", "null"]}
    return schema | {"properties": properties}


def _left_out(node: Any, spare: frozenset[str], where: str = "") -> Any:
    """The schema with nothing required that a concise reply goes without."""
    if isinstance(node, list):
        return [_left_out(item, spare, where) for item in node]
    if not isinstance(node, dict):
        return node
    properties = node.get("properties", {})
    done = {key: _left_out(value, spare, where) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and isinstance(node.get("required"), list):
        done["properties"] = {
            name: _left_out(value, spare, f"{where}{name}.") for name, value in properties.items()
        }
        done["required"] = [
            name
            for name in node["required"]
            if not _may_be_empty(properties[name])
            and f"{where}{name}" not in spare
            and name not in NOTHING_TO_SAY
        ]
    return done


def _short(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema without what checks nothing, and with null as one more type: a client takes
    the schemas of all tools at once."""
    kinds = schema.get("anyOf", [])
    if len(kinds) == 2 and kinds[1] == {"type": "null"} and isinstance(kinds[0].get("type"), str):
        schema = kinds[0] | {"type": [kinds[0]["type"], "null"]}
        schema |= {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    done = {name: value for name, value in schema.items() if name not in ("description", "default")}
    if done.get("additionalProperties") is False:
        del done["additionalProperties"]
    if "properties" in done:
        done["properties"] = {name: _short(each) for name, each in done["properties"].items()}
    for name in ("anyOf", "prefixItems"):
        if name in done:
            done[name] = [_short(each) for each in done[name]]
    for name in ("items", "additionalProperties"):
        if isinstance(done.get(name), dict):
            done[name] = _short(done[name])
    return done


def _may_be_empty(schema: dict[str, Any]) -> bool:
    kinds = [schema, *schema.get("anyOf", [])]
    return any(kind.get("type") in ("null", "array", "object") for kind in kinds)


def _limits(settings: Settings) -> Any:
    """What a schema depends on, the folders left out, as a key: pyright does not see that frozen
    settings have a hash."""
    return settings.model_copy(update={"read_roots": (), "write_roots": ()})


@lru_cache(maxsize=256)
def _published(
    model: type[BaseModel], limits: Settings, mode: Literal["validation", "serialization"]
) -> dict[str, Any]:
    return _plain(model.model_json_schema(mode=mode), limits)


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


def _plain(schema: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """A schema without `$ref`s, titles and bounds that nobody meets: clients differ in the first,
    and every word is in every context."""
    definitions = schema.pop("$defs", {})

    def walk(node: Any, is_names: bool = False) -> Any:
        if isinstance(node, str):
            return " ".join(node.split())  # the lines of a docstring
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            target = definitions[node["$ref"].rsplit("/", 1)[-1]]
            return walk({**target, **{key: value for key, value in node.items() if key != "$ref"}})
        node = node if is_names or MARK not in node else publish_bounds(dict(node), settings)
        return {
            key: walk(value, key == "properties" and not is_names)
            for key, value in node.items()
            if is_names or not _idle(key, value)
        }

    return walk(schema)


def _idle(key: str, value: Any) -> bool:
    """What a schema can go without; a text that is too long is refused all the same, and what may
    be left out is empty then."""
    return (
        key in ("title", "maxLength")
        or (key == "maximum" and value >= 2**31 - 1)
        or (key == "default" and value in ("", []))
    )
