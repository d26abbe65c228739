"""A tool is a plain function of state and request, and one line of data; what is common to all
calls happens here, once."""

from saescope_mcp.tool.call import Link, Outcome, Tool
from saescope_mcp.tool.document import document, next_call
from saescope_mcp.tool.refusal import refusal
from saescope_mcp.tool.server import Server, bind

__all__ = ["Link", "Outcome", "Server", "Tool", "bind", "document", "next_call", "refusal"]
