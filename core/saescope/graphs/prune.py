"""The part of a graph that is kept: nodes that most of the influence flows through, then the edges
that carry most of it (Ameisen et al. 2025, "Circuit Tracing")."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.graphs.influence import Influence, threshold
from saescope.graphs.rows import RowStore


@dataclass(frozen=True, slots=True)
class Edges:
    """Edges between nodes: columns first, then the logit targets."""

    targets: Int[Tensor, " n"]
    sources: Int[Tensor, " n"]
    weights: Float[Tensor, " n"]

    def keep(self, mask: Bool[Tensor, " n"]) -> "Edges":
        """Some of the edges."""
        return Edges(self.targets[mask], self.sources[mask], self.weights[mask])

    def shares(self, n_nodes: int) -> Float[Tensor, " n"]:
        """Each edge's absolute weight as a share of all that enter its target."""
        sizes = self.weights.abs().double()
        total = torch.zeros(n_nodes, dtype=torch.float64).index_add_(0, self.targets, sizes)
        return sizes / total.clamp(min=1e-10)[self.targets]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What is kept of a graph."""

    columns: Int[Tensor, " n_nodes"]
    """Kept sources, by column."""
    edges: Edges
    scores: Float[Tensor, " n_edges"]
    """Influence that flows along each edge."""


def prune(
    store: RowStore,
    found: Influence,
    weights: Float[Tensor, " n_targets"],
    *,
    node_share: float,
    edge_share: float,
) -> Pruned:
    """The nodes that together hold `node_share` of the influence, then the edges that hold
    `edge_share` of what is left, then no node without a way in and out. Tokens and logits stay."""
    columns, n = store.columns, store.columns.n
    candidates = candidates_of(store)
    kept = torch.zeros(n + len(weights), dtype=torch.bool)
    kept[:n] = candidates & (found.of >= threshold(found.of[candidates], node_share))
    kept[columns.tokens_at :] = True
    edges = _between(store, kept)
    scores = edge_scores(edges, kept, weights)
    strong = scores >= threshold(scores, edge_share)
    edges, scores = edges.keep(strong), scores[strong]
    while True:
        ends = kept.clone()
        ends[: columns.tokens_at] &= _marked(edges.sources, len(kept))[: columns.tokens_at]
        ends[: columns.n_features] &= _marked(edges.targets, len(kept))[: columns.n_features]
        alive = ends[edges.targets] & ends[edges.sources]
        edges, scores = edges.keep(alive), scores[alive]
        if bool((ends == kept).all()):
            return Pruned(kept[:n].nonzero()[:, 0], edges, scores)
        kept = ends


def edge_scores(
    edges: Edges, kept: Bool[Tensor, " n_nodes"], weights: Float[Tensor, " n_targets"]
) -> Float[Tensor, " n_edges"]:
    """The influence that flows along each edge, in the graph of these edges alone."""
    shares = edges.shares(len(kept))
    return shares * through(edges, shares, len(kept), weights)[edges.targets]


def through(
    edges: Edges,
    shares: Float[Tensor, " n_edges"],
    n_nodes: int,
    weights: Float[Tensor, " n_targets"],
) -> Float[Tensor, " n_nodes"]:
    """What flows through each node from the targets, which are the last nodes, where each edge
    passes on its share of what its target has."""
    flow = torch.zeros(n_nodes, dtype=torch.float64)
    flow[n_nodes - len(weights) :] = weights.double()
    own = flow
    # Powers of a matrix that is nilpotent: as many as the longest path has edges.
    while bool(flow.any()):
        flow = torch.zeros_like(flow).index_add_(0, edges.sources, flow[edges.targets] * shares)
        own = own + flow
    return own


def candidates_of(store: RowStore) -> Bool[Tensor, " n_columns"]:
    """Columns that may be nodes: features whose rows were computed, errors, tokens."""
    mask = torch.ones(store.columns.n, dtype=torch.bool)
    mask[: store.columns.n_features] = False
    for reader, parts in store.parts.items():
        for rows in parts if reader is not None else ():
            mask[rows.targets] = True
    return mask


def _between(store: RowStore, kept: Bool[Tensor, " n_nodes"]) -> Edges:
    """All edges between nodes that are kept."""
    targets, sources, weights = list[Tensor](), list[Tensor](), list[Tensor]()
    for reader, parts in store.parts.items():
        for rows in parts:
            names = rows.targets + (store.columns.n if reader is None else 0)
            here = kept[names]
            columns = rows.columns[here].long()
            inside = kept[columns] & (rows.weights[here] != 0)
            targets.append(names[here][:, None].expand_as(columns)[inside])
            sources.append(columns[inside])
            weights.append(rows.weights[here][inside])
    return Edges(torch.cat(targets), torch.cat(sources), torch.cat(weights))


def _marked(places: Int[Tensor, " n"], n: int) -> Bool[Tensor, " m"]:
    mask = torch.zeros(n, dtype=torch.bool)
    mask[places] = True
    return mask
