"""Groups found and made by hand, and what a graph keeps when it is merged by them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise

import pytest
import torch
from tests.core.graphs.samples import drawn_by_lot, edge, error, feature, graph_of, logit, token
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.graphs.flow import Flow, downwards, scores_alone
from saescope.graphs.grouping import find_groups, name_of, parse_groups
from saescope.graphs.merging import merged
from saescope.records.graph import Graph, GraphGroup, GraphNode, GraphScores


def twins() -> Graph:
    """Two pairs of features: each pair reads one token and writes one target."""
    nodes = [token(1), token(2), error(0, 1)]
    nodes += [feature(1, n, 1, influence=0.2) for n in (1, 2)]
    nodes += [feature(1, n, 2, influence=0.1) for n in (3, 4)]
    nodes += [logit(9, 2), logit(11, 2, " two")]
    edges = [edge("t@1", f"f1.{n}@1", 2.0) for n in (1, 2)]
    edges += [edge("t@2", f"f1.{n}@2", 3.0) for n in (3, 4)]
    edges += [edge("e0@1", "f1.1@1", 1.0)]
    edges += [edge(f"f1.{n}@1", "o9", 1.0) for n in (1, 2)]
    edges += [edge(f"f1.{n}@2", "o11", -1.0) for n in (3, 4)]
    return graph_of(nodes, edges)


def rows_of(by_feature: dict[int, list[float]]) -> Callable[[Sequence[GraphNode]], Tensor]:
    return lambda nodes: torch.tensor([by_feature[node.feature or 0] for node in nodes])


def same(one: GraphScores, other: GraphScores) -> bool:
    return asdict(one) == pytest.approx(asdict(other))


def test_features_that_act_alike_are_found() -> None:
    groups = find_groups(twins())
    assert [group.nodes for group in groups] == [["f1.1@1", "f1.2@1"], ["f1.3@2", "f1.4@2"]]
    assert all(not group.by_hand for group in groups)


def test_decoders_that_point_apart_keep_features_apart() -> None:
    rows = rows_of({1: [1.0, 0], 2: [-1.0, 0], 3: [0, 1.0], 4: [0, 2.0]})
    groups = find_groups(twins(), write_rows=rows, alike=0.6)
    assert [group.nodes for group in groups] == [["f1.3@2", "f1.4@2"]]


def test_labels_and_promoted_tokens_join_and_name() -> None:
    labels = {"f1.1@1": "dogs: that run", "f1.2@1": "dogs: that run"}
    promoted = {"f1.3@2": [" cat", " cats"], "f1.4@2": [" cat", " dog"]}
    groups = find_groups(twins(), labels=labels, promoted=promoted)
    assert [group.name for group in groups] == ["dogs that run", "promotes cat, cats"]


def test_names_come_from_labels_then_tokens_then_the_place() -> None:
    nodes = [feature(1, 1, 1), feature(3, 2, 1)]
    one = {nodes[0].id: "dogs", nodes[1].id: "wolves that howl"}
    assert name_of(nodes, labels=one) == "dogs and the like"
    assert name_of(nodes) == "layers 1-3 at \u201cthe\u201d"
    hostile = {nodes[0].id: "<img src=x>: a\nb" + "c" * 99}
    assert ":" not in name_of(nodes, labels=hostile) and len(name_of(nodes, labels=hostile)) <= 60


@pytest.mark.parametrize("seed", range(5))
def test_found_groups_are_the_same_each_time_and_in_any_order_of_the_nodes(seed: int) -> None:
    graph = drawn_by_lot(seed, each=4)
    groups = find_groups(graph, alike=0.2)
    turned = replace(graph, nodes=graph.nodes[::-1], edges=graph.edges[::-1])
    assert groups and groups == find_groups(graph, alike=0.2)
    assert [group.nodes for group in find_groups(turned, alike=0.2)] == [
        group.nodes for group in groups
    ]
    names = [group.name for group in groups]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("alike", [-1.0, 0.0, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_a_graph_merged_by_found_groups_goes_in_no_circle(seed: int, alike: float) -> None:
    graph = drawn_by_lot(seed, each=3)
    done = merged(graph, find_groups(graph, alike=alike))
    order = downwards([node.id for node in done.graph.nodes], done.graph.edges)
    assert len(order) == len(done.graph.nodes) < len(graph.nodes)


def test_edges_are_summed_and_those_inside_vanish() -> None:
    nodes = [token(1), feature(1, 1, 1), feature(2, 2, 1), logit(9, 1)]
    edges = [
        edge("t@1", "f1.1@1", 2.0),
        edge("t@1", "f2.2@1", 1.0),
        edge("f1.1@1", "f2.2@1", 3.0),
        edge("f1.1@1", "o9", 1.5),
        edge("f2.2@1", "o9", 0.5),
    ]
    graph = graph_of(nodes, edges, weights=(1.0,))
    done = merged(graph, parse_groups(graph, ["pair: f1.1@1 f2.2@1"]))
    assert [(e.source, e.target, e.weight) for e in done.graph.edges] == [
        ("pair", "o9", 2.0),
        ("t@1", "pair", 3.0),
    ]
    assert [e.flow for e in done.graph.edges] == pytest.approx([1.0, 1.0])
    assert done.before.replacement == done.after.replacement == 1.0
    group = next(node for node in done.graph.nodes if node.id == "pair")
    assert (group.kind, group.layer, group.pos, group.influence) == ("group", 2, 1, 1.0)


def test_what_signs_cancel_is_lost_and_counts_as_error() -> None:
    """Half of the target through each of two features of opposite signs: the sum is nothing."""
    nodes = [token(1), feature(1, 1, 1), feature(1, 2, 1), logit(9, 1)]
    edges = [edge("t@1", f"f1.{n}@1", 1.0) for n in (1, 2)]
    edges += [edge("f1.1@1", "o9", 1.0), edge("f1.2@1", "o9", -1.0)]
    graph = graph_of(nodes, edges, weights=(1.0,))
    done = merged(graph, parse_groups(graph, ["pair: f1.1@1 f1.2@1"]))
    assert done.after.replacement == 0.0 and done.replacement_survives == 0.0
    assert done.cancelled == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(5))
def test_where_no_signs_cancel_the_replacement_score_survives_whole(seed: int) -> None:
    graph = drawn_by_lot(seed, each=3)
    graph = replace(graph, edges=[replace(e, weight=abs(e.weight)) for e in graph.edges])
    done = merged(graph, find_groups(graph, alike=0.1))
    assert same(done.before, scores_alone(Flow.of(graph)))
    assert done.replacement_survives == pytest.approx(1.0) and done.cancelled == pytest.approx(0.0)


@pytest.mark.parametrize("seed", range(5))
def test_a_merge_never_adds_to_the_replacement_score(seed: int) -> None:
    graph = drawn_by_lot(seed, each=3)
    done = merged(graph, find_groups(graph, alike=0.0))
    assert 0 <= done.replacement_survives <= 1 + 1e-9 and 0 < done.cancelled < 1
    none = merged(graph, [])
    assert same(none.before, none.after) and same(none.before, done.before)


def test_tokens_and_errors_in_a_group_stay_alone() -> None:
    graph = twins()
    done = merged(graph, parse_groups(graph, ["mixed: t@1 e0@1 f1.1@1 f1.2@1"]))
    assert {"t@1", "e0@1", "mixed"} <= {node.id for node in done.graph.nodes}
    assert same(done.before, scores_alone(Flow.of(graph)))


def test_a_group_with_a_node_between_its_own_is_refused_when_it_is_merged() -> None:
    nodes = [token(1), *(feature(layer, 1, 1) for layer in (1, 2, 3)), logit(9, 1)]
    chain = ["t@1", "f1.1@1", "f2.1@1", "f3.1@1", "o9"]
    edges = [edge(a, b, 1.0) for a, b in pairwise(chain)]
    graph = graph_of(nodes, edges)
    with pytest.raises(ArgumentError, match=r"goes in a circle: .*ends") as caught:
        merged(graph, parse_groups(graph, ["ends: f1.1@1 f3.1@1"]))
    assert caught.value.code == "GRAPH_HAS_CYCLE"


def test_groups_by_hand_are_read() -> None:
    graph = twins()
    groups = parse_groups(graph, ["the <b>first</b>: f1.1@1, f1.2@1", "rest:f1.3@2"])
    assert groups == [
        GraphGroup(
            name="the \u2039b\u203afirst\u2039/b\u203a", nodes=["f1.1@1", "f1.2@1"], by_hand=True
        ),
        GraphGroup(name="rest", nodes=["f1.3@2"], by_hand=True),
    ]


@pytest.mark.parametrize(
    ("lines", "code", "why"),
    [
        (["f1.1@1"], "GRAPH_GROUP_INVALID", "no name, or no nodes"),
        ([": f1.1@1"], "GRAPH_GROUP_INVALID", "no name, or no nodes"),
        (["a:"], "GRAPH_GROUP_INVALID", "no name, or no nodes"),
        (["a: f1.1@1", "a: f1.2@1"], "GRAPH_GROUP_INVALID", "'a' is taken"),
        (["t@1: f1.1@1"], "GRAPH_GROUP_INVALID", "'t@1' is taken"),
        (["a: f1.1@1 f1.1@1"], "GRAPH_GROUP_INVALID", "f1.1@1 is in 'a' already"),
        (["a: f1.1@1", "b: f1.1@1"], "GRAPH_GROUP_INVALID", "f1.1@1 is in 'a' already"),
        (["a: o9"], "GRAPH_GROUP_INVALID", "o9 is a target"),
        (["a: f1.1@2"], "GRAPH_NODE_UNKNOWN", "'f1.1@2' is no node"),
    ],
)
def test_a_wrong_group_says_what_is_wrong(lines: list[str], code: str, why: str) -> None:
    with pytest.raises(ArgumentError, match=why) as caught:
        parse_groups(twins(), lines)
    assert caught.value.code == code and caught.value.field == "groups" and caught.value.hint


def test_an_unknown_node_names_the_nearest() -> None:
    with pytest.raises(ArgumentError) as caught:
        parse_groups(twins(), ["a: f1.1@3"])
    assert caught.value.hint.startswith("Name f1.1@1") and "f1.1@1" in caught.value.allowed


def test_a_graph_without_features_has_no_groups() -> None:
    assert find_groups(graph_of([token(1), logit(9, 1)], [])) == []
