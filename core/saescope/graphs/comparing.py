"""Two graphs side by side, and one circuit over many prompts.

A feature is the same in two graphs if SAE, layer and index are; where it fires counts only if
asked, and then from the end of the prompt. Targets are the same if their tokens are, tokens if
their texts are.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from saescope.errors import ArgumentError
from saescope.graphs.flow import Flow
from saescope.records.graph import Graph, GraphNode

Align = Literal["feature", "end"]
MOST = 0.75
"""The share of prompts that "most" means."""
UNLIKELY = 0.05
"""The probability below which a target is not what the model predicts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedNode:
    """A node that is in both graphs, or in one."""

    key: str
    """`f<layer>.<feature>`, `e<layer>`, `t'<text>'` or `o<token>`; with `-<n>` where positions
    count from the end: 0 is the last one."""
    first: list[str]
    """Ids of its nodes in the first graph, and below, in the second."""
    second: list[str]
    influence: float
    """The share of the first graph's targets that flows through it, and below, of the second's."""
    influence_second: float

    @property
    def change(self) -> float:
        """How much more flows through it in the second graph."""
        return self.influence_second - self.influence


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedEdge:
    """An edge between nodes of the same keys in both graphs, or in one."""

    source: str
    target: str
    weight: float | None
    """The sum of its weights in the first graph, and below, in the second; None where it is not."""
    weight_second: float | None
    flow: float
    """The share of the first graph's targets that flows along it, and below, of the second's."""
    flow_second: float
    flips: bool
    """In both, with opposite signs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphComparison:
    """What two graphs have in common and what not; the lists begin with the most influence."""

    align: str
    shared: list[SharedNode]
    only_first: list[SharedNode]
    only_second: list[SharedNode]
    edges: list[SharedEdge]
    """Edges in both."""
    edges_first: list[SharedEdge]
    edges_second: list[SharedEdge]
    flow_shared: float
    """The share of the influence along edges that lies, in the mean of both graphs, on edges in
    both."""
    n_flips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeHeld:
    """An edge and the prompts in which it is."""

    source: str
    target: str
    prompts: list[int]
    """Where it is, by the place of the prompt's graph."""
    same_sign: bool
    """With the same sign in all of these."""
    flow: float
    """The mean share of the targets that flows along it, 0 where it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitOverPrompts:
    """Which edges hold on several prompts."""

    n_prompts: int
    align: str
    in_all: list[EdgeHeld]
    """With the same sign in every prompt; the strongest first."""
    in_most: list[EdgeHeld]
    """With the same sign wherever they are, in enough prompts but not all."""
    n_edges: int
    """Edges in any prompt."""
    flow_all: list[float]
    """The share of each prompt's influence along edges that the edges in all carry."""
    unlikely: list[int]
    """Prompts, by place, after which the first target has a probability below 0.05: edges shared
    with these say what would raise it there, not why it is predicted."""


def compare_graphs(first: Graph, second: Graph, *, align: Align = "feature") -> GraphComparison:
    """What two graphs share. `align="end"` counts a feature as the same only at the same distance
    from the end of the prompt."""
    a, b = _Keyed.of(first, align), _Keyed.of(second, align)
    nodes = [
        SharedNode(
            key=key,
            first=a.nodes.get(key, []),
            second=b.nodes.get(key, []),
            influence=a.through.get(key, 0.0),
            influence_second=b.through.get(key, 0.0),
        )
        for key in sorted({*a.nodes, *b.nodes})
    ]
    nodes.sort(key=lambda node: (-max(node.influence, node.influence_second), node.key))
    edges = [_edge(pair, a, b) for pair in sorted({*a.weights, *b.weights})]
    edges.sort(key=lambda edge: (-max(edge.flow, edge.flow_second), edge.target, edge.source))
    both = [e for e in edges if e.weight is not None and e.weight_second is not None]
    shares = [sum(e.flow for e in both), sum(e.flow_second for e in both)]
    wholes = [sum(a.flows.values()), sum(b.flows.values())]
    parts = [part / whole for part, whole in zip(shares, wholes, strict=True) if whole]
    return GraphComparison(
        align=align,
        shared=[node for node in nodes if node.first and node.second],
        only_first=[node for node in nodes if not node.second],
        only_second=[node for node in nodes if not node.first],
        edges=both,
        edges_first=[edge for edge in edges if edge.weight_second is None],
        edges_second=[edge for edge in edges if edge.weight is None],
        flow_shared=sum(parts) / len(parts) if parts else 0.0,
        n_flips=sum(edge.flips for edge in both),
    )


def over_prompts(
    graphs: Sequence[Graph], *, align: Align = "feature", most: float = MOST
) -> CircuitOverPrompts:
    """Which edges are in the graphs of all prompts, and which in the share `most` of them, with one
    sign. Errors are left out: what they hold differs from prompt to prompt.

    Raises:
        ArgumentError: GRAPHS_TOO_FEW: fewer than two.
    """
    if len(graphs) < 2:
        raise ArgumentError(
            f"{len(graphs)} graph is no comparison.",
            code="GRAPHS_TOO_FEW",
            field="graphs",
            got=len(graphs),
            allowed="2 or more",
            hint="Trace the same question on another prompt.",
        )
    keyed = [_Keyed.of(graph, align) for graph in graphs]
    pairs = sorted({pair for each in keyed for pair in each.weights if not _has_error(pair)})
    held = [_held(pair, keyed) for pair in pairs]
    held.sort(key=lambda edge: (-edge.flow, edge.target, edge.source))
    needed = max(2, ceil(most * len(graphs)))
    in_all = [edge for edge in held if edge.same_sign and len(edge.prompts) == len(graphs)]
    names = {(edge.source, edge.target) for edge in in_all}
    return CircuitOverPrompts(
        n_prompts=len(graphs),
        align=align,
        in_all=in_all,
        in_most=[e for e in held if e.same_sign and needed <= len(e.prompts) < len(graphs)],
        n_edges=len(pairs),
        flow_all=[_of_whole(each, names) for each in keyed],
        unlikely=[at for at, graph in enumerate(graphs) if graph.targets[0].prob < UNLIKELY],
    )


@dataclass(frozen=True, slots=True)
class _Keyed:
    """A graph by keys that mean the same in others."""

    nodes: dict[str, list[str]]
    through: dict[str, float]
    weights: dict[tuple[str, str], float]
    flows: dict[tuple[str, str], float]

    @classmethod
    def of(cls, graph: Graph, align: Align) -> "_Keyed":
        flow, keys = Flow.of(graph), {n.id: _key(n, graph, align) for n in graph.nodes}
        made = cls(defaultdict(list), defaultdict(float), defaultdict(float), defaultdict(float))
        for node, key in keys.items():
            made.nodes[key].append(node)
            made.through[key] += flow.through[node]
        for steps in flow.inputs.values():
            for step in steps:
                pair = keys[step.edge.source], keys[step.edge.target]
                made.weights[pair] += step.edge.weight
                made.flows[pair] += flow.along(step)
        return made


def _key(node: GraphNode, graph: Graph, align: Align) -> str:
    back = f"-{len(graph.tokens) - 1 - node.pos}" if align == "end" else ""
    if node.kind == "logit":
        return node.id
    if node.kind == "token":
        return f"t'{node.token}'{back}"
    # the id without its position: it tells two SAEs of one layer apart
    return f"{node.id.partition('@')[0]}{back}"


def _has_error(pair: tuple[str, str]) -> bool:
    return pair[0].startswith("e")


def _edge(pair: tuple[str, str], a: _Keyed, b: _Keyed) -> SharedEdge:
    first, second = a.weights.get(pair), b.weights.get(pair)
    return SharedEdge(
        source=pair[0],
        target=pair[1],
        weight=first,
        weight_second=second,
        flow=a.flows.get(pair, 0.0),
        flow_second=b.flows.get(pair, 0.0),
        flips=first is not None and second is not None and first * second < 0,
    )


def _held(pair: tuple[str, str], keyed: Sequence[_Keyed]) -> EdgeHeld:
    there = [at for at, each in enumerate(keyed) if pair in each.weights]
    signs = {keyed[at].weights[pair] > 0 for at in there}
    return EdgeHeld(
        source=pair[0],
        target=pair[1],
        prompts=there,
        same_sign=len(signs) == 1,
        flow=sum(each.flows.get(pair, 0.0) for each in keyed) / len(keyed),
    )


def _of_whole(keyed: _Keyed, pairs: set[tuple[str, str]]) -> float:
    whole = sum(keyed.flows.values())
    return (
        sum(flow for pair, flow in keyed.flows.items() if pair in pairs) / whole if whole else 0.0
    )
