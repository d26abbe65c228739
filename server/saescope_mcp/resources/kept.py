"""sae://result/<id>: a kept result, whole."""

from saescope_mcp.binding.document import compact
from saescope_mcp.resources.resource import Resource
from saescope_mcp.state import AppState
from saescope_mcp.tools.results import RESULT_URI, brought, whole_document


async def result(state: AppState, result_id: str) -> str:
    """A result of this machine by its result_id: the document as it was, with the call."""
    entry = await brought(state, result_id)
    return compact(
        {
            "result_id": entry.result_id,
            "tool": entry.tool,
            "created": entry.created,
            "arguments": entry.arguments,
            "document": whole_document(entry),
        }
    )


RESOURCES = [Resource(result, RESULT_URI, "A kept result")]
