"""The graph's page, its app and its picture as files: what they hold, and that nothing in them can
act."""

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import asdict, replace
from importlib import import_module
from typing import Any

import pytest
from tests.core.graphs.samples import PROOF, drawn_by_lot, edge, two_steps
from tests.core.render.cards import HOSTILE
from tests.core.render.test_feature_page import Read

from saescope.records.graph import Graph, GraphGroup, GraphScores
from saescope.render import graph_app, graph_page, graph_picture
from saescope.render.feature_page import visible
from saescope.render.graph_page import as_data

SVG = "{http://www.w3.org/2000/svg}"


def hostile() -> Graph:
    """A graph in which every text is one that tries to act."""
    graph = drawn_by_lot(1)
    nodes = [replace(node, token=HOSTILE[at % len(HOSTILE)]) for at, node in enumerate(graph.nodes)]
    targets = [replace(target, label=HOSTILE[0]) for target in graph.targets]
    groups = [GraphGroup(name=HOSTILE[1], nodes=[nodes[5].id], by_hand=True)]
    return replace(
        graph,
        nodes=nodes,
        targets=targets,
        groups=groups,
        tokens=HOSTILE[: len(graph.tokens)],
        warnings=[HOSTILE[0]],
    )


def cards(graph: Graph) -> dict[str, dict[str, Any]]:
    return {
        node.id: {"label": HOSTILE[at % len(HOSTILE)], "promotes": HOSTILE, "suppresses": []}
        for at, node in enumerate(graph.nodes)
        if node.kind == "feature"
    }


def test_the_page_says_scores_reading_and_edges() -> None:
    graph = two_steps(proof=PROOF)
    named = {"f1.7@1": {"label": "animals"}}
    read = Read(graph_page(asdict(graph), cards=named, reading="first line\nsecond", title="Dogs"))
    text = " ".join(read.text.split())
    for said in (
        "Dogs",
        "replacement 0.80",
        "completeness 0.90",
        "4 nodes, 4 edges",
        "3 of 4 edges measured",
        "f1.7@1 animals \u2423theo9 \u2423cat3confirmed",
        "t@1 \u2423theo9 \u2423cat-1not confirmed",
        "logit minus the mean of all logits. That is not log-probability",
    ):
        assert said in text, said
    assert "first line\nsecond" in read.text and read.open == []
    assert "smaller part" not in text


def test_a_graph_that_explains_the_smaller_part_begins_with_that() -> None:
    scores = GraphScores(replacement=0.25, completeness=0.5)
    graph = replace(two_steps(), scores=scores, untraced=0.5)
    text = Read(graph_page(asdict(graph))).text
    said = "Only 12 % of the influence comes from tokens; 38 % ends in errors and 50 % in features"
    assert said in " ".join(text.split())


def test_the_data_in_the_page_are_the_graph() -> None:
    graph = hostile()
    html = graph_page(asdict(graph), cards=cards(graph))
    found = re.search(r'<script type="application/json" id="graph-data">(.*?)</script>', html)
    assert found
    data = json.loads(found[1])
    assert data["graph"] == json.loads(json.dumps(asdict(graph)))
    assert data["cards"]["f0.1@1" if "f0.1@1" in data["cards"] else next(iter(data["cards"]))]


def test_of_very_many_edges_the_page_holds_the_strongest_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the package has a function of the module's name
    monkeypatch.setattr(import_module("saescope.render.graph_page"), "MOST_EDGES", 5)
    graph = drawn_by_lot(1)
    edges = [replace(each, flow=at / 1000) for at, each in enumerate(graph.edges)]
    html = graph_page(asdict(replace(graph, edges=edges)))
    found = re.search(r'id="graph-data">(.*?)</script>', html)
    assert found
    assert [round(1000 * each["flow"]) for each in json.loads(found[1])["graph"]["edges"]] == [
        len(edges) - n for n in range(1, 6)
    ]
    assert f"holds the 5 strongest of {len(edges)} edges" in html


def test_data_with_a_number_that_is_none_are_refused() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        as_data({"x": float("nan")})
    assert as_data("</script><!--&") == '"\\u003c/script\\u003e\\u003c!--\\u0026"'


def test_hostile_text_is_text() -> None:
    graph = hostile()
    html = graph_page(asdict(graph), cards=cards(graph), reading="\n".join(HOSTILE))
    read = Read(html)
    assert read.open == []
    assert [read.all(tag) for tag in ("img", "iframe", "link", "object", "form", "base")] == [
        []
    ] * 6
    assert len(read.all("script")) == 2 and len(read.all("style")) == 1
    hidden = r"[\x00-\x08\x0b-\x1f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
    assert not re.search(hidden, read.text)
    assert all(
        not name.startswith("on") and name != "style" for _, attrs in read.tags for name in attrs
    )


def test_nothing_is_fetched_and_only_the_page_s_own_script_and_style_may_run() -> None:
    html = graph_page(asdict(two_steps()))
    read = Read(html)
    assert [attrs for _, attrs in read.tags if "src" in attrs or "srcset" in attrs] == []
    assert [attrs["href"] for _, attrs in read.tags if "href" in attrs] == ["#main"]
    script, style = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", html, re.DOTALL)[::-1]
    policy = str(next(attrs["content"] for attrs in read.all("meta") if attrs.get("http-equiv")))
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    for kind, content in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "url(" not in style and "@import" not in style
    assert "innerHTML" not in script and "eval(" not in script


def test_the_app_is_the_page_without_data() -> None:
    read = Read(graph_app())
    assert read.open == [] and "http" not in read.text and len(read.all("main")) == 1
    for message in (
        "ui/initialize",
        "ui/notifications/initialized",
        "ui/notifications/tool-result",
        "resources/read",
        "2026-01-26",
    ):
        assert message in read.raw["script"]
    assert "innerHTML" not in read.raw["script"] and "eval(" not in read.raw["script"]


def drawing(graph: Graph, **more: Any) -> ET.Element:
    """The picture, parsed: it is well-formed then."""
    return ET.fromstring(graph_picture(asdict(graph), **more))


def classes(svg: ET.Element, name: str) -> list[ET.Element]:
    return [each for each in svg.iter() if name in (each.get("class") or "").split()]


def test_the_picture_draws_each_node_and_each_edge_as_it_was_measured() -> None:
    svg = drawing(two_steps(proof=PROOF), labels={"f1.7@1": "animals"}, title="Dogs & cats")
    assert len(classes(svg, "feature")) == len(classes(svg, "error")) == 1
    assert len(classes(svg, "box")) == 2 and len(classes(svg, "edge")) == 4
    for kind in ("confirmed", "refuted"):
        assert len(classes(svg, kind)) == 1
    assert len(classes(svg, "unmeasured")) == 2 and len(classes(svg, "minus")) == 2
    text = [each.text for each in svg.iter(f"{SVG}text")]
    assert "Dogs & cats" in text and " 1 f1.7@1 \u2423the animals" in text
    assert any("80 % of the influence comes from tokens; 3 of 4 edges" in str(one) for one in text)


def test_only_the_most_influential_nodes_are_drawn() -> None:
    graph = drawn_by_lot(2, n_layers=6, n_pos=6)
    svg = drawing(graph, most_nodes=10)
    assert len(classes(svg, "feature")) + len(classes(svg, "error")) == 10
    assert len(classes(svg, "edge")) <= 120
    free = [node for node in graph.nodes if node.kind in ("feature", "error")]
    kept = sorted(free, key=lambda node: (-node.influence, node.id))[:10]
    titles = {each.text for each in svg.iter(f"{SVG}title")}
    assert {node.id for node in kept} <= titles
    n_left = len(free) - 10
    assert f"{n_left} nodes not shown" in "".join(svg.itertext())


def test_everything_in_the_picture_lies_inside_it() -> None:
    for seed in range(3):
        svg = drawing(drawn_by_lot(seed, n_layers=5, n_pos=9, each=3), most_nodes=400)
        width, height = float(svg.get("width", 0)), float(svg.get("height", 0))
        for each in svg.iter(f"{SVG}circle"):
            assert (
                8 < float(each.get("cx", 0)) < width - 8 and 0 < float(each.get("cy", 0)) < height
            )
        boxes = [each for each in svg.iter(f"{SVG}rect") if "box" in (each.get("class") or "")]
        for each in boxes:
            left = float(each.get("x", 0))
            assert left > 0 and left + float(each.get("width", 0)) < width


def test_nothing_in_the_picture_can_act() -> None:
    graph = hostile()
    labels = {name: card["label"] for name, card in cards(graph).items()}
    text = graph_picture(asdict(graph), labels=labels, title=HOSTILE[0])
    svg = ET.fromstring(text)
    tags = {each.tag.removeprefix(SVG) for each in svg.iter()}
    assert tags == {"svg", "title", "style", "rect", "text", "g", "path", "circle"}
    assert not any(name.startswith("on") or "href" in name for e in svg.iter() for name in e.attrib)
    assert visible(HOSTILE[0]) in "".join(svg.itertext()) and "url(" not in text


def test_a_graph_of_nothing_but_a_target_is_drawn() -> None:
    graph = two_steps()
    bare = replace(graph, nodes=graph.nodes[-1:], edges=[])
    assert len(classes(drawing(bare), "box")) == 1
    assert "1 nodes" in Read(graph_page(asdict(bare))).text
    lone = replace(graph, edges=[edge("t@1", "o9", 1.0)])
    assert len(classes(drawing(lone), "edge")) == 1
