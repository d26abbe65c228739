"""What an attribution graph says: nodes, the edges between them, and how much of the targets they
account for."""

from dataclasses import dataclass, field

from saescope.records.controls import Comparison

ENOUGH_EXPLAINED = 0.5
"""The share of influence from tokens below which a graph explains the smaller part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphTarget:
    """One logit that the graph explains."""

    id: str
    """The id of its node."""
    label: str
    """The token's text; of a difference both texts."""
    token: int
    against: int | None
    """The token whose logit is subtracted, if one is."""
    prob: float
    """The probability of `token` after the prompt."""
    weight: float
    """How much the target counts in the influence of nodes: its probability, or 1 if it is the only
    one."""
    value: float
    """Its demeaned logit (the logit minus the mean of all logits), or the difference of logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """A feature at a position, the error there, a token, or a target."""

    id: str
    """`f<layer>.<feature>@<pos>`, `e<layer>@<pos>`, `t@<pos>` or `o<token>`."""
    kind: str
    """"feature", "error", "token" or "logit"."""
    sae: int | None
    """The place of its SAE in the set."""
    layer: int | None
    pos: int
    token: str
    """The text of the token at its position; of a target, the token that it is the logit of."""
    feature: int | None
    activation: float | None
    influence: float
    """The share of the targets that flows through it, in the whole graph."""
    effect: "GraphEffect | None" = None
    """What ablating it does to the first target; None where that was not measured."""
    lost: float | None = None
    """What the first target's log-probability (nats), or its difference of logits, loses with the
    node ablated and nothing held: the `effect` of `ss.intervene` with the other sign."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEdge:
    """What one node supplies of another's pre-activation, or of a target's demeaned logit."""

    source: str
    target: str
    weight: float
    flow: float
    """The share of the targets that flows along it, in the graph that is kept."""
    effect: "GraphEffect | None" = None
    """What ablating the source does to what the target reads; None where that was not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEffect:
    """What a node does to another one, predicted by the graph and measured by ablating it."""

    predicted: float
    """The change along all paths of the linear graph, the edge itself and those through other
    features; clean minus ablated, in units of the target."""
    frozen: float
    """The same with attention patterns as they were in the clean run and all else live; of SAEs
    between which attention is linearised, with nothing held."""
    free: float
    """The same with nothing held."""
    confirmed: bool
    """Whether `frozen` has the sign of `predicted` and between half and twice its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphGroup:
    """Nodes that are shown as one (a supernode)."""

    name: str
    nodes: list[str]
    by_hand: bool
    """Named by a person, rather than found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptOrRandom:
    """What the kept features do to the first target all at once, beside as many random ones."""

    kept: float
    controls: Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphProof:
    """What was measured of a graph by changing the model."""

    n_edges: int
    """Edges that were tested, the strongest by flow."""
    n_confirmed: int
    n_nodes: int
    """Nodes that were ablated."""
    n_nodes_confirmed: int
    linear_off: float
    """The largest difference of an edge from the change that its source makes in the replacement
    model, as a share of the strongest edge: whether the algebra holds. For SAEs of the stream,
    between which nothing is frozen, how far from linear the layers between are."""
    rank_correlation: float | None
    """Spearman's, of predicted and measured (`frozen`) effects on the first target."""
    necessity: KeptOrRandom
    """Clean minus the run with the kept features ablated."""
    sufficiency: KeptOrRandom
    """Clean minus the run in which all active features but the kept ones are ablated: the closer to
    zero, the more the kept ones suffice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphScores:
    """How much of the targets the features account for."""

    replacement: float
    """The share of the influence that ends at tokens, of what ends at tokens or errors."""
    completeness: float
    """The share of what flows into nodes that does not come from errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSettings:
    """How a graph is made, pruned and proved."""

    max_features: int = 2000
    """Features whose own sources are computed, the most influential first."""
    node_share: float = 0.8
    """Nodes are kept that together hold this share of the influence, the strongest first."""
    edge_share: float = 0.98
    """The same of the edges between them."""
    most_targets: int = 10
    enough_prob: float = 0.95
    """Without named targets, the most likely tokens up to this probability, at most so many."""
    most_measured: int = 100
    """Kept nodes that are ablated in the model, the most influential first; 0 measures nothing."""
    n_controls: int = 19
    """Random parts of the graph that the kept part is compared with."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """An attribution graph of one prompt."""

    tokens: list[str]
    token_ids: list[int]
    targets: list[GraphTarget]
    nodes: list[GraphNode]
    edges: list[GraphEdge]
    scores: GraphScores
    """The scores of the whole graph."""
    kept_scores: GraphScores
    """The scores of what is kept, with all that was dropped counted as error."""
    kind: str
    """What replaces what: "transcoders", "cross_layer" or "residual"."""
    n_active: int
    """Active features at all positions that count."""
    n_traced: int
    """Those of them whose own sources were computed."""
    untraced: float
    """The share of the targets that flows through features whose sources were not computed."""
    n_left_out: int
    """Positions from 0 on without features and errors."""
    settings: GraphSettings
    groups: list[GraphGroup] = field(default_factory=list[GraphGroup])
    proof: GraphProof | None = None
    warnings: list[str] = field(default_factory=list[str])


def smaller_part(replacement: float, untraced: float) -> str:
    """The warning that most of the influence ends in errors or in features that were not traced;
    empty where a graph explains most."""
    traced = 1 - min(untraced, 1.0)
    from_tokens = replacement * traced
    if from_tokens >= ENOUGH_EXPLAINED:
        return ""
    others = f" and {untraced:.0%} in features that were not traced" if untraced >= 0.005 else ""
    said = (
        f"Only {from_tokens:.0%} of the influence comes from tokens; {traced - from_tokens:.0%} "
        f"ends in errors{others}: the graph explains the smaller part."
    )
    return said.replace("%", " %")
