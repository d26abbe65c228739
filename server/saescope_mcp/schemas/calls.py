"""Calls of tools as text."""

import json


def next_call(tool: str, **arguments: object) -> str:
    """Write a call as one would: `tool(name="...", k=3)`."""
    given = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return f"{tool}({', '.join(given)})"
