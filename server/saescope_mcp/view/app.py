"""The window's pages and what they ask for."""

import json
from collections.abc import AsyncGenerator, Awaitable, Mapping
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
from saescope.reports import gathered, report_html
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.binding import Outcome
from saescope_mcp.replies import refusal
from saescope_mcp.replies.pictures import page_of_graph
from saescope_mcp.state import AppState
from saescope_mcp.tools.describe import ON_PAGE, card_of
from saescope_mcp.tools.results import void_shown
from saescope_mcp.view.asked import check_asked
from saescope_mcp.view.guard import OUTSIDE, guarded
from saescope_mcp.view.known import (
    densities,
    known_saes,
    listed_features,
    load_arguments,
    machine,
)
from saescope_mcp.view.watched import trainings, watched

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
SCRIPTS = {f"{name}.js": "text/javascript" for name in (*PAGES, "window", "list")}
STYLES = {"window.css": "text/css"}
SHARED = {
    **{f"{name}.js": "text/javascript" for name in ("parts", "chart", "results")},
    **{f"{name}.css": "text/css" for name in ("page", "parts")},
}
"""What the apps for clients are made of as well."""
EVERY_S = 1.0
"""How often a live page hears of jobs."""


def view_app(state: AppState, *, token: str, port: int, ended: anyio.Event) -> ASGIApp:
    """The window over this state, for whoever has the token; live pages are let go once `ended` is
    set."""
    window, page = _Window(state, ended), partial(partial, _page, state.settings.ledger)
    routes = [
        *(
            Route("/" if name == "home" else f"/{name}", page(name), methods=["GET"])
            for name in PAGES
        ),
        Route("/static/{name}", _static, methods=["GET"]),
        Route("/saes", window.saes, methods=["GET"]),
        Route("/machine", window.machine, methods=["GET"]),
        Route("/list", window.listed, methods=["GET"]),
        Route("/densities", window.densities, methods=["GET"]),
        Route("/page", window.page, methods=["GET"]),
        Route("/graph", window.graph, methods=["GET"]),
        Route("/report", window.report, methods=["GET"]),
        Route("/events", window.events, methods=["GET"]),
        Route("/load", window.load, methods=["POST"]),
        Route("/call/{tool}", window.call, methods=["POST"]),
    ]
    outside = Starlette(
        routes=[
            Route(f"/{OUTSIDE}/static/{{name}}", _outside_static, methods=["GET"]),
            Route(f"/{OUTSIDE}/{{result_id}}", _outside_page, methods=["GET"]),
        ]
    )
    return guarded(Starlette(routes=routes), outside=outside, token=token, port=port)


class _Window:
    """What the pages ask of a state."""

    def __init__(self, state: AppState, ended: anyio.Event) -> None:
        self.state, self.ended = state, ended
        self.tools = {tool.name: tool for tool in ALL_TOOLS}

    async def call(self, request: WebRequest) -> Response:
        """A call of a tool: the document, or with 400 the error document."""
        tool, arguments = request.path_params["tool"], await _arguments(request)
        if arguments is None:
            return Response(status_code=404)
        try:
            check_asked(tool, arguments)
        except SaescopeError as error:
            return JSONResponse(dict(refusal(tool, error)), status_code=400)
        return _answer(await self._called(tool, arguments))

    async def load(self, request: WebRequest) -> Response:
        """A load of an SAE that was loaded here before, by its handle; "" is the embedded one."""
        asked = await _arguments(request)
        if asked is None or not isinstance(handle := asked.get("handle"), str):
            return Response(status_code=404)
        try:
            known = await load_arguments(self.state, handle)
        except SaescopeError as error:
            return JSONResponse(dict(refusal("load_sae", error)), status_code=400)
        dry = {"dry_run": asked.get("dry_run") is True, "response_format": "detailed"}
        return _answer(await self._called("load_sae", known | dry))

    async def saes(self, request: WebRequest) -> Response:
        """What is loaded and what was loaded before; nothing is imported for it."""
        return JSONResponse(await known_saes(self.state))

    async def machine(self, request: WebRequest) -> Response:
        """What this machine has, without asking another."""
        return JSONResponse(await machine(self.state))

    async def listed(self, request: WebRequest) -> Response:
        """A part of the list of an SAE's features."""
        return await _found(listed_features(self.state, request.query_params))

    async def densities(self, request: WebRequest) -> Response:
        """How many features of an SAE fire how often."""
        return await _found(densities(self.state, request.query_params.get("sae", "")))

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

    async def report(self, request: WebRequest) -> Response:
        """The report of a result or of an investigation, as export_report writes it."""
        asked = request.query_params
        results = [asked["result"]] if asked.get("result") else []
        try:
            data = await self.state.keeper.ask(
                gathered, results, investigation=asked.get("investigation", ""), title=""
            )
            await void_shown(self.state, data.entries)
            return _embedded(await self.state.workers.run(partial(report_html, data)))
        except SaescopeError as error:
            return _message(dict(refusal("export_report", error)))

    async def events(self, request: WebRequest) -> Response:
        """The jobs, and those named in full, again and again as server-sent events."""
        named = request.query_params.getlist("job")[:4]
        return StreamingResponse(self._told(named), media_type="text/event-stream")

    async def _told(self, named: list[str]) -> AsyncGenerator[str]:
        last = ""
        while not self.ended.is_set():
            jobs = (await self._called("job_status", {})).document
            runs = [await watched(self.state, job) for job in named]
            heard = {name: jobs.get(name, []) for name in ("jobs", "warnings")}
            told = json.dumps({**heard, "runs": await trainings(self.state), "named": runs})
            yield f"data: {told}\n\n" if told != last else ": same\n\n"
            last = told
            with anyio.move_on_after(EVERY_S):
                await self.ended.wait()

    async def _called(self, tool: str, arguments: dict[str, Any]) -> Outcome:
        return await self.tools[tool].call(self.state, arguments)


async def _arguments(request: WebRequest) -> dict[str, Any] | None:
    """The object that a page sends; None where it is none."""
    try:
        given = json.loads(await request.body())
    except ValueError:
        return None
    return given if isinstance(given, dict) else None


async def _found(answer: Awaitable[dict[str, Any]]) -> Response:
    try:
        return JSONResponse(await answer)
    except SaescopeError as error:
        return JSONResponse(dict(refusal("find_features", error)), status_code=400)


def _answer(outcome: Outcome) -> Response:
    return JSONResponse(outcome.sent, status_code=400 if outcome.is_error else 200)


async def _page(keeps: bool, name: str, request: WebRequest) -> Response:
    template = _templates().get_template("window.html.j2")
    return HTMLResponse(template.render(pages=PAGES, name=name, title=PAGES[name], keeps=keeps))


async def _static(request: WebRequest) -> Response:
    return _file_of(request.path_params["name"], SCRIPTS | STYLES)


async def _outside_static(request: WebRequest) -> Response:
    return _file_of(request.path_params["name"], {"outside.js": "text/javascript"})


async def _outside_page(request: WebRequest) -> Response:
    """The address of a result without the token: a browser that has opened the window goes on to
    it; any other is told the same, whichever result it asks for."""
    html = _templates().get_template("outside.html.j2").render()
    return HTMLResponse(html, status_code=404)


def _file_of(name: str, kinds: Mapping[str, str]) -> Response:
    if name in SHARED:
        return Response(asset(name), media_type=SHARED[name])
    if name == "icon.svg":
        return Response(_icon(), media_type="image/svg+xml")
    if name not in kinds:
        return Response(status_code=404)
    return Response(_file("static", name), media_type=kinds[name])


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
