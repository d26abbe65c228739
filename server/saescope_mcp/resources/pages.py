"""`sae://feature/<sae>/<feature>` and `sae://graph/<name>` as text/html, and the same as `ui://`
resources for clients with MCP Apps."""

from dataclasses import asdict
from functools import partial

from mcp.server.apps import APP_MIME_TYPE, Apps
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.server.mcpserver.resources import FunctionResource

from saescope.errors import NotFoundError, SaescopeError
from saescope.render.feature_page import feature_app, feature_page
from saescope.render.graph_page import graph_app
from saescope.render.result_page import result_app
from saescope_mcp.binding import Server
from saescope_mcp.binding.error_document import refusal_text
from saescope_mcp.replies import RESULT_APP, refusal
from saescope_mcp.replies.pictures import page_of_graph
from saescope_mcp.state import AppState
from saescope_mcp.tools import circuit
from saescope_mcp.tools.describe import APP_URI, PAGE_URI, card_of

IN_RESOURCE = 6
"""Examples of a page that is read as a resource, which a client may put before its model; the file
of `picture=true` has them all."""


def apps() -> Apps:
    """The MCP Apps extension, with our apps."""
    made = Apps()
    known = (
        (APP_URI, "feature", "A feature's card", feature_app),
        (circuit.APP_URI, "graph", "The circuit of a prediction", graph_app),
        (RESULT_APP, "result", "A prediction, an edit, steered texts, a training", result_app),
    )
    for uri, name, title, app in known:
        made.add_resource(
            FunctionResource(uri=uri, name=name, title=title, mime_type=APP_MIME_TYPE, fn=app)
        )
    return made


def serve_pages(server: Server, state: AppState) -> None:
    """A page is made when it is read, from what is known then."""

    async def page(sae: str, feature: str) -> str:
        try:
            card = await card_of(state, sae, _index(feature), n_examples=IN_RESOURCE)
        except SaescopeError as error:
            kind = ResourceNotFoundError if isinstance(error, NotFoundError) else ResourceError
            raise kind(refusal_text(refusal("describe_feature", error))) from error
        return await state.workers.run(partial(feature_page, asdict(card)))

    async def graph(name: str) -> str:
        try:
            return await state.workers.run(partial(page_of_graph, name))
        except SaescopeError as error:
            raise ResourceNotFoundError(refusal_text(refusal("trace_circuit", error))) from error

    server.resource(
        circuit.PAGE_URI,
        name="graph_page",
        title="A circuit's page",
        description="The whole graph as HTML.",
        mime_type="text/html",
    )(graph)
    uri = PAGE_URI.replace("{sae}", "{+sae}")
    server.resource(
        uri,
        name="feature_page",
        title="A feature's page",
        description="The whole card as HTML.",
        mime_type="text/html",
    )(page)


def _index(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise NotFoundError(
            f"{text!r} is no feature.",
            code="FEATURE_OUT_OF_RANGE",
            field="feature",
            got=text,
            allowed="an index from 0",
        )
    return int(text)
