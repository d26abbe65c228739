"""How much of a graph's targets each node accounts for, and what is kept of the graph.

With A normalised to |A[t, s]| / sum_s |A[t, s]| and w the weights of the targets, the influence of
a node is w (A + A^2 + ...): the share of the targets that flows through it (Ameisen et al. 2025,
"Circuit Tracing").
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.graphs.rows import RowStore


@dataclass(frozen=True, slots=True)
class Influence:
    """Influence of every column, and what it says of the graph as a whole."""

    of: Float[Tensor, " n_columns"]
    tokens: float
    """Influence that ends at tokens; below, at errors, and at features whose rows were not
    computed."""
    errors: float
    rowless: float
    completeness: float
    """The share of what flows into nodes that comes from other sources than errors."""

    @property
    def replacement(self) -> float:
        """The share of what ends at tokens or errors that ends at tokens."""
        whole = self.tokens + self.errors
        return self.tokens / whole if whole else 0.0


def influence(store: RowStore, weights: Float[Tensor, " n_targets"]) -> Influence:
    """One sweep from the logits down: a graph has no cycle, and a member's rows are owed to what is
    written before it reads."""
    of = torch.zeros(store.columns.n, dtype=torch.float64)
    tokens = errors = through = complete = 0.0
    has_row = torch.zeros(store.columns.n_features, dtype=torch.bool)
    for reader in store.readers():
        for rows in store.parts[reader]:
            flow = (weights if reader is None else of)[rows.targets].double()
            shares = rows.normalised.double() * flow[:, None]
            of.index_add_(0, rows.columns.flatten().long(), shares.flatten())
            norm = rows.total.double().clamp(min=1e-10)
            tokens += float((flow * rows.tokens / norm).sum())
            errors += float((flow * rows.errors / norm).sum())
            complete += float((flow * (1 - rows.errors / norm)).sum())
            through += float(flow.sum())
            if reader is not None:
                has_row[rows.targets] = True
    features = of[: store.columns.n_features]
    rowless = float(features[~has_row].sum())
    # Tokens and errors owe nothing to errors: they count as complete.
    ends, whole = tokens + errors, through + tokens + errors
    return Influence(of, tokens, errors, rowless, (complete + ends) / whole if whole else 0.0)


def threshold(scores: Float[Tensor, " n"], share: float) -> float:
    """The score at which the largest scores together reach `share` of all of them."""
    if not scores.numel():
        return 0.0
    ordered = scores.sort(descending=True).values
    reached = ordered.cumsum(0) / ordered.sum().clamp(min=1e-10)
    place = int(torch.searchsorted(reached, torch.tensor(share, dtype=reached.dtype)))
    return float(ordered[min(place, len(ordered) - 1)])
