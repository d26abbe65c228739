"""Circuits that were written into weights: what is kept of the graph is what was written."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.core.graphs import wired
from tests.core.graphs.made import as_tokens
from tests.core.graphs.wired import Plan

from saescope.graphs import trace_circuit
from saescope.models import load_model
from saescope.records.graph import Graph, GraphSettings

PLANS: dict[str, Callable[[], Plan]] = {
    "induction": wired.induction,
    "induction among more pairs": lambda: wired.induction(n_others=4),
    "greater than": wired.greater_than,
    "greater than, far apart": lambda: wired.greater_than(year=6, high=8, low=2),
    **{f"relay {seed}": lambda seed=seed: wired.relay(seed) for seed in range(3)},
}


def graph_of(plan: Plan, folder: Path, tokenizer: Path, idle: int) -> Graph:
    model = load_model(wired.save(plan, folder, tokenizer), device="cpu")
    return trace_circuit(
        model,
        wired.neurons(model, idle=idle),
        as_tokens(plan.ids),
        targets=[plan.target],
        against=plan.against,
        settings=GraphSettings(node_share=plan.node_share),
    )


@pytest.mark.parametrize("idle", [0, 60])
@pytest.mark.parametrize("name", PLANS)
def test_what_is_kept_is_what_was_written(
    name: str, idle: int, tmp_path: Path, glass_dir: Path
) -> None:
    plan = PLANS[name]()
    graph = graph_of(plan, tmp_path / "wired", glass_dir, idle)
    kept = {(edge.source, edge.target) for edge in graph.edges}
    found = kept & plan.edges
    assert len(found) / len(kept) >= 0.9, kept - plan.edges
    assert len(found) / len(plan.edges) >= 0.9, plan.edges - kept
    proof = graph.proof
    assert proof and proof.n_confirmed >= 0.9 * proof.n_edges, proof
    assert graph.scores.replacement > 0.99
    assert proof.sufficiency.controls.outside
