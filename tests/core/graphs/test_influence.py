"""Influence, pruning and scores, against explicit matrices and by hand."""

import pytest
import torch
from tests.core.graphs.made import dense, set_of, traced
from tests.core.oracle import Family

from saescope.graphs.influence import threshold
from saescope.graphs.prune import Edges, edge_scores
from saescope.graphs.report import as_record, kept_influence
from saescope.graphs.trace import Traced
from saescope.records.graph import GraphSettings


def explicit(graph: Traced) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalised rows, weights of the targets, and influence by the inverse of 1 - A."""
    matrix = dense(graph).abs()
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1e-10)
    weights = torch.zeros(len(matrix), dtype=torch.float64)
    weights[graph.store.columns.n :] = graph.weights
    eye = torch.eye(len(matrix), dtype=torch.float64)
    return shares, weights, weights @ (torch.linalg.inv(eye - shares) - eye)


def test_influence_is_that_of_the_inverse_of_one_minus_a(family: Family) -> None:
    graph = traced(family.model, set_of(family.model))
    columns, found = graph.store.columns, graph.influence
    shares, weights, want = explicit(graph)
    first, last = columns.n_features, columns.tokens_at
    assert torch.allclose(found.of, want[: columns.n], atol=1e-7)
    tokens, errors = want[last : columns.n].sum(), want[first:last].sum()
    assert found.replacement == pytest.approx(float(tokens / (tokens + errors)), rel=1e-6)
    flow = want + weights
    complete = ((1 - shares[:, first:last].sum(1)) * flow).sum() / flow.sum()
    assert found.completeness == pytest.approx(float(complete), rel=1e-6)


def test_pruning_is_that_of_the_dense_matrix(family: Family) -> None:
    """circuit-tracer's rule, step by step on the whole matrix."""
    graph = traced(family.model, set_of(family.model))
    matrix, columns = dense(graph), graph.store.columns
    n, first, last = columns.n, columns.n_features, columns.tokens_at
    _, weights, influence = explicit(graph)
    nodes = influence >= threshold(influence, 0.8)
    nodes[last:] = True
    pruned = matrix * nodes[:, None] * nodes[None]
    sizes = pruned.abs()
    shares = sizes / sizes.sum(1, keepdim=True).clamp(min=1e-10)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    own = weights @ torch.linalg.inv(eye - shares)
    scores = shares * own[:, None]
    edges = scores >= threshold(scores.flatten(), 0.98)
    while True:
        before = nodes.clone()
        nodes[:last] &= edges[:, :last].any(0)
        nodes[:first] &= edges[:first].any(1)
        edges &= nodes[:, None] & nodes[None]
        if bool((nodes == before).all()):
            break
    kept = graph.kept
    assert kept.columns.tolist() == nodes[:n].nonzero()[:, 0].tolist()
    want = {(t, s) for t, s in edges.nonzero().tolist()}
    assert {*zip(kept.edges.targets.tolist(), kept.edges.sources.tolist(), strict=True)} == want
    got = dict(
        zip(
            zip(kept.edges.targets.tolist(), kept.edges.sources.tolist(), strict=True),
            kept.scores.tolist(),
            strict=True,
        )
    )
    for (t, s), score in got.items():
        assert score == pytest.approx(float(scores[t, s]), rel=1e-4, abs=1e-9)


def test_edges_score_by_the_influence_that_flows_along_them() -> None:
    """Two targets of weight 0.6 and 0.4; node 0 feeds node 1, which feeds both; node 2 feeds one.

    0 --3--> 1 --1--> target 0 (node 3)
             1 --1--> target 1 (node 4),  2 --3--> target 1
    """
    edges = Edges(
        targets=torch.tensor([1, 3, 4, 4]),
        sources=torch.tensor([0, 1, 1, 2]),
        weights=torch.tensor([-3.0, 1.0, 1.0, 3.0]),
    )
    weights = torch.tensor([0.6, 0.4], dtype=torch.float64)
    scores = edge_scores(edges, torch.ones(5, dtype=torch.bool), weights)
    assert scores.tolist() == pytest.approx([0.7, 0.6, 0.1, 0.3])


@pytest.mark.parametrize(
    ("share", "want"), [(0.5, 5.0), (0.51, 3.0), (0.8, 3.0), (0.81, 1.5), (1.0, 0.5)]
)
def test_the_largest_scores_that_reach_a_share(share: float, want: float) -> None:
    assert threshold(torch.tensor([0.5, 3.0, 5.0, 1.5]), share) == want


def test_of_a_chain_nothing_is_kept_that_leads_nowhere(gpt2: Family) -> None:
    """Every kept feature has a way in and a way out, every kept error a way out."""
    settings = GraphSettings(most_targets=2, node_share=0.5, edge_share=0.5)
    record = as_record(traced(gpt2.model, set_of(gpt2.model), settings=settings))
    sources = {edge.source for edge in record.edges}
    targets = {edge.target for edge in record.edges}
    for node in record.nodes:
        if node.kind in ("feature", "error"):
            assert node.id in sources
        if node.kind == "feature":
            assert node.id in targets


def test_what_is_dropped_counts_as_error_in_the_kept_scores(gpt2: Family) -> None:
    whole = traced(gpt2.model, set_of(gpt2.model))
    everything = traced(
        gpt2.model,
        set_of(gpt2.model),
        settings=GraphSettings(most_targets=2, node_share=1.0, edge_share=1.0),
    )
    assert kept_influence(everything).replacement == pytest.approx(
        everything.influence.replacement, rel=1e-3
    )
    assert kept_influence(whole).replacement < whole.influence.replacement
    assert kept_influence(whole).completeness < whole.influence.completeness
