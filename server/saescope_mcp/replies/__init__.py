"""The vocabulary of results: labels, links, pictures, what replies say alike, and the call that
comes next, by code."""

from saescope_mcp.replies.tool import Tool, refusal

__all__ = ["Tool", "refusal"]
