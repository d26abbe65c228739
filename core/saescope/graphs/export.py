"""Graphs as JSON of "graph-schema 1.0.0", which circuit-tracer's page and Neuronpedia open.

Two nodes may have one id there: the error of layer l at a position is `0_l_p`, and so is feature l
of layer 0. The error is renamed then, and the file's description says so. What the schema has no
name for (own ids, scores, measurements) stands under `saescope`, which other programs pass over.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from saescope.graphs.flow import Flow
from saescope.graphs.paths import strongest_paths
from saescope.records.graph import Graph, GraphEdge, GraphNode
from saescope.untrusted import clean_line

SCHEMA_VERSION = 1
FEATURE, ERROR, TOKEN, LOGIT = (
    "cross layer transcoder",
    "mlp reconstruction error",
    "embedding",
    "logit",
)
"""The types of nodes in the schema; features of a layer's own transcoder bear the first, too."""
OWN = "saescope"
"""The key of what the schema has no name for."""


@dataclass(frozen=True, kw_only=True)
class GraphFile:
    """A graph with what its file says besides."""

    graph: Graph
    slug: str
    """A short name; in file names and addresses."""
    scan: str
    """The model's name; Neuronpedia looks its features up under it."""
    prompt: str = ""
    """The prompt as one text; the tokens side by side if empty."""
    n_layers: int | None = None
    """Layers of the model; the last one in the graph if unknown."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """What features stand for, by the id of their nodes."""
    pinned: list[str] = field(default_factory=list[str])
    """Ids of the nodes that are shown first."""
    source_set: str = ""
    """The set of Neuronpedia that the features belong to, if they do."""
    description: str = ""


def export_graph(file: GraphFile) -> dict[str, Any]:
    """The file's content; `json.dumps(..., allow_nan=False)` writes it."""
    ids, renamed = exported_ids(file)
    return {
        "metadata": _metadata(file, ids, renamed),
        "qParams": {
            "pinnedIds": [ids[node] for node in file.pinned],
            "supernodes": [
                [clean_line(group.name), *(ids[node] for node in group.nodes)]
                for group in file.graph.groups
            ],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": _nodes(file, ids),
        "links": [_link(edge, ids) for edge in file.graph.edges],
    }


def export_text(file: GraphFile) -> str:
    """The same as the text of a file."""
    return json.dumps(export_graph(file), allow_nan=False)


def first_shown(graph: Graph, n_paths: int = 5) -> list[str]:
    """Nodes for a page to begin with, which draws edges between pinned nodes alone: those of the
    strongest paths, and whole groups of which one is among them."""
    paths = strongest_paths(Flow.of(graph), n_paths)
    shown = dict.fromkeys(node for path in paths for node in path.nodes)
    for group in graph.groups:
        if any(node in shown for node in group.nodes):
            shown |= dict.fromkeys(group.nodes)
    return [*shown]


def listed(listing: Any, file: GraphFile) -> dict[str, Any]:
    """circuit-tracer's list of the graphs in a folder, `graph-metadata.json`, with this one in it;
    its page opens no graph that is not listed. `listing` is what is there, None if nothing is.

    Raises:
        ValueError: what is there is no such list.
    """
    there = {"graphs": []} if listing is None else listing
    graphs = there.get("graphs") if isinstance(there, dict) else None
    if not isinstance(graphs, list) or not all(isinstance(each, dict) for each in graphs):
        raise ValueError("no list of graphs")
    others = [each for each in graphs if each.get("slug") != file.slug]
    own = _metadata(file, *exported_ids(file))
    return {**there, "graphs": [*others, {name: own[name] for name in _LISTED}]}


_LISTED = (
    *("slug", "scan", "transcoder_list", "prompt_tokens", "prompt"),
    *("node_threshold", "schema_version"),
)


def exported_ids(file: GraphFile) -> tuple[dict[str, str], list[str]]:
    """The schema's id of each node, and the nodes that lost theirs to another one: features keep
    it, errors give way."""
    top = _logit_layer(file)
    ids, taken = dict[str, str](), set[str]()
    renamed: list[str] = []
    ranks = ["feature", "token", "logit", "error"]
    for node in sorted(file.graph.nodes, key=lambda node: ranks.index(node.kind)):
        wanted = _schema_id(file.graph, node, top)
        free = next(name for name in _tries(wanted, node.kind) if name not in taken)
        if free != wanted:
            renamed.append(node.id)
        ids[node.id] = free
        taken.add(free)
    return ids, renamed


def cantor(layer: int, feature: int) -> int:
    """One number for a layer and a feature, as circuit-tracer pairs them."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def shares_from_the_top(graph: Graph) -> dict[str, float]:
    """The `influence` of the schema: the share of all influence that lies in this node and in those
    with more; small is important.

    The nodes that pruning dropped are not known any more: what is kept is taken to hold the share
    that it was kept for.
    """
    nodes = [node for node in graph.nodes if node.kind != "logit"]
    nodes.sort(key=lambda node: (-node.influence, node.id))
    whole, reached, shares = sum(node.influence for node in nodes), 0.0, dict[str, float]()
    for node in nodes:
        reached += node.influence
        share = reached / whole if whole else 1.0
        # Pages hide what is above the threshold: rounding must not put the last node there.
        shares[node.id] = graph.settings.node_share * min(share, 1.0)
    return shares


def _metadata(file: GraphFile, ids: Mapping[str, str], renamed: list[str]) -> dict[str, Any]:
    graph = file.graph
    said = [file.description] if file.description else []
    if renamed:
        pairs = ", ".join(f"{node} is {ids[node]}" for node in renamed[:8])
        more = f" and {len(renamed) - 8} more" if len(renamed) > 8 else ""
        said.append(f"Nodes whose id another one has in this format were renamed: {pairs}{more}.")
    details = {"neuronpedia_source_set": file.source_set} if file.source_set else {}
    return {
        "slug": file.slug,
        "scan": file.scan,
        "transcoder_list": [],
        "prompt_tokens": list(graph.tokens),
        "prompt": file.prompt or "".join(graph.tokens),
        "node_threshold": graph.settings.node_share,
        "schema_version": SCHEMA_VERSION,
        "feature_details": details,
        "info": {"description": " ".join(said), "generator": {"name": "saescope"}},
        "generation_settings": {
            "max_n_logits": graph.settings.most_targets,
            "desired_logit_prob": graph.settings.enough_prob,
            "max_feature_nodes": graph.settings.max_features,
        },
        "pruning_settings": {
            "node_threshold": graph.settings.node_share,
            "edge_threshold": graph.settings.edge_share,
        },
        OWN: _own(file),
    }


def _own(file: GraphFile) -> dict[str, Any]:
    graph = file.graph
    kept = asdict(graph)
    whole = {name: kept[name] for name in _PLAIN_FIELDS}
    return whole | {
        "scores": kept["scores"],
        "kept_scores": kept["kept_scores"],
        "settings": kept["settings"],
        "targets": kept["targets"],
        "proof": kept["proof"],
        "by_hand": [group.by_hand for group in graph.groups],
        "n_layers": file.n_layers,
        "description": file.description,
    }


_PLAIN_FIELDS = (
    *("token_ids", "kind", "n_active", "n_traced", "untraced", "n_left_out", "warnings"),
)


def _nodes(file: GraphFile, ids: Mapping[str, str]) -> list[dict[str, Any]]:
    graph, top, shares = file.graph, _logit_layer(file), shares_from_the_top(file.graph)
    first = next((target.id for target in graph.targets), "")
    probs = {target.id: target.prob for target in graph.targets}
    names = _js_ids(graph)
    made: list[dict[str, Any]] = []
    for node in graph.nodes:
        prob = probs.get(node.id, 0.0)
        label = f'Output "{node.token}" (p={prob:.3f})' if node.kind == "logit" else ""
        own: dict[str, Any] = {
            "id": node.id,
            "influence": node.influence,
            "sae": node.sae,
            "token": node.token,
        }
        own |= {"effect": asdict(node.effect)} if node.effect else {}
        own |= {} if node.lost is None else {"lost": node.lost}
        made.append(
            {
                "node_id": ids[node.id],
                "feature": _number(graph, node),
                "layer": _layer(node, top),
                "ctx_idx": node.pos,
                "feature_type": _TYPES[node.kind],
                "token_prob": prob,
                "is_target_logit": node.id == first,
                "run_idx": 0,
                "reverse_ctx_idx": 0,
                "jsNodeId": names[node.id],
                "clerp": label or clean_line(file.labels.get(node.id, "")),
                "influence": shares.get(node.id),
                "activation": node.activation,
                OWN: own,
            }
        )
    return made


_TYPES = {"feature": FEATURE, "error": ERROR, "token": TOKEN, "logit": LOGIT}


def _link(edge: GraphEdge, ids: Mapping[str, str]) -> dict[str, Any]:
    made = {"source": ids[edge.source], "target": ids[edge.target], "weight": edge.weight}
    own = {"flow": edge.flow} | ({"effect": asdict(edge.effect)} if edge.effect else {})
    return made | {OWN: own}


def _logit_layer(file: GraphFile) -> int:
    layers = [node.layer for node in file.graph.nodes if node.layer is not None]
    return (max([-1, *layers]) + 1 if file.n_layers is None else file.n_layers) + 1


def _layer(node: GraphNode, top: int) -> str:
    return {"token": "E", "logit": str(top)}.get(node.kind, str(node.layer))


def _token_id(graph: Graph, node: GraphNode) -> int:
    if node.kind == "token":
        return graph.token_ids[node.pos]
    return next(target.token for target in graph.targets if target.id == node.id)


def _number(graph: Graph, node: GraphNode) -> int:
    if node.kind == "feature":
        return cantor(node.layer or 0, node.feature or 0)
    return {
        "error": lambda: -1,
        "token": lambda: node.pos,
        "logit": lambda: _token_id(graph, node),
    }[node.kind]()


def _schema_id(graph: Graph, node: GraphNode, top: int) -> str:
    if node.kind == "feature":
        return f"{node.layer}_{node.feature}_{node.pos}"
    if node.kind == "error":
        return f"0_{node.layer}_{node.pos}"
    return f"{_layer(node, top)}_{_token_id(graph, node)}_{node.pos}"


def _js_ids(graph: Graph) -> dict[str, str]:
    """How pages name nodes: a feature alike at all positions; an error never like a feature."""
    made: dict[str, str] = {}
    for node in graph.nodes:
        if node.kind == "feature":
            made[node.id] = f"{node.layer}_{node.feature}-0"
    features = set(made.values())
    for node in graph.nodes:
        if node.kind == "error":
            name = f"{node.layer}_{node.pos}-0"
            made[node.id] = f"{name}-error" if name in features else name
        elif node.kind != "feature":
            letter = "E" if node.kind == "token" else "L"
            made[node.id] = f"{letter}_{_token_id(graph, node)}-{node.pos}"
    return made


def _tries(wanted: str, kind: str) -> Iterable[str]:
    yield wanted
    yield f"{wanted}_{kind}"
    n = 2
    while True:
        yield f"{wanted}_{kind}{n}"
        n += 1
