"""Who calls: what tells one client of a server from another."""

from typing import Any

SESSION = "mcp-session-id"


def client_of(context: Any) -> str:
    """The client's session; in the protocol without sessions, its address and the name that it
    gives itself; empty on stdio, where there is one client.

    It parts turns and handles among those who are let in; it is no proof of who they are.
    """
    if context is None or (headers := context.headers) is None:
        return ""
    if session := headers.get(SESSION):
        return str(session)
    caller = context.request_context.request.client
    said = context.session.client_params
    name = f"{said.client_info.name} {said.client_info.version}" if said else ""
    return f"{caller.host if caller else ''} {name}"
