"""Graphs made by hand and by lot, of which the tests know everything."""

import random
from collections.abc import Sequence
from dataclasses import replace

from saescope.records.controls import Comparison
from saescope.records.graph import (
    Graph,
    GraphEdge,
    GraphEffect,
    GraphNode,
    GraphProof,
    GraphScores,
    GraphSettings,
    GraphTarget,
    KeptOrRandom,
)

WORDS = ["<bos>", " the", " old", " dog", " ran", " home"]


def token(pos: int, text: str = "") -> GraphNode:
    return _node(f"t@{pos}", "token", pos, text or WORDS[pos % len(WORDS)])


def feature(layer: int, index: int, pos: int, text: str = "", influence: float = 0.1) -> GraphNode:
    return GraphNode(
        id=f"f{layer}.{index}@{pos}",
        kind="feature",
        sae=layer,
        layer=layer,
        pos=pos,
        token=text or WORDS[pos % len(WORDS)],
        feature=index,
        activation=1.5,
        influence=influence,
    )


def error(layer: int, pos: int) -> GraphNode:
    made = _node(f"e{layer}@{pos}", "error", pos, WORDS[pos % len(WORDS)])
    return replace(made, layer=layer)


def logit(token_id: int, pos: int, text: str = " cat") -> GraphNode:
    return _node(f"o{token_id}", "logit", pos, text)


def _node(name: str, kind: str, pos: int, text: str) -> GraphNode:
    return GraphNode(
        id=name,
        kind=kind,
        sae=None,
        layer=None,
        pos=pos,
        token=text,
        feature=None,
        activation=None,
        influence=0.05,
    )


def edge(source: str, target: str, weight: float, *, confirmed: bool | None = None) -> GraphEdge:
    effect = None
    if confirmed is not None:
        effect = GraphEffect(
            predicted=weight, frozen=0.9 * weight, free=0.8 * weight, confirmed=confirmed
        )
    return GraphEdge(source=source, target=target, weight=weight, flow=0.01, effect=effect)


def graph_of(
    nodes: Sequence[GraphNode],
    edges: Sequence[GraphEdge],
    *,
    weights: Sequence[float] = (0.6, 0.2),
    replacement: float = 0.8,
    proof: GraphProof | None = None,
) -> Graph:
    """A graph of these nodes; its logits are the targets, with these probabilities."""
    n_pos = 1 + max(node.pos for node in nodes)
    logits = [node for node in nodes if node.kind == "logit"]
    n_features = sum(node.kind == "feature" for node in nodes)
    return Graph(
        tokens=[WORDS[pos % len(WORDS)] for pos in range(n_pos)],
        token_ids=[100 + pos for pos in range(n_pos)],
        targets=[
            GraphTarget(
                id=node.id,
                label=node.token,
                token=int(node.id[1:]),
                against=None,
                prob=weight,
                weight=weight,
                value=3.5,
            )
            for node, weight in zip(logits, weights, strict=False)
        ],
        nodes=list(nodes),
        edges=list(edges),
        scores=GraphScores(replacement=replacement, completeness=0.9),
        kept_scores=GraphScores(replacement=0.5, completeness=0.7),
        kind="transcoders",
        n_active=n_features + 5,
        n_traced=n_features + 5,
        untraced=0.0,
        n_left_out=1,
        settings=GraphSettings(max_features=100, node_share=0.8, edge_share=0.98),
        proof=proof,
    )


PROOF = GraphProof(
    n_edges=4,
    n_confirmed=3,
    n_nodes=2,
    n_nodes_confirmed=1,
    linear_off=1e-7,
    rank_correlation=0.83,
    necessity=KeptOrRandom(kept=2.5, controls=Comparison(0.1, 0.2, 19, 0.05, True)),
    sufficiency=KeptOrRandom(kept=0.4, controls=Comparison(None, None, 0, None, False)),
)


def two_steps(*, proof: GraphProof | None = None) -> Graph:
    """One target that owes 3/4 to a feature and 1/4 to a token; the feature owes 2/3 to the token
    and 1/3 to an error: 3/4 of the target come from the token, by two ways, 1/4 from the error."""
    nodes = [token(1), error(0, 1), feature(1, 7, 1), logit(9, 1)]
    edges = [
        edge("f1.7@1", "o9", 3.0, confirmed=True),
        edge("t@1", "o9", -1.0, confirmed=False),
        edge("t@1", "f1.7@1", 2.0),
        edge("e0@1", "f1.7@1", -1.0),
    ]
    return graph_of(nodes, edges, weights=(0.6,), proof=proof)


def drawn_by_lot(
    seed: int, *, n_layers: int = 4, n_pos: int = 4, each: int = 2, density: float = 0.5
) -> Graph:
    """A graph with edges by lot from everything that is written before the target reads."""
    lot = random.Random(seed)
    below = [token(pos) for pos in range(n_pos)]
    nodes, edges = list(below), list[GraphEdge]()
    for layer in range(n_layers):
        here = [
            feature(layer, lot.randrange(50) * each + n, pos, influence=lot.random())
            for pos in range(1, n_pos)
            for n in range(each)
        ]
        for node in here:
            edges += _from(lot, [one for one in below if one.pos <= node.pos], node, density)
        below += [*here, *(error(layer, pos) for pos in range(1, n_pos))]
        nodes = list(below)
    for token_id in (9, 11):
        target = logit(token_id, n_pos - 1, f" word{token_id}")
        edges += _from(lot, below, target, density)
        nodes.append(target)
    linked = {name for one in edges for name in (one.source, one.target)}
    nodes = [node for node in nodes if node.id in linked or node.kind in ("token", "logit")]
    return graph_of(nodes, edges)


def _from(
    lot: random.Random, sources: Sequence[GraphNode], target: GraphNode, density: float
) -> list[GraphEdge]:
    chosen = [one for one in sources if lot.random() < density] or [sources[0]]
    return [edge(one.id, target.id, lot.gauss(0, 1)) for one in chosen]
