"""The window's pages and what they ask for."""

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict
from functools import cache, partial
from html import unescape
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import anyio
from starlette.applications import Starlette
from starlette.requests import Request as WebRequest
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from saescope.errors import SaescopeError
from saescope.render.feature_page import asset, feature_page
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.binding import Outcome, Tool
from saescope_mcp.replies import refusal
from saescope_mcp.replies.pictures import page_of_graph
from saescope_mcp.state import AppState
from saescope_mcp.tools.describe import ON_PAGE, card_of
from saescope_mcp.view.guard import guarded
from saescope_mcp.view.known import known_saes, listed_features

if TYPE_CHECKING:
    from jinja2 import Environment

PAGES: Mapping[str, str] = {
    "home": "Home",
    "features": "Features",
    "text": "Text",
    "prediction": "Prediction",
    "steering": "Steering",
    "trainings": "Trainings",
    "ledger": "Ledger",
}
"""The views by the name of their script, in the order of the navigation."""
ASKED = (
    *("server_status", "job_status", "cancel_job", "load_sae", "unload", "results"),
    *("find_features", "describe_feature", "encode_text", "top_features"),
    *("attribute_logit", "trace_circuit", "steer_generate"),
)
"""Tools that a page may call: none that writes outside of saescope's own folder."""
SCRIPTS = {f"{name}.js": "text/javascript" for name in (*PAGES, "window", "list", "chart")}
STYLES = {"window.css": "text/css"}
EVERY_S = 1.0
"""How often a live page hears of jobs."""


def view_app(state: AppState, *, token: str, port: int) -> ASGIApp:
    """The window over this state, for whoever has the token."""
    window = _Window(state)
    routes = [
        *(
            Route("/" if name == "home" else f"/{name}", partial(_page, name), methods=["GET"])
            for name in PAGES
        ),
        Route("/static/{name}", _static, methods=["GET"]),
        Route("/saes", window.saes, methods=["GET"]),
        Route("/list", window.listed, methods=["GET"]),
        Route("/page", window.page, methods=["GET"]),
        Route("/graph", window.graph, methods=["GET"]),
        Route("/events", window.events, methods=["GET"]),
        Route("/call/{tool}", window.call, methods=["POST"]),
    ]
    return guarded(Starlette(routes=routes), token=token, port=port)


class _Window:
    """What the pages ask of a state."""

    def __init__(self, state: AppState) -> None:
        self.state = state
        self.tools = {tool.name: tool for tool in ALL_TOOLS if tool.name in ASKED}

    async def call(self, request: WebRequest) -> Response:
        """A call of a tool: the document, or with 400 the error document."""
        tool = self.tools.get(request.path_params["tool"])
        try:
            arguments = json.loads(await request.body())
        except ValueError:
            arguments = None
        if tool is None or not isinstance(arguments, dict):
            return Response(status_code=404)
        return _answer(await self._called(tool, arguments))

    async def saes(self, request: WebRequest) -> Response:
        """What is loaded and what was loaded before; nothing is imported for it."""
        return JSONResponse(await self.state.workers.run(partial(known_saes, self.state)))

    async def listed(self, request: WebRequest) -> Response:
        """A part of the list of an SAE's features."""
        try:
            return JSONResponse(await listed_features(self.state, request.query_params))
        except SaescopeError as error:
            return JSONResponse(dict(refusal("find_features", error)), status_code=400)

    async def page(self, request: WebRequest) -> Response:
        """A feature's page, whose relations are links."""
        sae, feature = request.query_params.get("sae", ""), request.query_params.get("feature", "")
        is_number = feature.isascii() and feature.isdigit() and len(feature) < 11
        number = int(feature) if is_number else -1
        try:
            card = await card_of(self.state, sae, min(number, 2**31), n_examples=ON_PAGE)
        except SaescopeError as error:
            return _message(dict(refusal("describe_feature", error)))
        link = f"features?{urlencode({'sae': sae})}&feature="
        html = await self.state.workers.run(partial(feature_page, asdict(card), link=link))
        return _embedded(html)

    async def graph(self, request: WebRequest) -> Response:
        """A circuit's page."""
        name = request.query_params.get("name", "")
        try:
            return _embedded(await self.state.workers.run(partial(page_of_graph, name)))
        except SaescopeError as error:
            return _message(dict(refusal("trace_circuit", error)))

    async def events(self, request: WebRequest) -> Response:
        """The jobs, and those named in full, again and again as server-sent events."""
        named = request.query_params.getlist("job")[:4]
        return StreamingResponse(self._told(named), media_type="text/event-stream")

    async def _told(self, named: list[str]) -> AsyncGenerator[str]:
        last = ""
        while True:
            tool = self.tools["job_status"]
            jobs = (await self._called(tool, {})).document.get("jobs", [])
            whole = [
                (await self._called(tool, {"job_id": job, "response_format": "detailed"})).document
                for job in named
            ]
            told = json.dumps({"jobs": jobs, "named": whole})
            yield f"data: {told}\n\n" if told != last else ": same\n\n"
            last = told
            await anyio.sleep(EVERY_S)

    async def _called(self, tool: Tool, arguments: dict[str, Any]) -> Outcome:
        return await tool.call(self.state, arguments)


def _answer(outcome: Outcome) -> Response:
    return JSONResponse(outcome.sent, status_code=400 if outcome.is_error else 200)


async def _page(name: str, request: WebRequest) -> Response:
    template = _templates().get_template("window.html.j2")
    return HTMLResponse(template.render(pages=PAGES, name=name, title=PAGES[name]))


async def _static(request: WebRequest) -> Response:
    name = request.path_params["name"]
    if name == "page.css":
        return Response(asset(name), media_type="text/css")
    if name == "icon.svg":
        return Response(_icon(), media_type="image/svg+xml")
    kind = (SCRIPTS | STYLES).get(name)
    if kind is None:
        return Response(status_code=404)
    return Response(_file("static", name), media_type=kind)


def _embedded(html: str) -> Response:
    """A page that stands by itself, with its own policy in place of the window's."""
    _, _, rest = html.partition('http-equiv="Content-Security-Policy" content="')
    policy = unescape(rest.partition('"')[0]) or "default-src 'none'"
    return HTMLResponse(
        html, headers={"Content-Security-Policy": f"{policy}; frame-ancestors 'self'"}
    )


def _message(error: dict[str, Any]) -> Response:
    """An error in the place of an embedded page."""
    html = _templates().get_template("error.html.j2").render(error=error)
    policy = "default-src 'none'; style-src 'self'; frame-ancestors 'self'"
    return HTMLResponse(html, status_code=404, headers={"Content-Security-Policy": policy})


def _icon() -> str:
    return files("saescope_mcp").joinpath("icon.svg").read_text(encoding="utf-8")


def _file(folder: str, name: str) -> str:
    return files("saescope_mcp.view").joinpath(folder, name).read_text(encoding="utf-8")


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        loader=FunctionLoader(partial(_file, "templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
