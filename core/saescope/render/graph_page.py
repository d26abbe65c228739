"""An attribution graph as a page: one HTML file that asks nothing of the network, and the same as
an MCP App that is given its data by messages.

The graph is drawn by the page's own script from data in the page. Without scripts there are the
scores, the reading and a table of edges.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from saescope.records.graph import smaller_part
from saescope.render.feature_page import asset, content_hash, environment

MOST_EDGES = 20_000
"""Edges that a page holds, the strongest: a browser walks so many with ease."""


def graph_page(
    graph: Mapping[str, Any],
    *,
    cards: Mapping[str, Mapping[str, Any]] | None = None,
    reading: str = "",
    title: str = "Attribution graph",
) -> str:
    """`dataclasses.asdict` of a Graph as a page of its own.

    `cards` says of nodes, by id, what is known of their features: `label`, and `promotes` and
    `suppresses`, which are lists of tokens. `reading` is the graph in words.
    """
    graph, left_out = _bounded(graph)
    known = {name: _card(card) for name, card in (cards or {}).items()}
    script, style = _scripts("graph.js", "graph_page.js", "page.js"), _style()
    policy = (
        f"default-src 'none'; script-src {content_hash(script)}; style-src {content_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        environment()
        .get_template("graph.html.j2")
        .render(
            graph=graph,
            cards=known,
            tokens_of={node["id"]: node["token"] for node in graph["nodes"]},
            warnings=[*_warnings(graph), *left_out],
            reading=_without_warnings(reading),
            title=title,
            data=as_data({"graph": graph, "cards": known}),
            policy=policy,
            style=style,
            script=script,
        )
    )


def graph_app() -> str:
    """The page without data, for the `ui://` resource of MCP Apps (2026-01-26): mime type
    `text/html;profile=mcp-app`.

    The host hands it the tool's result (`ui/notifications/tool-result`): it shows `summary`,
    `warnings` and `reading` of `structuredContent`, and the graph, whose data it takes from the
    page that the result names (`structuredContent.page`, else the first link to `text/html`) and
    that it reads through the host (`resources/read`).
    """
    script = _scripts("graph.js", "app_graph.js", "app_host.js")
    return environment().get_template("graph_app.html.j2").render(style=_style(), script=script)


def as_data(value: Any) -> str:
    """JSON that can stand in a script element: no character in it opens or ends a tag.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _card(card: Mapping[str, Any]) -> dict[str, Any]:
    tokens = {name: list(card.get(name, ())) for name in ("promotes", "suppresses")}
    return {"label": card.get("label", ""), **tokens}


def _bounded(graph: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    edges = graph["edges"]
    if len(edges) <= MOST_EDGES:
        return graph, []
    strongest = sorted(edges, key=lambda edge: -abs(edge["flow"]))[:MOST_EDGES]
    said = f"This page holds the {MOST_EDGES:,} strongest of {len(edges):,} edges."
    return {**graph, "edges": strongest}, [said]


def _warnings(graph: Mapping[str, Any]) -> Sequence[str]:
    """What the graph warns of, first that it explains the smaller part; each once."""
    said = smaller_part(graph["scores"]["replacement"], graph["untraced"])
    return [*dict.fromkeys([said, *graph["warnings"]] if said else graph["warnings"])]


def _without_warnings(reading: str) -> str:
    """The page says above what a reading warns of."""
    return "\n".join(line for line in reading.split("\n") if not line.startswith("WARNING: "))


def _scripts(*names: str) -> str:
    return "\n".join(asset(name) for name in ("dom.js", *names))


def _style() -> str:
    return asset("page.css") + asset("graph.css")
