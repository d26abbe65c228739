"""The vocabulary of results: labels, links, pictures, what replies say alike, and the call that
comes next, by code."""

from saescope_mcp.replies.tool import RESULT_APP, Tool, by_itself, refusal

__all__ = ["RESULT_APP", "Tool", "by_itself", "refusal"]
