"""Flow, paths and scores of a kept graph, beside brute force and the inverse of a matrix."""

from collections.abc import Iterator

import numpy as np
import pytest
from tests.core.graphs.samples import drawn_by_lot, edge, graph_of, logit, token, two_steps

from saescope.errors import ArgumentError
from saescope.graphs.flow import Flow, scores_alone
from saescope.graphs.paths import n_paths, strongest_paths
from saescope.records.graph import Graph

SEEDS = range(8)


def every_path(graph: Graph) -> Iterator[tuple[tuple[str, ...], float]]:
    """All chains from a node that nothing supplies up to a target, with their shares."""
    whole = sum(target.weight for target in graph.targets)
    into = {node.id: [e for e in graph.edges if e.target == node.id] for node in graph.nodes}

    def below(node: str) -> Iterator[tuple[tuple[str, ...], float]]:
        mass = sum(abs(e.weight) for e in into[node])
        if not into[node]:
            yield (node,), 1.0
        for e in into[node]:
            for chain, share in below(e.source):
                yield (*chain, node), share * abs(e.weight) / mass

    for target in graph.targets:
        for chain, share in below(target.id):
            yield chain, share * target.weight / whole


@pytest.mark.parametrize("seed", SEEDS)
def test_the_strongest_paths_are_those_of_brute_force_in_order(seed: int) -> None:
    graph = drawn_by_lot(seed)
    wanted = sorted(every_path(graph), key=lambda each: -each[1])
    flow = Flow.of(graph)
    found = strongest_paths(flow, 25)
    assert n_paths(flow) == len(wanted) > 100
    assert [path.share for path in found] == pytest.approx([share for _, share in wanted[:25]])
    by_chain = dict(wanted)
    assert [by_chain[tuple(path.nodes)] for path in found] == pytest.approx(
        [path.share for path in found]
    )


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_all_paths_together_carry_everything_and_those_from_a_node_what_ends_there(
    seed: int,
) -> None:
    flow = Flow.of(drawn_by_lot(seed, n_layers=3))
    paths = strongest_paths(flow, n_paths(flow))
    assert sum(path.share for path in paths) == pytest.approx(1.0)
    for end, share in flow.ends.items():
        assert sum(p.share for p in paths if p.nodes[0] == end) == pytest.approx(share)
    crossing = {node: sum(p.share for p in paths if node in p.nodes) for node in flow.through}
    assert crossing == pytest.approx(flow.through)


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_flow_is_the_influence_of_the_inverted_matrix(seed: int) -> None:
    graph = drawn_by_lot(seed)
    place = {node.id: at for at, node in enumerate(graph.nodes)}
    shares = np.zeros((len(place), len(place)))
    for e in graph.edges:
        shares[place[e.target], place[e.source]] = abs(e.weight)
    shares /= np.maximum(shares.sum(1, keepdims=True), 1e-300)
    w = np.zeros(len(place))
    for target in graph.targets:
        w[place[target.id]] = target.weight / sum(each.weight for each in graph.targets)
    through = w @ np.linalg.inv(np.eye(len(place)) - shares)
    flow = Flow.of(graph)
    assert [flow.through[node.id] for node in graph.nodes] == pytest.approx(list(through))
    is_error = np.array([node.kind == "error" for node in graph.nodes])
    is_token = np.array([node.kind == "token" for node in graph.nodes])
    ends = through * (shares.sum(1) == 0)
    scores = scores_alone(flow)
    assert scores.replacement == pytest.approx(ends[is_token].sum() / ends.sum())
    complete = (through * (1 - shares[:, is_error].sum(1))).sum() / through.sum()
    assert scores.completeness == pytest.approx(complete)


def test_shares_and_signs_can_be_checked_by_eye() -> None:
    flow = Flow.of(two_steps())
    paths = strongest_paths(flow, 9)
    said = [(path.nodes, round(path.share, 6), path.sign, path.confirmed) for path in paths]
    assert said == [
        (["t@1", "f1.7@1", "o9"], 0.5, 1, None),
        (["e0@1", "f1.7@1", "o9"], 0.25, -1, None),
        (["t@1", "o9"], 0.25, -1, False),
    ]
    assert flow.ends == pytest.approx({"t@1": 0.75, "e0@1": 0.25})


def test_only_paths_from_some_nodes_can_be_asked_for() -> None:
    flow = Flow.of(two_steps())
    found = strongest_paths(flow, 9, ends_at=lambda node: node.startswith("t"))
    assert [path.share for path in found] == [0.5, 0.25]


def test_one_target_alone_counts_as_the_whole() -> None:
    graph = drawn_by_lot(1)
    flow = Flow.of(graph, target="o11")
    assert flow.through["o11"] == 1.0 and flow.through["o9"] == 0.0
    assert sum(flow.ends.values()) == pytest.approx(1.0)
    with pytest.raises(ArgumentError, match="'o8' is no target") as caught:
        Flow.of(graph, target="o8")
    assert caught.value.code == "GRAPH_TARGET_UNKNOWN" and caught.value.allowed == "o9, o11"


def test_a_graph_that_goes_in_a_circle_is_refused() -> None:
    circle = graph_of([token(0), logit(9, 0)], [edge("t@0", "o9", 1.0), edge("o9", "t@0", 1.0)])
    with pytest.raises(ArgumentError, match="goes in a circle") as caught:
        Flow.of(circle).through  # noqa: B018
    assert caught.value.code == "GRAPH_HAS_CYCLE"


def test_a_large_graph_is_searched_at_once() -> None:
    graph = drawn_by_lot(3, n_layers=12, n_pos=8, each=4)
    flow = Flow.of(graph)
    assert n_paths(flow) > 10**9 and len(strongest_paths(flow, 50)) == 50
