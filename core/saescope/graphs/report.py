"""A traced graph as plain data."""

from collections import Counter

import torch

from saescope.graphs.columns import NodePlace
from saescope.graphs.influence import Influence
from saescope.graphs.prune import through
from saescope.graphs.replacement import FINAL
from saescope.graphs.trace import Traced
from saescope.precision import wide
from saescope.records.graph import Graph, GraphEdge, GraphNode, GraphScores, GraphTarget


def as_record(traced: Traced) -> Graph:
    """The kept part of the graph, nodes by layer, position and influence, edges by flow."""
    clean, columns, kept = traced.clean, traced.store.columns, traced.kept
    places = {column: columns.place(column) for column in kept.columns.tolist()}
    names = node_ids(traced, places)
    targets = [_target(traced, i) for i in range(len(traced.targets))]
    names |= {columns.n + i: target.id for i, target in enumerate(targets)}
    nodes = [_node(traced, column, place, names[column]) for column, place in places.items()]
    edges, whole = kept.edges, float(traced.weights.sum())
    order = kept.scores.argsort(descending=True, stable=True).tolist()
    return Graph(
        tokens=list(traced.tokens.strings),
        token_ids=traced.tokens.ids.tolist(),
        targets=targets,
        nodes=nodes + [_logit_node(traced, target) for target in targets],
        edges=[
            GraphEdge(
                source=names[int(edges.sources[i])],
                target=names[int(edges.targets[i])],
                weight=float(edges.weights[i]),
                flow=float(kept.scores[i]) / whole,
            )
            for i in order
        ],
        scores=_scores(traced.influence),
        kept_scores=_scores(kept_influence(traced)),
        kind=traced.kind,
        n_active=columns.n_features,
        n_traced=traced.store.n - len(targets),
        untraced=traced.influence.rowless / whole,
        n_left_out=clean.n_left_out,
        settings=traced.settings,
        warnings=[],
    )


def kept_influence(traced: Traced) -> Influence:
    """Influence in the kept graph alone, whatever was dropped counted as error."""
    columns, edges, weights = traced.store.columns, traced.kept.edges, traced.weights
    n = columns.n + len(weights)
    total = torch.ones(n, dtype=torch.float64)
    for reader, parts in traced.store.parts.items():
        for rows in parts:
            total[rows.targets + (columns.n if reader is None else 0)] = rows.total.double()
    shares = edges.weights.abs().double() / total.clamp(min=1e-10)[edges.targets]
    is_error = (edges.sources >= columns.n_features) & (edges.sources < columns.tokens_at)
    own = through(edges, shares, n, weights)
    explained = torch.zeros(n, dtype=torch.float64)
    explained.index_add_(0, edges.targets[~is_error], shares[~is_error])
    reads = torch.zeros(n, dtype=torch.bool)
    reads[edges.targets] = True
    reads[columns.n :] = True
    inside, tokens = own * reads, float(own[columns.tokens_at : columns.n].sum())
    errors = float((inside * (1 - explained)).sum())
    whole = float(inside.sum()) + tokens + errors
    complete = float((inside * explained).sum()) + tokens + errors
    return Influence(own[: columns.n], tokens, errors, 0.0, complete / whole if whole else 0.0)


def _scores(found: Influence) -> GraphScores:
    return GraphScores(replacement=found.replacement, completeness=found.completeness)


def layer_labels(traced: Traced) -> tuple[list[str], list[str]]:
    """How the layer of each member, and of each site, is written in ids: a letter tells two of one
    layer apart."""
    return _labels([m.layer for m in traced.clean.members]), _labels(
        [site.layer for site in traced.clean.sites]
    )


def _labels(layers: list[int]) -> list[str]:
    n, seen = Counter(layers), Counter[int]()
    labels: list[str] = []
    for layer in layers:
        labels.append(f"{layer}{chr(ord('a') + seen[layer])}" if n[layer] > 1 else f"{layer}")
        seen[layer] += 1
    return labels


def node_ids(traced: Traced, places: dict[int, NodePlace]) -> dict[int, str]:
    """The id of each column."""
    members, sites = layer_labels(traced)
    forms = {
        "feature": lambda p: f"f{members[p.owner]}.{p.feature}@{p.pos}",
        "error": lambda p: f"e{sites[p.owner]}@{p.pos}",
        "token": lambda p: f"t@{p.pos}",
    }
    return {column: forms[place.kind](place) for column, place in places.items()}


def _target(traced: Traced, i: int) -> GraphTarget:
    target, model = traced.targets[i], traced.clean.model
    label = model.token_text(target.token)
    against = "" if target.against is None else f"-{target.against}"
    if target.against is not None:
        label = f"{label} - {model.token_text(target.against)}"
    final = traced.clean.there[FINAL].reshape(traced.clean.n_pos, -1)[-1]
    return GraphTarget(
        id=f"o{target.token}{against}",
        label=label,
        token=target.token,
        against=target.against,
        prob=target.prob,
        weight=target.weight,
        value=float(wide(target.direction) @ wide(final)) + target.constant,
    )


def _node(traced: Traced, column: int, place: NodePlace, name: str) -> GraphNode:
    clean, is_feature = traced.clean, place.kind == "feature"
    acts = clean.acts[place.owner] if is_feature else None
    start = traced.store.columns.starts[place.owner]
    layer = {
        "feature": lambda: clean.members[place.owner].layer,
        "error": lambda: clean.sites[place.owner].layer,
        "token": lambda: None,
    }[place.kind]()
    return GraphNode(
        id=name,
        kind=place.kind,
        sae=place.owner if is_feature else None,
        layer=layer,
        pos=place.pos,
        token=traced.tokens.strings[place.pos],
        feature=place.feature if is_feature else None,
        activation=None if acts is None else float(acts.values[column - start]),
        influence=float(traced.influence.of[column]) / float(traced.weights.sum()),
    )


def _logit_node(traced: Traced, target: GraphTarget) -> GraphNode:
    return GraphNode(
        id=target.id,
        kind="logit",
        sae=None,
        layer=None,
        pos=traced.clean.n_pos - 1,
        token=target.label,
        feature=None,
        activation=None,
        influence=target.weight / float(traced.weights.sum()),
    )
