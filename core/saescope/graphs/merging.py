"""A graph with its groups as nodes, and how much of it survives that."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from saescope.graphs.flow import Flow, downwards
from saescope.records.graph import Graph, GraphEdge, GraphGroup, GraphNode, GraphScores


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedGraph:
    """A graph in which groups are nodes."""

    graph: Graph
    """Each group is one node, whose id is the group's name and whose kind is "group". Edges are
    sums; those inside a group are gone."""
    before: GraphScores
    """The scores of the kept graph alone, and below, those after the merge."""
    after: GraphScores
    replacement_survives: float
    """After / before: 1 where no signs cancel."""
    completeness_survives: float
    """After / before; a little above 1 where what vanished inside groups had errors among its
    sources."""
    cancelled: float
    """The share of the influence of edges that the sums of opposite signs cancel."""


def merged(graph: Graph, groups: Sequence[GraphGroup]) -> MergedGraph:
    """The graph with the features of each group as one node; tokens and errors in it stay alone.

    Edges are summed with their signs, those inside a group vanish, errors stay. What signs cancel
    in a sum is lost, and counts as coming from errors: a merge that explains as much as the graph
    did keeps both scores.

    Raises:
        ArgumentError: GRAPH_HAS_CYCLE: a node outside a group lies between two inside.
    """
    flow, of = Flow.of(graph), _owners(graph, groups)
    nodes = _merged_nodes(graph, flow, of)
    weights, signed, whole = _sums(flow, of)
    edges = [
        GraphEdge(source=source, target=target, weight=weight, flow=abs(signed[source, target]))
        for (source, target), weight in weights.items()
    ]
    edges.sort(key=lambda edge: (-edge.flow, edge.target, edge.source))
    made = replace(graph, nodes=nodes, edges=edges, groups=list(groups), proof=None)
    before = _scores(graph, _own_shares(flow), flow.weights)
    shares = {pair: abs(value) / whole[pair[1]] for pair, value in signed.items() if whole[pair[1]]}
    after = _scores(made, shares, flow.weights)
    all_flow = sum(whole.values())
    kept = sum(map(abs, signed.values()))
    return MergedGraph(
        graph=replace(made, kept_scores=after),
        before=before,
        after=after,
        replacement_survives=_ratio(after.replacement, before.replacement),
        completeness_survives=_ratio(after.completeness, before.completeness),
        cancelled=max(0.0, 1 - kept / all_flow) if all_flow else 0.0,
    )


def _owners(graph: Graph, groups: Sequence[GraphGroup]) -> dict[str, str]:
    """The node of the merged graph that each node becomes."""
    of = {node.id: node.id for node in graph.nodes}
    features = {node.id for node in graph.nodes if node.kind == "feature"}
    for group in groups:
        of |= {name: group.name for name in group.nodes if name in features}
    return of


def _sums(
    flow: Flow, of: Mapping[str, str]
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], float], dict[str, float]]:
    """The sum of weights, and of influence with its sign, for each pair of merged nodes; and the
    influence that enters each node, whatever the sign."""
    weights: dict[tuple[str, str], float] = defaultdict(float)
    signed: dict[tuple[str, str], float] = defaultdict(float)
    whole: dict[str, float] = defaultdict(float)
    for steps in flow.inputs.values():
        for step in steps:
            source, target = of[step.edge.source], of[step.edge.target]
            if source != target:
                along = flow.along(step)
                weights[source, target] += step.edge.weight
                signed[source, target] += along if step.edge.weight > 0 else -along
                whole[target] += along
    return weights, signed, whole


def _own_shares(flow: Flow) -> dict[tuple[str, str], float]:
    return {
        (step.edge.source, step.edge.target): step.share
        for steps in flow.inputs.values()
        for step in steps
    }


def _scores(
    graph: Graph, shares: Mapping[tuple[str, str], float], weights: Mapping[str, float]
) -> GraphScores:
    """Replacement and completeness where each node owes `shares` to its sources, and what is
    missing of 1 to errors."""
    kinds = {node.id: node.kind for node in graph.nodes}
    order = downwards(kinds, graph.edges)
    inputs: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for (source, target), share in shares.items():
        inputs[target].append((source, share))
    through = {node: weights.get(node, 0.0) for node in kinds}
    tokens = errors = whole = complete = 0.0
    for node in order:
        own, steps = through[node], inputs.get(node, [])
        for source, share in steps:
            through[source] += own * share
        lost = max(0.0, 1 - sum(share for _, share in steps)) if steps else 0.0
        from_errors = sum(share for source, share in steps if kinds[source] == "error")
        whole += own * (1 + lost)
        complete += own * (1 - from_errors - lost) + own * lost
        errors += own * lost
        if not steps and kinds[node] == "token":
            tokens += own
        elif not steps:
            errors += own
    ended = tokens + errors
    return GraphScores(
        replacement=tokens / ended if ended else 0.0,
        completeness=complete / whole if whole else 0.0,
    )


def _merged_nodes(graph: Graph, flow: Flow, of: Mapping[str, str]) -> list[GraphNode]:
    leaves: dict[str, float] = defaultdict(float)
    for steps in flow.inputs.values():
        for step in steps:
            if of[step.edge.source] != of[step.edge.target]:
                leaves[of[step.edge.source]] += flow.along(step)
    inside: dict[str, list[GraphNode]] = defaultdict(list)
    for node in graph.nodes:
        inside[of[node.id]].append(node)
    return [
        nodes[0] if nodes[0].id == name else _group_node(name, nodes, leaves[name])
        for name, nodes in inside.items()
    ]


def _group_node(name: str, nodes: Sequence[GraphNode], influence: float) -> GraphNode:
    """A group as a node, where its highest feature is."""
    top = max(nodes, key=lambda node: (node.layer or 0, node.pos, node.id))
    return GraphNode(
        id=name,
        kind="group",
        sae=None,
        layer=top.layer,
        pos=top.pos,
        token=top.token,
        feature=None,
        activation=None,
        influence=influence,
    )


def _ratio(after: float, before: float) -> float:
    return after / before if before else 1.0
