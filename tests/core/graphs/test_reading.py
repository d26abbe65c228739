"""What a graph says in words: the numbers in it, its warning, its length."""

import dataclasses
import re

import pytest
from tests.core.graphs.samples import (
    PROOF,
    drawn_by_lot,
    edge,
    error,
    feature,
    graph_of,
    logit,
    token,
    two_steps,
)

from saescope.graphs.reading import percent, read_graph
from saescope.records.graph import GraphGroup, GraphScores, smaller_part


def test_the_paths_and_what_they_carry_are_said() -> None:
    text = read_graph(two_steps(), labels={"f1.7@1": "animals <script>x</script>\nthat run"})
    assert (
        "1. 50 % raises it: t@1' the' +2\u2192 f1.7@1' the' \u201canimals \u2039script\u203ax"
        "\u2039/script\u203a that run\u201d +3*\u2192 o9' cat'" in text
    )
    assert "2. 25 % lowers it: t@1' the' -1!\u2192 o9' cat'" in text
    assert "Of 3 paths in the kept graph, the 2 strongest from tokens carry 75 %" in text
    assert "tokens 75 % (t@1' the' 75 %); errors 25 % (e0@1' the' 25 %)" in text
    assert '"!" refuted by ablation; "*" confirmed' in text


def test_the_scores_are_explained() -> None:
    text = read_graph(two_steps())
    assert "Replacement 0.80: 20 % of the influence ends in errors: what the transcoders" in text
    assert "Completeness 0.90" in text and "replacement 0.50, completeness 0.70" in text
    assert "o9 ' cat' p=0.6 +3.5" in text and "WARNING" not in text


@pytest.mark.parametrize(("replacement", "untraced"), [(0.3, 0.0), (0.8, 0.5), (0.0, 0.0)])
def test_a_graph_that_explains_less_than_half_begins_by_saying_so(
    replacement: float, untraced: float
) -> None:
    scores = GraphScores(replacement=replacement, completeness=0.5)
    graph = dataclasses.replace(two_steps(), scores=scores, untraced=untraced, n_traced=1)
    text = read_graph(graph)
    assert text.startswith("WARNING: Only ")
    shares = [replacement * (1 - untraced), (1 - replacement) * (1 - untraced)]
    for share in shares:
        assert f"{100 * share:.0f} %" in text.splitlines()[0]
    assert ("50 % in features that were not traced" in text) == (untraced > 0)
    assert "0 % in features" not in smaller_part(replacement, 1e-9)
    told = dataclasses.replace(graph, warnings=[smaller_part(replacement, untraced), "few tokens"])
    assert read_graph(told) == text.replace("\nOf 3 paths", "\nNote: few tokens\nOf 3 paths", 1)


def test_what_was_measured_is_said_and_that_nothing_was() -> None:
    assert "Measured: nothing. All 4 edges are claims" in read_graph(two_steps())
    text = read_graph(two_steps(proof=PROOF))
    assert "3 of the 4 strongest edges and 1 of 2 nodes confirmed" in text
    assert "measured 0.83" in text
    assert (
        "falls by 2.5 where the kept features are ablated, of as many random ones by 0.1 (sd 0.2)"
        in text
    )
    assert "by 0.4 where all features but these are." in text
    worse = dataclasses.replace(PROOF.necessity, kept=-2.5)
    text = read_graph(two_steps(proof=dataclasses.replace(PROOF, necessity=worse)))
    assert "falls by -2.5 (it rises) where the kept features are ablated" in text


@pytest.mark.parametrize("most_tokens", [1200, 600, 400])
@pytest.mark.parametrize("seed", range(2))
def test_it_never_takes_more_than_its_tokens(seed: int, most_tokens: int) -> None:
    graph = drawn_by_lot(seed, n_layers=5, n_pos=8)
    hostile = "\u65e5\u672c\u8a9e" * 400
    nodes = [dataclasses.replace(node, token=hostile) for node in graph.nodes]
    groups = [GraphGroup(name=hostile, nodes=[nodes[0].id] * 50, by_hand=True)] * 30
    graph = dataclasses.replace(
        graph, nodes=nodes, groups=groups, warnings=[hostile] * 9, tokens=[hostile] * 500
    )
    labels = {node.id: hostile for node in nodes}
    text = read_graph(graph, labels=labels, n_shown=50, most_tokens=most_tokens)
    assert len(text.encode()) <= 3 * most_tokens


def test_what_survives_a_merge_by_the_groups_is_said() -> None:
    """Two features of opposite signs cancel; one that stands alone loses nothing."""
    nodes = [token(1), *(feature(layer, 1, 1) for layer in (1, 2, 3)), logit(9, 1)]
    edges = [edge("t@1", node.id, 1.0) for node in nodes[1:4]]
    edges += [edge(node.id, "o9", w) for node, w in zip(nodes[1:4], (1.0, -1.0, 2.0), strict=True)]
    graph = graph_of(nodes, edges, weights=(1.0,))
    groups = [GraphGroup(name="both", nodes=["f1.1@1", "f2.1@1"], by_hand=True)]
    text = read_graph(dataclasses.replace(graph, groups=groups))
    assert "Groups: both: f1.1@1 f2.1@1. Merged by them, 50 % of replacement" in text
    chain = [edge("f1.1@1", "f2.1@1", 1.0), edge("f2.1@1", "f3.1@1", 1.0)]
    groups = [GraphGroup(name="ends", nodes=["f1.1@1", "f3.1@1"], by_hand=True)]
    circle = dataclasses.replace(graph, edges=[*edges, *chain], groups=groups)
    assert "the graph would go in a circle" in read_graph(circle)


def test_ordinary_graphs_fit_with_all_eight_paths() -> None:
    text = read_graph(drawn_by_lot(2, n_layers=6, n_pos=6))
    from_tokens, from_errors = text.split("strongest from tokens")[1].split("strongest from errors")
    assert len(re.findall(r"^\d\. .*: t@", from_tokens, flags=re.MULTILINE)) == 8
    assert len(re.findall(r"^\d\. .*: e\d", from_errors, flags=re.MULTILINE)) == 4


def test_a_graph_without_a_way_from_a_token_says_so() -> None:
    graph = two_steps()
    graph = dataclasses.replace(graph, edges=[e for e in graph.edges if e.source != "t@1"])
    assert "from errors (none reaches a token) carry 100 %" in read_graph(graph)
    assert "Paths: none is kept." in read_graph(dataclasses.replace(graph, edges=[]))


def test_shares_are_written_with_two_figures() -> None:
    shares = {0.614: "61 %", 0.0342: "3.4 %", 0.0002: "<0.1 %", 0.0: "0 %", 1.0: "100 %"}
    assert {share: percent(share) for share in shares} == shares


def test_paths_that_begin_in_errors_are_told_with_their_share() -> None:
    """Errors of two layers hold 80 % of the influence, a token 20 %: both kinds are listed."""
    graph = graph_of(
        [token(1), error(0, 1), error(3, 1), feature(1, 7, 1), logit(9, 1)],
        [
            edge("t@1", "o9", 2.0),
            edge("e3@1", "o9", 5.0),
            edge("f1.7@1", "o9", 3.0),
            edge("e0@1", "f1.7@1", 1.0),
        ],
    )
    text = read_graph(graph)
    assert "Of 3 paths in the kept graph, the 1 strongest from tokens carry 20 %" in text
    assert "\nThe 2 strongest from errors carry 80 % of its influence:" in text
    assert text.index("strongest from tokens") < text.index("strongest from errors")
    assert "1. 50 % raises it: e3@1' the' +5\u2192 o9' cat'" in text
    assert "2. 30 % raises it: e0@1' the' +1\u2192 f1.7@1' the' +3\u2192 o9' cat'" in text
    assert text.count("(source weight") == 1


def test_many_errors_are_added_up_by_layer() -> None:
    places = [(layer, pos) for layer in (0, 2) for pos in (1, 2, 3)]
    graph = graph_of(
        [token(1), *(error(*place) for place in places), logit(9, 3)],
        [
            edge("t@1", "o9", 4.0),
            *(edge(f"e{layer}@{pos}", "o9", layer + 1.0) for layer, pos in places),
        ],
    )
    assert "; by layer: 56 % in 2, 19 % in 0)" in read_graph(graph)
    few = dataclasses.replace(graph, edges=graph.edges[:3])
    assert "by layer" not in read_graph(few)
