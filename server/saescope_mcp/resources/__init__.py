"""What a client may read beside calling tools: a feature's page, and the app that shows describe_feature's results."""

from saescope_mcp.resources.pages import apps, serve_pages

__all__ = ["apps", "serve_pages"]
