"""The graph's page and its app in a real Chromium: walked by mouse and by keys, filtered, pinned,
grouped, in both themes and in narrow windows, with hostile text."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tests.core.graphs.samples import drawn_by_lot
from tests.core.render.browser import MARKS, look
from tests.core.render.cards import HOSTILE

from saescope.records.graph import Graph, GraphEffect, GraphGroup
from saescope.render import graph_app, graph_page

pytestmark = MARKS

EVIL = "<script>window.pwned=1;parent.pwned=1</script><img src=x onerror='parent.pwned=1'>"


def measured() -> Graph:
    """A graph whose texts are hostile; of its edges a third is confirmed, a third refuted."""
    graph = drawn_by_lot(1, n_layers=5, n_pos=8)
    edges = [
        replace(
            each,
            flow=1 / (1 + at),
            effect=None
            if at % 3 == 2
            else GraphEffect(predicted=1.0, frozen=0.9, free=0.8, confirmed=at % 3 == 0),
        )
        for at, each in enumerate(graph.edges[:280])
    ]
    tokens = [HOSTILE[pos % len(HOSTILE)] for pos in range(len(graph.tokens))]
    nodes = [
        replace(node, token=tokens[node.pos] if node.kind != "logit" else HOSTILE[0])
        for node in graph.nodes
    ]
    groups = [GraphGroup(name="<i>first", nodes=[features(graph)[9]], by_hand=False)]
    return replace(graph, nodes=nodes, edges=edges, tokens=tokens, groups=groups)


def features(graph: Graph) -> list[str]:
    return [node.id for node in graph.nodes if node.kind == "feature"]


def chosen(graph: Graph) -> str:
    """A feature with edges in and out."""
    ends = [{edge.source for edge in graph.edges}, {edge.target for edge in graph.edges}]
    return next(name for name in features(graph) if all(name in each for each in ends))


GRAPH = measured()
PINS = features(GRAPH)[2:4]


def look_at(folder: Path, *, dark: bool, can_read: bool = True) -> dict[str, Any]:
    cards = {
        name: {"label": HOSTILE[at % len(HOSTILE)], "promotes": HOSTILE}
        for at, name in enumerate(features(GRAPH)[:6])
    }
    page = graph_page(asdict(GRAPH), cards=cards, reading="\n".join(HOSTILE), title="Dogs")
    summary = "A graph <b>of</b> 2 targets."
    given = {
        "page": page,
        "app": graph_app(),
        "hostile": page.replace("</main>", f"{EVIL}</main>"),
        "chosen": chosen(GRAPH),
        "pins": PINS,
        "groups": len(GRAPH.groups),
        "canRead": can_read,
        "result": {
            "content": [{"type": "text", "text": "{}"}],
            "structuredContent": {
                "summary": summary,
                "reading": "one <b>\ntwo",
                "warnings": ["w <i>"],
                "page": "sae://graph/1",
            },
        },
    }
    return look(
        given,
        "harness_graph.js",
        folder,
        dark=dark,
        whole=lambda seen: bool(seen.get("app", {}).get("nodes") or not can_read),
    )


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return look_at(tmp_path_factory.mktemp("light"), dark=False)


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return look_at(tmp_path_factory.mktemp("dark"), dark=True, can_read=False)


def test_nothing_went_wrong_inside(light: dict[str, Any], dark: dict[str, Any]) -> None:
    assert light["errors"] == dark["errors"] == []


def test_all_nodes_and_edges_are_drawn_and_nothing_lies_outside(light: dict[str, Any]) -> None:
    shown = [n for n in GRAPH.nodes if n.kind != "token"]
    assert light["page"]["all"]["outside"] == 0
    assert light["page"]["all"]["edges"] == len(GRAPH.edges) == 280
    assert len(shown) < light["page"]["all"]["nodes"] <= len(GRAPH.nodes)


def test_edges_are_solid_where_confirmed_dashed_where_not_dotted_where_not_measured(
    light: dict[str, Any],
) -> None:
    verdicts = [edge.effect and edge.effect.confirmed for edge in GRAPH.edges]
    assert light["page"]["kinds"] == [verdicts.count(each) for each in (True, False, None)]
    solid, dashed, dotted = light["page"]["dashes"]
    assert solid == "none" and "none" not in (dashed, dotted) and dashed != dotted


def test_a_click_shows_a_node_s_card_and_its_edges(light: dict[str, Any]) -> None:
    name = chosen(GRAPH)
    own = [edge for edge in GRAPH.edges if name in (edge.source, edge.target)]
    card = light["page"]["card"]
    assert light["page"]["own"] == len(own)
    for said in (name, "influence", "activation", "What supplies it", "What it supplies"):
        assert said in card
    assert "not confirmed" in card or "confirmed" in card or "not measured" in card


def test_an_edge_can_be_followed_from_the_card(light: dict[str, Any]) -> None:
    into = [edge for edge in GRAPH.edges if edge.target == chosen(GRAPH)]
    strongest = max(into, key=lambda edge: abs(edge.weight)).source
    assert light["page"]["followed"] == strongest
    assert light["page"]["pressed"] in ([strongest], [])


def test_the_filter_keeps_the_most_influential_nodes(light: dict[str, Any]) -> None:
    assert 0 < light["page"]["filtered"]["nodes"] < light["page"]["all"]["nodes"]
    assert light["page"]["withoutErrors"] == 0


def test_pinned_nodes_stay_and_become_a_group_that_can_be_named_and_copied(
    light: dict[str, Any],
) -> None:
    page, old = light["page"], GRAPH.groups[0]
    assert page["pinnedStay"] == [True, True]
    assert page["lines"].splitlines() == [f"<i>first: {old.nodes[0]}", f"a name: {' '.join(PINS)}"]
    assert page["renamed"].splitlines()[1] == f"dogs: {' '.join(PINS)}"
    assert "opied" in page["copied"] or "copy it" in page["copied"]
    assert page["ringed"] == 3


def test_the_graph_can_be_walked_by_keys(light: dict[str, Any]) -> None:
    keys = light["keys"]
    assert keys["stops"] == 1 and keys["labelled"]
    walk = keys["walk"]
    assert walk[0].startswith("o") and walk[1].startswith(("f4", "e4"))
    assert walk[2].startswith(("f3", "e3")) and walk[3] != walk[2] and walk[4] == walk[2]
    assert keys["entered"] == [walk[5]] * 2 and keys["pinned"] == 1 and keys["left"] == 0
    assert all(focused for _, focused in keys["focusable"]), keys["focusable"]
    assert {tag for tag, _ in keys["focusable"]} >= {"A", "BUTTON", "INPUT", "g", "TEXTAREA"}


def test_every_text_can_be_read_in_both_themes(light: dict[str, Any], dark: dict[str, Any]) -> None:
    assert light["themes"][0][0] > 0.8 and dark["themes"][0][0] < 0.1
    for seen in (light, dark):
        for _, worst in seen["themes"]:
            assert worst["ratio"] >= 4.5, worst  # WCAG 2.2, AA


def test_hostile_text_runs_nothing_makes_nothing_and_asks_for_nothing(
    light: dict[str, Any],
) -> None:
    assert light["pwned"] == [None, None, "Dogs"] and light["fetched"] == []
    assert light["made"] == [0, 0, 2]


def test_no_window_is_too_narrow_and_a_narrow_one_begins_at_the_targets(
    light: dict[str, Any],
) -> None:
    for width in (360, 320):
        seen = light[f"at{width}"]
        assert seen["overflow"] == 0 and seen["scrolls"]
        assert seen["right"] >= seen["width"] - 2


def test_the_app_takes_the_graph_from_the_page_that_the_result_names(
    light: dict[str, Any],
) -> None:
    app = light["app"]
    assert app["messages"][:2] == ["ui/initialize", "ui/notifications/initialized"]
    assert "resources/read" in app["messages"]
    assert app["nodes"] == light["page"]["all"]["nodes"] and app["shown"]
    for said in ("A graph <b>of</b> 2 targets.", "the old <b>dog", "one <b>\ntwo", "w <i>"):
        assert said in app["text"]
    assert app["pwned"] == [None, None] and app["made"] == [0, 0, 0]


def test_a_host_that_cannot_read_pages_shows_the_reading(dark: dict[str, Any]) -> None:
    app = dark["app"]
    assert "resources/read" not in app["messages"] and not app["shown"] and app["nodes"] == 0
    assert "one <b>\ntwo" in app["text"] and "A graph <b>of</b>" in app["text"]
