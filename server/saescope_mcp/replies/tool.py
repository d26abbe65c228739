"""The binder in this server's words: errors and warnings name the calls of its tools."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from saescope_mcp import binding
from saescope_mcp.replies.steps import as_tools_say, next_step
from saescope_mcp.state import AppState
from saescope_mcp.state.loading import load_known
from saescope_mcp.state.set_loading import load_known_set

RESULT_APP = "ui://saescope/result.html"
"""The app that draws a result by what it has."""
WORDING = binding.Wording(
    text=as_tools_say,
    next_step=next_step,
    # The library says "saes" where each feature of a call may name its own.
    arguments={"text": "prompt", "saes": "sae"},
    out_of_memory="Call unload on what is not needed, or use a shorter text.",
    still_works="Other calls still work: server_status().",
    at_a_loss="Call server_status() to see what is loaded and set.",
)


async def load_named(state: AppState, request: BaseModel) -> None:
    """Load the SAEs that a call names and that are known here, where they are not in memory."""
    given = [getattr(request, name, "") for name in ("sae", "against_sae", "match")]
    for name in ("saes", "also", "handles"):
        given += getattr(request, name, [])
    for handle in dict.fromkeys(given):
        if handle and handle not in state.saes:
            await load_known(state, handle)


async def load_named_set(state: AppState, request: BaseModel) -> None:
    """Load the set that a call names, where it is known here and not in memory."""
    handle = getattr(request, "sae", "")
    if handle and handle not in state.sets:
        await load_known_set(state, handle)


async def load_named_layers(state: AppState, request: BaseModel) -> None:
    """Load what a call names that takes a set as well as SAEs."""
    await load_named_set(state, request)
    if getattr(request, "sae", "") not in state.sets:
        await load_named(state, request)


async def by_itself(state: AppState, request: BaseModel) -> None:
    """A tool that reads by itself what it needs of an SAE that is not in memory."""


@dataclass(frozen=True)
class Tool(binding.Tool):
    """A tool whose errors and warnings say what to call in the words of the tools."""

    wording: binding.Wording = WORDING
    prepare: Callable[[Any, Any], Awaitable[None]] = load_named


def refusal(
    tool: str, error: Exception | SystemExit, request: type[BaseModel] | None = None
) -> dict[str, str]:
    """What to send instead of a result, in the words of the tools."""
    return binding.refusal(tool, error, request, wording=WORDING)
