"""Two graphs side by side and one circuit over many prompts: every number can be checked by
eye."""

from dataclasses import replace

import pytest
from tests.core.graphs.samples import drawn_by_lot, edge, error, feature, graph_of, logit, token

from saescope.errors import ArgumentError
from saescope.graphs.comparing import compare_graphs, over_prompts
from saescope.records.graph import Graph


def prompt(*, pos: int, weight: float = 1.0, other: int | None = None) -> Graph:
    """A token, feature 7 of layer 1 and the target; the last position is `pos`. With `other` a
    second feature supplies as much of the target."""
    nodes = [token(pos, " dog"), error(0, pos), feature(1, 7, pos), logit(9, pos)]
    edges = [edge(f"t@{pos}", f"f1.7@{pos}", 3.0), edge(f"e0@{pos}", f"f1.7@{pos}", 1.0)]
    edges.append(edge(f"f1.7@{pos}", "o9", weight))
    if other is not None:
        nodes.insert(3, feature(2, other, pos))
        edges.append(edge(f"f2.{other}@{pos}", "o9", abs(weight)))
        edges.append(edge(f"t@{pos}", f"f2.{other}@{pos}", 1.0))
    return graph_of(nodes, edges, weights=(0.5,))


@pytest.mark.parametrize("align", ["feature", "end"])
def test_a_graph_is_like_itself(align: str) -> None:
    graph = drawn_by_lot(1)
    found = compare_graphs(graph, graph, align="end" if align == "end" else "feature")
    assert found.only_first == found.only_second == found.edges_first == found.edges_second == []
    assert found.flow_shared == pytest.approx(1.0) and found.n_flips == 0
    assert all(node.change == 0 for node in found.shared)
    assert sum(e.flow for e in found.edges if e.target in ("o9", "o11")) == pytest.approx(1.0)


def test_shared_and_differing_nodes_and_edges_are_told_apart() -> None:
    found = compare_graphs(prompt(pos=2), prompt(pos=4, weight=-1.0, other=5))
    assert {node.key for node in found.shared} == {"t' dog'", "e0", "f1.7", "o9"}
    assert found.only_first == [] and [node.key for node in found.only_second] == ["f2.5"]
    (seven,) = [node for node in found.shared if node.key == "f1.7"]
    assert (seven.first, seven.second) == (["f1.7@2"], ["f1.7@4"])
    assert (seven.influence, seven.influence_second, seven.change) == (1.0, 0.5, -0.5)
    (flip,) = [each for each in found.edges if each.flips]
    assert (flip.source, flip.target, flip.weight, flip.weight_second) == ("f1.7", "o9", 1.0, -1.0)
    assert found.n_flips == 1
    assert [(e.source, e.target) for e in found.edges_second] == [
        ("t' dog'", "f2.5"),
        ("f2.5", "o9"),
    ]
    assert found.edges_first == []
    # of the second graph's flow (2: each of two steps carries all) half lies on shared edges
    assert found.flow_shared == pytest.approx((1.0 + 0.5) / 2)


def test_positions_count_from_the_end_if_asked() -> None:
    same = compare_graphs(prompt(pos=2), prompt(pos=4), align="end")
    assert "f1.7-0" in {node.key for node in same.shared} and not same.only_first
    long = prompt(pos=2)
    later = replace(long, tokens=[*long.tokens, " ran", " home"])
    moved = compare_graphs(long, later, align="end")
    assert {node.key for node in moved.only_second} == {"t' dog'-2", "e0-2", "f1.7-2"}
    assert [node.key for node in moved.shared] == ["o9"]


def test_several_positions_of_a_feature_are_one_unless_positions_count() -> None:
    nodes = [token(1), token(2), feature(1, 7, 1), feature(1, 7, 2), logit(9, 2)]
    edges = [edge(f"t@{pos}", f"f1.7@{pos}", 1.0) for pos in (1, 2)]
    edges += [edge(f"f1.7@{pos}", "o9", weight) for pos, weight in ((1, 1.0), (2, 3.0))]
    graph = graph_of(nodes, edges, weights=(1.0,))
    (seven,) = [n for n in compare_graphs(graph, graph).shared if n.key == "f1.7"]
    assert seven.first == ["f1.7@1", "f1.7@2"] and seven.influence == 1.0
    by_place = {n.key: n.influence for n in compare_graphs(graph, graph, align="end").shared}
    assert by_place["f1.7-1"] == 0.25 and by_place["f1.7-0"] == 0.75


def test_what_holds_on_all_and_on_most_prompts() -> None:
    graphs = [prompt(pos=pos) for pos in (1, 2)] + [prompt(pos=3, other=5), prompt(pos=4, other=5)]
    found = over_prompts([*graphs, prompt(pos=2, other=5)], most=0.6)
    assert found.n_prompts == 5 and found.n_edges == 4
    assert {(e.source, e.target) for e in found.in_all} == {("t' dog'", "f1.7"), ("f1.7", "o9")}
    assert {(e.source, e.target) for e in found.in_most} == {("t' dog'", "f2.5"), ("f2.5", "o9")}
    (half,) = [e for e in found.in_most if e.target == "o9"]
    assert half.prompts == [2, 3, 4] and half.flow == pytest.approx(3 * 0.5 / 5)
    assert over_prompts([*graphs, prompt(pos=2)], most=0.6).in_most == []
    # without errors' part, 1/4 of what enters feature 7: (1 + 3/4) of 2
    assert found.flow_all[0] == pytest.approx(1.75 / 2)


def test_an_edge_whose_sign_turns_holds_nowhere() -> None:
    found = over_prompts([prompt(pos=1), prompt(pos=2, weight=-1.0)])
    assert [(e.source, e.target) for e in found.in_all] == [("t' dog'", "f1.7")]


def test_one_graph_is_no_comparison() -> None:
    with pytest.raises(ArgumentError, match="is no comparison") as caught:
        over_prompts([prompt(pos=1)])
    assert caught.value.code == "GRAPHS_TOO_FEW" and caught.value.got == "1"
