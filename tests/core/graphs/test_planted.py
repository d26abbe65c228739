"""Circuits that were written into weights: what is kept of the graph is what was written."""

from collections.abc import Callable
from dataclasses import replace
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


def test_a_branch_that_pruning_leaves_out_is_named(tmp_path: Path, glass_dir: Path) -> None:
    """A third of the difference flows through neuron 14, and 0.8 of the influence is kept without
    it."""
    plan = replace(wired.greater_than(), node_share=0.8)
    graph = graph_of(plan, tmp_path / "wired", glass_dir, 0)
    assert "f1.14@4" not in {node.id for node in graph.nodes}
    (said,) = [warning for warning in graph.warnings if warning.startswith("Pruned")]
    assert "f1.14@4 3" in said and "node_share=0.98" in said
    whole = graph_of(wired.greater_than(), tmp_path / "again", glass_dir, 0)
    assert not any(warning.startswith("Pruned") for warning in whole.warnings)


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
