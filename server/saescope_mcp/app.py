"""`build_server(settings)`: the only module that knows every tool. Imports no torch."""

import logging
import sys
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp.server.mcpserver.prompts import Prompt
from mcp.types import Completion, CompletionArgument, Icon

from saescope import __version__
from saescope_mcp.binding import Server, Tool, bind
from saescope_mcp.completions import complete
from saescope_mcp.prompts import PROMPTS
from saescope_mcp.resources import (
    Resource,
    SkillExtension,
    apps,
    catalogue,
    jobs,
    kept,
    register,
    serve_pages,
    skill_folder,
)
from saescope_mcp.settings import Settings, offered
from saescope_mcp.state import AppState
from saescope_mcp.tools import (
    attribute,
    circuit,
    claim,
    describe,
    evaluate,
    find,
    index,
    load,
    offer,
    pairs,
    publish,
    quiz,
    read,
    report,
    results,
    runs,
    search,
    status,
    steer,
    strength,
    train,
)

ALL_TOOLS: tuple[Tool, ...] = (
    *find.TOOLS,
    *load.TOOLS,
    *status.TOOLS,
    *read.TOOLS,
    *attribute.TOOLS,
    *circuit.TOOLS,
    *steer.TOOLS,
    *index.TOOLS,
    *describe.TOOLS,
    *search.TOOLS,
    *quiz.TOOLS,
    *train.TOOLS,
    *runs.TOOLS,
    *evaluate.TOOLS,
    *strength.TOOLS,
    *pairs.TOOLS,
    *publish.TOOLS,
    *results.TOOLS,
    *claim.TOOLS,
    *report.TOOLS,
)

INSTRUCTIONS = (Path(__file__).parent / "instructions.md").read_text(encoding="utf-8").rstrip()
"""What every client tells its model of this server, before any tool is called."""
ALL_RESOURCES: tuple[Resource, ...] = (*catalogue.RESOURCES, *jobs.RESOURCES, *kept.RESOURCES)

WEBSITE = "https://github.com/saescope/saescope"


def build_server(settings: Settings | None = None, state: AppState | None = None) -> Server:
    """The server with every tool, and a state of its own unless one is given.

    Raises:
        ConfigError: the setting `tools` names what is not there.
    """
    state = state or AppState(settings or Settings())
    groups = {tool.name: tool.group.word for tool in ALL_TOOLS if tool.group}
    state.offer = offered(state.settings.tools, groups)
    log_to_stderr()

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncGenerator[AppState]:
        try:
            yield state
        finally:
            state.close()

    folder = skill_folder()
    server = Server(
        "sae",
        title="saescope",
        version=__version__,
        description="Look inside a language model with sparse autoencoders.",
        website_url=WEBSITE,
        icons=[icon()],
        instructions=f"{INSTRUCTIONS}\n{state.offer.note()}".rstrip(),
        lifespan=lifespan,
        offer=state.offer,
        tools=[bind(tool, state) for tool in (*ALL_TOOLS, offer.USE_TOOLS)],
        extensions=[apps(), *([SkillExtension(folder)] if folder else [])],
        log_level="WARNING",
        max_message_bytes=state.settings.max_message_bytes,
    )
    _add_voice(server, state)
    return server


def _add_voice(server: Server, state: AppState) -> None:
    """Prompts, resources and completions."""
    for prompt in PROMPTS:
        server.add_prompt(
            Prompt.from_function(
                prompt.function,
                title=prompt.title,
                description=" ".join((prompt.function.__doc__ or "").split()),
            )
        )
    for resource in ALL_RESOURCES:
        register(server, resource, state)
    serve_pages(server, state)

    @server.completion()
    async def _(ref: Any, argument: CompletionArgument, context: Any) -> Completion:
        return await complete(state, argument.name, argument.value)


def icon() -> Icon:
    """The icon as a data URI: a client may show it without the network."""
    drawing = (Path(__file__).parent / "icon.svg").read_bytes()
    return Icon(
        src=f"data:image/svg+xml;base64,{b64encode(drawing).decode()}",
        mime_type="image/svg+xml",
        sizes=["any"],
    )


def log_to_stderr() -> None:
    """Plain lines, before the SDK puts a slow, colourful handler in place."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
