"""The results of tools as an MCP App, drawn by the scripts that draw them in the window."""

from saescope.render.feature_page import app_page

_SCRIPTS = ("parts.js", "chart.js", "results.js", "app_result.js", "app_host.js")


def result_app() -> str:
    """The page without data, for the `ui://` resource of MCP Apps (2026-01-26): mime type
    `text/html;profile=mcp-app`.

    The host hands it the tool's result (`ui/notifications/tool-result`), of which it shows
    `structuredContent`: a prediction, an edit, steered texts, a claim. The curves of a training it
    asks for through the host (`tools/call`), again and again while the run goes on.
    """
    return app_page("Result", _SCRIPTS, ("page.css", "parts.css"))
