"""The binder in this server's words: errors and warnings name the calls of its tools."""

from dataclasses import dataclass

from pydantic import BaseModel

from saescope_mcp import binding
from saescope_mcp.replies.steps import as_tools_say, next_step

WORDING = binding.Wording(
    text=as_tools_say,
    next_step=next_step,
    # The library says "saes" where each feature of a call may name its own.
    arguments={"text": "prompt", "saes": "sae"},
    out_of_memory="Call unload on what is not needed, or use a shorter text.",
    still_works="Other calls still work: server_status().",
    at_a_loss="Call server_status() to see what is loaded and set.",
)


@dataclass(frozen=True)
class Tool(binding.Tool):
    """A tool whose errors and warnings say what to call in the words of the tools."""

    wording: binding.Wording = WORDING


def refusal(
    tool: str, error: Exception | SystemExit, request: type[BaseModel] | None = None
) -> dict[str, str]:
    """What to send instead of a result, in the words of the tools."""
    return binding.refusal(tool, error, request, wording=WORDING)
