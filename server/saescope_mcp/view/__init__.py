"""The window: what the tools know, in a browser on this machine. Every number on a page comes from
a call of a tool, by the binding that answers clients, or from the files that the tools read."""

from saescope_mcp.view.door import Door
from saescope_mcp.view.opening import opened_view
from saescope_mcp.view.running import Served, beside, listening, serve_view

__all__ = ["Door", "Served", "beside", "listening", "opened_view", "serve_view"]
