"""What a page may ask of the tools: the arguments that the views use, and no other. None of them
names a file, a folder or another machine."""

from collections.abc import Mapping
from typing import Any

from saescope.errors import ArgumentError

_FOUND_BY = ("text", "tool", "sae", "day", "investigation")
_PUT = ("add", "remove", "note")
EVERYWHERE = frozenset({"response_format"})
ASKED: Mapping[str, frozenset[str]] = {
    "job_status": frozenset({"job_id", "wait_s"}),
    "cancel_job": frozenset({"job_id"}),
    "results": frozenset({"result_id", "limit", "offset", *_FOUND_BY, *_PUT}),
    "claim": frozenset(
        {"text", "sae", "feature", "effect", "direction", "level", "against", "results"}
    ),
    "find_features": frozenset({"sae", "query", "tokens", "k", "offset"}),
    "encode_text": frozenset({"sae", "text", "features", "top_k", "limit", "offset"}),
    "attribute_logit": frozenset({"sae", "prompt", "target", "against"}),
    "trace_circuit": frozenset({"sae", "prompt", "targets", "against"}),
    "steer_generate": frozenset(
        {"sae", "prompt", "features", "strengths", "max_new_tokens", "concept_tokens"}
    ),
}
"""Tools with their arguments."""


def check_asked(tool: str, arguments: Mapping[str, Any]) -> None:
    """Raises ArgumentError: no view asks this tool, or asks it that."""
    if tool not in ASKED:
        raise ArgumentError(
            f"The window does not call {tool!r}.",
            code="NOT_FROM_THE_WINDOW",
            field="tool",
            got=tool,
            allowed=", ".join(ASKED),
            hint="Call it from an agent or from the command line.",
        )
    allowed = ASKED[tool] | EVERYWHERE
    if other := next((name for name in arguments if name not in allowed), None):
        raise ArgumentError(
            f"The window does not call {tool} with {other!r}.",
            code="NOT_FROM_THE_WINDOW",
            field=other,
            got=other,
            allowed=", ".join(sorted(allowed)),
            hint="Call it from an agent or from the command line.",
        )
