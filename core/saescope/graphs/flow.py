"""How influence flows through a graph as it is kept: pure Python over the record, exact sums.

Every node divides what flows through it among its sources in proportion to the absolute weights of
their edges. What flows ends at nodes that nothing in the graph supplies: tokens, errors, and
features of which no source is kept.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from saescope.errors import ArgumentError
from saescope.records.graph import Graph, GraphEdge, GraphScores


class Supply(NamedTuple):
    """An edge on the way down from a target."""

    edge: GraphEdge
    share: float
    """What part of its target's input it is, by absolute weight."""


@dataclass(frozen=True)
class Flow:
    """The kept graph as shares: of each node its inputs, and how much flows through it."""

    graph: Graph
    weights: Mapping[str, float]
    """How much each target counts; they add up to 1."""

    @classmethod
    def of(cls, graph: Graph, *, target: str = "") -> "Flow":
        """The flow to all targets in proportion to their weights, or to one alone.

        Raises:
            ArgumentError: GRAPH_TARGET_UNKNOWN: the graph has no such target.
        """
        weights = {each.id: each.weight for each in graph.targets}
        if target and target not in weights:
            raise ArgumentError(
                f"{target!r} is no target of this graph.",
                code="GRAPH_TARGET_UNKNOWN",
                field="target",
                got=target,
                allowed=[*weights],
                hint="Name one of its targets, or leave target out for all of them.",
            )
        chosen = {target: 1.0} if target else weights
        whole = sum(chosen.values())
        even = 1 / len(chosen) if chosen else 0.0
        return cls(graph, {name: w / whole if whole else even for name, w in chosen.items()})

    @cached_property
    def inputs(self) -> dict[str, list[Supply]]:
        """The edges into each node, the strongest first."""
        into: dict[str, list[GraphEdge]] = defaultdict(list)
        for edge in self.graph.edges:
            if edge.weight:
                into[edge.target].append(edge)
        return {node: _steps(edges) for node, edges in into.items()}

    @cached_property
    def order(self) -> list[str]:
        """All nodes, each before whatever supplies it.

        Raises:
            ArgumentError: GRAPH_HAS_CYCLE.
        """
        return downwards({node.id for node in self.graph.nodes}, self.graph.edges)

    @cached_property
    def through(self) -> dict[str, float]:
        """The share of the targets that flows through each node."""
        flow = {node.id: self.weights.get(node.id, 0.0) for node in self.graph.nodes}
        for node in self.order:
            for step in self.inputs.get(node, ()):
                flow[step.edge.source] += flow[node] * step.share
        return flow

    @cached_property
    def ends(self) -> dict[str, float]:
        """The share of the targets that ends at each node without inputs; they add up to 1."""
        through = self.through
        ends = {node: flow for node, flow in through.items() if flow and node not in self.inputs}
        return dict(sorted(ends.items(), key=lambda item: (-item[1], item[0])))

    def along(self, edge: Supply) -> float:
        """The share of the targets that flows along an edge."""
        return self.through[edge.edge.target] * edge.share


def scores_alone(flow: Flow) -> GraphScores:
    """The scores of a kept graph as if it were whole: what was dropped is not counted. An end that
    is no token counts as error."""
    kinds = {node.id: node.kind for node in flow.graph.nodes}
    tokens = sum(share for node, share in flow.ends.items() if kinds[node] == "token")
    whole = complete = 0.0
    for node, share in flow.through.items():
        steps = flow.inputs.get(node, ())
        errors = sum(step.share for step in steps if kinds[step.edge.source] == "error")
        whole += share
        complete += share * (1 - errors)
    ended = sum(flow.ends.values())
    return GraphScores(
        replacement=tokens / ended if ended else 0.0,
        completeness=complete / whole if whole else 0.0,
    )


def downwards(nodes: Iterable[str], edges: Iterable[GraphEdge]) -> list[str]:
    """Nodes in an order in which each comes before its sources.

    Raises:
        ArgumentError: GRAPH_HAS_CYCLE: a node supplies itself through others.
    """
    # lists, not sets: the order, and so the last digits of sums, is the same in every process
    above: dict[str, list[str]] = {node: [] for node in sorted(nodes)}
    for edge in edges:
        above[edge.source].append(edge.target)
    try:
        return list(TopologicalSorter(above).static_order())
    except CycleError as error:
        circle = " -> ".join(list(map(str, error.args[1]))[:6])
        raise ArgumentError(
            f"The graph goes in a circle: {circle}.",
            code="GRAPH_HAS_CYCLE",
            field="graph",
            got=circle,
            allowed="edges from what is written earlier to what is read later",
            hint="Trace the graph again, or divide the group that closes the circle.",
        ) from error


def _steps(edges: list[GraphEdge]) -> list[Supply]:
    whole = sum(abs(edge.weight) for edge in edges)
    steps = [Supply(edge, abs(edge.weight) / whole) for edge in edges]
    return sorted(steps, key=lambda step: (-step.share, step.edge.source))
