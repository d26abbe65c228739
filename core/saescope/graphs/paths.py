"""The paths of a graph, from what supplies it up to its targets, strongest first and exact.

The share of a path is the weight of its target times the shares of its edges; those of all paths
add up to 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

from saescope.graphs.flow import Flow, Supply
from saescope.records.graph import GraphEdge


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPath:
    """One chain of edges from an end of the graph to a target."""

    nodes: list[str]
    """Ids from the source up to the target."""
    edges: list[GraphEdge]
    share: float
    """The share of the targets that flows along the whole chain."""
    sign: int
    """1 if more of the source raises the target along this path, -1 if it lowers it."""

    @property
    def confirmed(self) -> bool | None:
        """Whether each edge was confirmed by measurement; False if one was refuted, None if none
        was refuted but one was not measured."""
        verdicts = [edge.effect and edge.effect.confirmed for edge in self.edges]
        return False if False in verdicts else None if None in verdicts else True


def strongest_paths(
    flow: Flow, n: int, *, ends_at: Callable[[str], bool] | None = None
) -> list[GraphPath]:
    """The `n` paths with the largest shares; with `ends_at` only those that begin at such a node.

    A search from the targets down, guided by the best that each node can still reach: nothing is
    looked at twice that is not part of an answer, and the order is exact.
    """
    best = _best_below(flow, ends_at)
    queue: list[tuple[float, tuple[str, ...], float, tuple[Supply, ...]]] = []
    for target, weight in flow.weights.items():
        if weight * best[target] > 0 and target in flow.inputs:
            heappush(queue, (-weight * best[target], (target,), weight, ()))
    found: list[GraphPath] = []
    while queue and len(found) < n:
        _, nodes, share, steps = heappop(queue)
        inputs = flow.inputs.get(nodes[-1])
        if not inputs:
            found.append(_path(nodes, steps, share))
            continue
        for step in inputs:
            source = step.edge.source
            if best[source] > 0:
                below = share * step.share
                heappush(queue, (-below * best[source], (*nodes, source), below, (*steps, step)))
    return found


def n_paths(flow: Flow) -> int:
    """How many paths lead from an end of the graph to its targets."""
    count = dict.fromkeys(flow.through, 0)
    for node in reversed(flow.order):
        inputs = flow.inputs.get(node)
        count[node] = sum(count[step.edge.source] for step in inputs) if inputs else 1
    return sum(count[target] for target in flow.weights if target in flow.inputs)


def _best_below(flow: Flow, ends_at: Callable[[str], bool] | None) -> dict[str, float]:
    """The largest product of shares from each node down to an end."""
    best = dict.fromkeys(flow.through, 0.0)
    for node in reversed(flow.order):
        inputs = flow.inputs.get(node)
        if inputs:
            best[node] = max(step.share * best[step.edge.source] for step in inputs)
        else:
            best[node] = float(ends_at is None or ends_at(node))
    return best


def _path(nodes: tuple[str, ...], steps: tuple[Supply, ...], share: float) -> GraphPath:
    edges = [step.edge for step in reversed(steps)]
    negative = sum(edge.weight < 0 for edge in edges)
    return GraphPath(
        nodes=list(reversed(nodes)), edges=edges, share=share, sign=-1 if negative % 2 else 1
    )
