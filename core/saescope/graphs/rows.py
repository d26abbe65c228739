"""The rows of a graph: what each target owes to every source, kept sparse with the exact mass of
what is not kept."""

from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

from saescope.graphs.columns import Columns

MOST_COLUMNS = 2000
"""Sources kept of a row, the strongest; of the others only the sum of their absolute values."""


@dataclass(slots=True)
class GraphRows:
    """GraphRows of one reader: a member's features, or the logits."""

    targets: Int[Tensor, " n"]
    """The column of each feature, or the index of each logit target."""
    columns: Int[Tensor, "n m"]
    weights: Float[Tensor, "n m"]
    """What each source supplies of the target's pre-activation, or of its demeaned logit."""
    total: Float[Tensor, " n"]
    """The sum of absolute weights over every source, kept or not."""
    errors: Float[Tensor, " n"]
    """The part of `total` that comes from errors, and below, from tokens."""
    tokens: Float[Tensor, " n"]
    explained: Float[Tensor, " n"]
    """The sum of weights with their signs, over every source."""

    @property
    def normalised(self) -> Float[Tensor, "n m"]:
        """|A[t, s]| as a share of the row."""
        return self.weights.abs() / self.total.clamp(min=1e-10)[:, None]


@dataclass(slots=True)
class RowStore:
    """All rows that have been computed, by reader; None is the logits."""

    columns: Columns
    parts: dict[int | None, list[GraphRows]] = field(
        default_factory=dict[int | None, list[GraphRows]]
    )

    def add(
        self, reader: int | None, targets: Int[Tensor, " n"], weights: Float[Tensor, "n n_columns"]
    ) -> None:
        """Keep the strongest sources of each row, and the sums over all; on the CPU."""
        weights = weights.cpu()
        sizes, first = weights.abs(), self.columns.n_features
        kept = sizes.topk(min(MOST_COLUMNS, weights.shape[1]), dim=1).indices
        rows = GraphRows(
            targets=targets.cpu(),
            columns=kept.int(),
            weights=weights.gather(1, kept),
            total=sizes.sum(1),
            errors=sizes[:, first : self.columns.tokens_at].sum(1),
            tokens=sizes[:, self.columns.tokens_at :].sum(1),
            explained=weights.sum(1),
        )
        self.parts.setdefault(reader, []).append(rows)

    def readers(self) -> list[int | None]:
        """Those that have rows, the last to read first: what a row is owed to was read earlier."""
        members = sorted((r for r in self.parts if r is not None), reverse=True)
        return [*([None] if None in self.parts else []), *members]

    @property
    def n(self) -> int:
        return sum(len(rows.targets) for parts in self.parts.values() for rows in parts)
