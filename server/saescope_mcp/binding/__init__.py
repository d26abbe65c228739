"""Binds a plain function of state and request as a tool: strict arguments, one place for errors,
compact documents. It knows no SAE, and no tool by name."""

from saescope_mcp.binding.call import Link, Outcome, State, Tool
from saescope_mcp.binding.document import document
from saescope_mcp.binding.error_document import what_is_wrong
from saescope_mcp.binding.kept import kept_document, nothing
from saescope_mcp.binding.refusal import refusal
from saescope_mcp.binding.server import Server, bind
from saescope_mcp.binding.wording import PLAIN, Wording
from saescope_mcp.schemas.common import next_call

__all__ = [
    "PLAIN",
    "Link",
    "Outcome",
    "Server",
    "State",
    "Tool",
    "Wording",
    "bind",
    "document",
    "kept_document",
    "next_call",
    "nothing",
    "refusal",
    "what_is_wrong",
]
