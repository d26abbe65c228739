"""The window: what the tools know, in a browser on this machine. Every number on a page comes from
a call of a tool, by the binding that answers clients, or from the index that the tools read."""

from saescope_mcp.view.app import view_app
from saescope_mcp.view.guard import address_of, new_token
from saescope_mcp.view.running import beside, free_port, serve_view

__all__ = ["address_of", "beside", "free_port", "new_token", "serve_view", "view_app"]
