"""Whether a graph is true: its nodes ablated in the model, and what that does to the nodes after
them beside what the graph predicts; and the kept part beside random parts of equal size."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.cancel import stop_if_cancelled
from saescope.controls import compare_with
from saescope.graphs.live import MAX_TOKENS, Live, run_live, without, without_all
from saescope.graphs.replacement import EMBED, FINAL, Pass
from saescope.graphs.report import as_record, node_ids
from saescope.graphs.rows import GraphRows
from saescope.graphs.trace import Traced
from saescope.metrics import spearman
from saescope.precision import wide
from saescope.progress import Progress
from saescope.records.graph import (
    Graph,
    GraphEdge,
    GraphEffect,
    GraphNode,
    GraphProof,
    KeptOrRandom,
)

STRONGEST = 50
"""Edges of which the proof says how many are confirmed."""
_LINEAR = 8
"""Nodes for which the algebra is checked."""


class NodeEffects(NamedTuple):
    """What ablating each of some sources does to every kept node, clean minus ablated."""

    sources: list[int]
    """Columns."""
    names: list[int]
    """Kept nodes: columns, then `n + i` for target i."""
    predicted: Float[Tensor, "n_sources n_names"]
    frozen: Float[Tensor, "n_sources n_names"]
    free: Float[Tensor, "n_sources n_names"]
    lost: Float[Tensor, " n_sources"]
    """What the first target's quantity loses, with nothing held."""


def prove(traced: Traced, *, progress: Progress | None = None) -> Graph:
    """The graph with what was measured of it in `proof`, and in `effect` of nodes and edges.

    Each kept feature and error, the most influential first, is ablated alone: with attention
    patterns held as in the clean run and all else live, and with nothing held. The prediction is
    the change along all paths of the linear graph.
    """
    graph = as_record(traced)
    sources = _sources(traced, traced.settings.most_measured)
    measured = _measure(traced, sources, progress)
    ids = node_ids(traced, {c: traced.store.columns.place(c) for c in traced.kept.columns.tolist()})
    ids |= {traced.store.columns.n + i: target.id for i, target in enumerate(graph.targets)}
    effects = _effects(measured, ids)
    lost = {ids[c]: float(n) for c, n in zip(measured.sources, measured.lost, strict=True)}
    nodes = [
        replace(
            node,
            effect=effects.get((node.id, graph.targets[0].id)),
            lost=lost.get(node.id),
        )
        for node in graph.nodes
    ]
    edges = [replace(edge, effect=effects.get((edge.source, edge.target))) for edge in graph.edges]
    proof = _proof(traced, nodes, edges, measured)
    return replace(graph, nodes=nodes, edges=edges, proof=proof)


def _sources(traced: Traced, most: int) -> list[int]:
    """The kept features and errors that are ablated."""
    kept = traced.kept.columns
    kept = kept[kept < traced.store.columns.tokens_at]
    order = traced.influence.of[kept].argsort(descending=True, stable=True)
    return kept[order][:most].tolist()


def _measure(traced: Traced, sources: list[int], progress: Progress | None) -> NodeEffects:
    columns, clean = traced.store.columns, traced.clean
    names = _readers(traced)
    unchanged = run_live(clean, 1, _nothing, hold_attention=False)
    before, quantity = _values(traced, names, unchanged.read), _quantity(traced, unchanged)
    results: dict[bool, list[Tensor]] = {True: [], False: []}
    lost: list[Tensor] = []
    size = max(1, MAX_TOKENS // clean.n_pos)
    for start in range(0, len(sources), size):
        stop_if_cancelled()
        places = [columns.place(column) for column in sources[start : start + size]]
        for hold in (True, False):
            live = run_live(clean, len(places), without(columns, places), hold_attention=hold)
            results[hold].append(before - _values(traced, names, live.read))
            lost += [] if hold else [quantity - _quantity(traced, live)]
        if progress:
            progress(min(start + size, len(sources)), len(sources))
    predicted = predict(traced, sources, names).T
    # Nothing may be kept to ablate.
    frozen, free = (torch.cat([before[:0], *results[hold]]) for hold in (True, False))
    return NodeEffects(
        sources, names, predicted, frozen, free, torch.cat([quantity[:0], *lost]).cpu()
    )


def _readers(traced: Traced) -> list[int]:
    """Kept nodes that owe something to others: features by column, then `n + i` for target i."""
    columns, kept = traced.store.columns, traced.kept.columns
    targets = range(columns.n, columns.n + len(traced.targets))
    return [*kept[kept < columns.n_features].tolist(), *targets]


def _nothing(site: int, read: object) -> None:
    return None


def _values(traced: Traced, names: Sequence[int], read: object) -> Float[Tensor, "n n_names"]:
    """The pre-activation of each feature, and each target's demeaned logit, in every row of a
    pass."""
    assert isinstance(read, dict)
    columns, clean = traced.store.columns, traced.clean
    n = read[FINAL].shape[0]
    out = torch.zeros(n, len(names), dtype=torch.float64)
    features = torch.tensor([name for name in names if name < columns.n], dtype=torch.long)
    members = columns.member_of(features)
    for i in members.unique().tolist():
        own = (members == i).nonzero()[:, 0]
        acts, at = clean.acts[i], features[own] - columns.starts[i]
        x = clean.x(i, read[clean.members[i].read_hook]).reshape(n, clean.n_pos, -1)
        which, place = acts.features[at].unique(return_inverse=True)
        positions, back = acts.positions[at].unique(return_inverse=True)
        pre = clean.members[i].hidden_pre(x[:, positions].flatten(0, 1), which)
        out[:, own] = pre.reshape(n, len(positions), -1)[:, back, place].cpu().double()
    final = wide(read[FINAL][:, -1])
    for k, target in enumerate(traced.targets):
        out[:, len(features) + k] = (final @ target.direction.to(final)).cpu()
    return out


def predict(
    traced: Traced, sources: Sequence[int], names: Sequence[int]
) -> Float[Tensor, "n_names n_sources"]:
    """What ablating each source takes from each of `names` along all paths: from a feature u that
    loses d of its activation a, each of its edges loses the share d / a, and u loses no more than
    a."""
    columns, store = traced.store.columns, traced.store
    known, place = _places(traced, [*sources, *names])
    change = torch.zeros(len(known), len(sources), dtype=torch.float64)
    share = torch.zeros(len(known), len(sources), dtype=torch.float64)
    share[place[torch.tensor(sources, dtype=torch.long)], torch.arange(len(sources))] = 1
    values = torch.cat([acts.values for acts in traced.clean.acts]).cpu().double()
    for reader in reversed(store.readers()):
        for rows in store.parts[reader]:
            targets = rows.targets + (columns.n if reader is None else 0)
            at = place[targets]
            change[at] = _edges(rows, place, len(known)) @ share
            if reader is not None:
                own = share[at]
                lost = (change[at] / values[targets][:, None]).clamp(max=1)
                share[at] = torch.where(own == 1, own, lost)
    return change[place[torch.tensor(names, dtype=torch.long)]]


def _places(traced: Traced, also: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The nodes that have rows, and these: of a long prompt's million columns no others lose
    anything. And the place of each node among them, -1 for the others."""
    columns, parts = traced.store.columns, traced.store.parts
    n = columns.n + len(traced.targets)
    rows = [rows.targets for reader in parts if reader is not None for rows in parts[reader]]
    asked = torch.tensor([*also, *range(columns.n, n)], dtype=torch.long)
    known = torch.cat([asked, *rows]).unique()
    return known, torch.full((n,), -1).index_put((known,), torch.arange(len(known)))


def _edges(rows: GraphRows, place: Tensor, n_known: int) -> Float[Tensor, "n n_known"]:
    """The weights of rows over those columns that have a place."""
    row, slot = (place[rows.columns.long()] >= 0).nonzero(as_tuple=True)
    known = place[rows.columns[row, slot].long()]
    out = torch.zeros(len(rows.targets), n_known, dtype=torch.float64)
    return out.index_put((row, known), rows.weights[row, slot].double())


def _effects(measured: NodeEffects, ids: dict[int, str]) -> dict[tuple[str, str], GraphEffect]:
    effects: dict[tuple[str, str], GraphEffect] = {}
    for i, source in enumerate(measured.sources):
        for j, name in enumerate(measured.names):
            predicted, frozen = float(measured.predicted[i, j]), float(measured.frozen[i, j])
            effects[ids[source], ids[name]] = GraphEffect(
                predicted=predicted,
                frozen=frozen,
                free=float(measured.free[i, j]),
                confirmed=is_confirmed(predicted, frozen),
            )
    return effects


def is_confirmed(predicted: float, measured: float) -> bool:
    """Whether the two have one sign, and the measured effect half to twice the predicted size."""
    return predicted != 0 and 0.5 <= measured / predicted <= 2


def _proof(
    traced: Traced,
    nodes: Sequence[GraphNode],
    edges: Sequence[GraphEdge],
    measured: NodeEffects,
) -> GraphProof:
    strongest = [edge.effect for edge in strongest_edges(edges) if edge.effect]
    tested = [node.effect for node in nodes if node.effect]
    first = measured.names.index(traced.store.columns.n)
    return GraphProof(
        n_edges=len(strongest),
        n_confirmed=sum(effect.confirmed for effect in strongest),
        n_nodes=len(tested),
        n_nodes_confirmed=sum(effect.confirmed for effect in tested),
        linear_off=_linear_off(traced, measured.sources[:_LINEAR]),
        rank_correlation=spearman(measured.predicted[:, first], measured.frozen[:, first]),
        **_parts(traced),
    )


def strongest_edges(edges: Sequence[GraphEdge]) -> list[GraphEdge]:
    """The edges of which a proof says how many are confirmed: those with the most influence of all
    whose source was ablated."""
    return [edge for edge in edges if edge.effect][:STRONGEST]


def _linear_off(traced: Traced, sources: list[int]) -> float:
    """How far the replacement model without a source is from the edges of that source."""
    if not sources:
        return 0.0
    columns, clean = traced.store.columns, traced.clean
    places = [columns.place(column) for column in sources]
    change = without(columns, places)
    index = {site.hook_name: i for i, site in enumerate(clean.sites)}

    def added(hook_name: str, there: Tensor) -> Tensor:
        lost = None if hook_name == EMBED else change(index[hook_name], {})
        return there if lost is None else there + lost.reshape(there.shape)

    names = _readers(traced)
    before = _values(traced, names, Pass(clean, 1, lambda _, there: there).read)
    lost = before - _values(traced, names, Pass(clean, len(places), added).read)
    direct = torch.zeros(len(sources), columns.n + len(traced.targets), dtype=torch.float64)
    for reader, parts in traced.store.parts.items():
        for rows in parts:
            targets = rows.targets + (columns.n if reader is None else 0)
            for i, source in enumerate(sources):
                direct[i, targets] = ((rows.columns == source) * rows.weights).sum(1).double()
    edges = direct[:, names]
    return float((lost - edges).abs().max() / edges.abs().max().clamp(min=1e-10))


def _parts(traced: Traced) -> dict[str, KeptOrRandom]:
    """The kept features ablated, and all but them, beside as many random ones of each member."""
    columns, clean = traced.store.columns, traced.clean
    kept = traced.kept.columns[traced.kept.columns < columns.n_features]
    parts = [kept, *_random_parts(traced, kept)]
    every = torch.arange(columns.n_features)
    rest = [every[~torch.isin(every, part)] for part in parts]
    effects: dict[str, list[float]] = {}
    before = _quantity(traced, run_live(clean, 1, _nothing, hold_attention=False))[0]
    for name, sets in (("necessity", parts), ("sufficiency", rest)):
        effects[name] = []
        size = max(1, MAX_TOKENS // clean.n_pos)
        for start in range(0, len(sets), size):
            group = sets[start : start + size]
            live = run_live(clean, len(group), without_all(columns, group), hold_attention=False)
            effects[name] += (before - _quantity(traced, live)).tolist()
    return {name: _beyond(all_, more=name == "necessity") for name, all_ in effects.items()}


def _beyond(effects: list[float], *, more: bool) -> KeptOrRandom:
    """The kept features beside random ones: outside them only where they cost more without them
    (necessity), or less alone (sufficiency)."""
    kept, *random = effects
    controls = compare_with(kept, random)
    better = controls.mean is not None and (kept > controls.mean) is more
    return KeptOrRandom(kept=kept, controls=replace(controls, outside=controls.outside and better))


def _quantity(traced: Traced, live: Live) -> Float[Tensor, " n"]:
    """The first target's log-probability in nats, or the difference of two logits."""
    target, logits = traced.targets[0], wide(live.logits)
    if target.against is None:
        return logits.log_softmax(-1)[:, target.token]
    return logits[:, target.token] - logits[:, target.against]


def _random_parts(traced: Traced, kept: Int[Tensor, " n"]) -> list[Int[Tensor, " n"]]:
    """Random active features, several times: from each member as many as are kept of it."""
    columns, parts = traced.store.columns, list[Tensor]()
    rng = torch.Generator().manual_seed(traced.settings.seed)
    for _ in range(traced.settings.n_controls):
        chosen: list[Tensor] = []
        for i in range(len(columns.clean.acts)):
            first, last = columns.starts[i], columns.starts[i + 1]
            wanted = int(((kept >= first) & (kept < last)).sum())
            chosen.append(first + torch.randperm(last - first, generator=rng)[:wanted])
        parts.append(torch.cat(chosen).sort().values)
    return parts
