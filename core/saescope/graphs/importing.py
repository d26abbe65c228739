"""Graphs from JSON files of "graph-schema 1.0.0", by circuit-tracer, Neuronpedia or saescope.

A file is what a stranger wrote: sizes are bounded, every name must lead somewhere, nothing goes in
a circle, and numbers are finite. A pickled graph (`.pt`) is never opened.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from saescope import json_text
from saescope.errors import ArgumentError, FormatError
from saescope.fence import read_file
from saescope.graphs.export import ERROR, LOGIT, OWN, TOKEN, GraphFile, cantor
from saescope.graphs.flow import Flow, scores_alone
from saescope.records.controls import Comparison
from saescope.records.graph import (
    Graph,
    GraphEdge,
    GraphEffect,
    GraphGroup,
    GraphNode,
    GraphProof,
    GraphScores,
    GraphSettings,
    GraphTarget,
    KeptOrRandom,
)
from saescope.untrusted import clean_line

MOST_BYTES = 256 << 20
"""The largest file that is read; published ones have up to about 100 MB."""
MOST_NODES, MOST_LINKS, MOST_POSITIONS = 100_000, 2_000_000, 100_000
MOST_INDEX = 1 << 40
"""The largest number that may stand for a layer, a feature or a token."""
_ID = re.compile(r"(\d{1,6})_(\d{1,12})_(\d{1,6})(?:_.*)?")
_TOKEN_ID = re.compile(r"E_(\d{1,12})_\d{1,6}(?:_.*)?")
_OWN_ID = re.compile(r"[A-Za-z0-9@._#-]{1,80}")
_ROUNDED = 1e-3
_LORSA, _LORSA_ERROR = "lorsa", "lorsa error"
_T = TypeVar("_T", int, str, list[Any], dict[str, Any])


def import_graph(path: str | Path, *, field: str = "path") -> GraphFile:
    """Read a graph from its JSON file.

    Raises:
        FormatError: GRAPH_FILE_INVALID: no JSON of the schema, or one that contradicts itself;
            GRAPH_FILE_PICKLED; FILE_SUSPICIOUS.
        ArgumentError: PATH_NOT_ALLOWED.
    """
    content = read_file(path, limit=MOST_BYTES, field=field)
    if content[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        raise FormatError(
            f"{Path(path).name!r} is a pickled graph, which could run anything when it is opened.",
            code="GRAPH_FILE_PICKLED",
            field=field,
            got=Path(path).name,
            allowed="the JSON file that circuit-tracer writes beside it, or Neuronpedia's",
            hint="Make the JSON with circuit-tracer's create_graph_files where the graph comes "
            "from, then import that.",
        )
    return parse_graph(content, name=Path(path).name, field=field)


def parse_graph(
    content: str | bytes, *, name: str = "graph.json", field: str = "path"
) -> GraphFile:
    """The graph that the content of such a file holds; raises as `import_graph`."""
    try:
        said = json_text.parse(content, pairs=json_text.each_once)
        return _Reader(_typed(said, dict, "the file")).file()
    except (ValueError, ArgumentError) as error:
        raise FormatError(
            f"{name!r} is no graph that can be read: {error}.",
            code="GRAPH_FILE_INVALID",
            field=field,
            got=name,
            allowed="JSON of graph-schema 1.0.0 with metadata, qParams, nodes and links",
            hint="Export the graph again, or take it from another source.",
        ) from error


@dataclass(frozen=True, slots=True)
class _Read:
    """A node of the file with the names it has there and here."""

    exported: str
    node: GraphNode
    label: str
    prob: float
    token: int


class _Reader:
    """One file on its way to a graph; a ValueError completes "... : it"."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.metadata = _typed(said.get("metadata"), dict, "metadata")
        self.params = _typed(said.get("qParams") or {}, dict, "qParams")
        self.own = _typed(self.metadata.get(OWN, {}), dict, f"metadata.{OWN}")
        self.tokens = _texts(self.metadata.get("prompt_tokens"), "metadata.prompt_tokens")
        if not 0 < len(self.tokens) <= MOST_POSITIONS:
            raise ValueError(f"metadata.prompt_tokens has {len(self.tokens)} entries")
        self.nodes_said = _many(said.get("nodes"), "nodes", MOST_NODES)
        self.links_said = _many(said.get("links"), "links", MOST_LINKS)
        self.two_kinds = any(
            isinstance(each, dict) and each.get("feature_type") in (_LORSA, _LORSA_ERROR)
            for each in self.nodes_said
        )

    def file(self) -> GraphFile:
        """Everything, put together."""
        read = [self._node(each, at) for at, each in enumerate(self.nodes_said)]
        ids = {each.exported: each.node.id for each in read}
        _check_names([each.exported for each in read])
        _check_names([each.node.id for each in read])
        edges = self._edges(ids)
        graph = self._graph(read, edges, ids)
        info = _typed(self.metadata.get("info", {}), dict, "metadata.info")
        details = self.metadata.get("feature_details") or {}
        described = self.own.get("description", info.get("description", "")) or ""
        layers = self.own.get("n_layers")
        return GraphFile(
            graph=graph,
            slug=_text(self.metadata, "slug", "metadata"),
            scan=_text(self.metadata, "scan", "metadata"),
            prompt=_text(self.metadata, "prompt", "metadata"),
            n_layers=None if layers is None else _index(layers, f"metadata.{OWN}.n_layers"),
            labels={each.node.id: each.label for each in read if each.label},
            pinned=self._known(_shown(self.params, "pinnedIds"), ids),
            source_set=str(
                _typed(details, dict, "feature_details").get("neuronpedia_source_set", "")
            ),
            description=_typed(described, str, "metadata.info.description"),
        )

    def _node(self, said: Any, at: int) -> _Read:
        where = f"nodes[{at}]"
        given = _typed(said, dict, where)
        kind, exported = _text(given, "feature_type", where), _text(given, "node_id", where)
        pos = _index(given.get("ctx_idx"), f"{where}.ctx_idx")
        if pos >= len(self.tokens):
            raise ValueError(f"{where}.ctx_idx is {pos}, of {len(self.tokens)} tokens")
        own = _typed(given.get(OWN, {}), dict, f"{where}.{OWN}")
        node = self._kind(kind, given, exported, where)
        token = _typed(own.get("token", node.token), str, f"{where}.{OWN}.token")
        sae = own.get("sae", node.sae)
        node = replace(
            node,
            id=_own_id(own.get("id", node.id), f"{where}.{OWN}.id"),
            token=token,
            sae=None if sae is None else _index(sae, f"{where}.{OWN}.sae"),
            influence=_number(own.get("influence", 0.0), f"{where}.{OWN}.influence"),
            effect=_effect(own.get("effect"), where),
            lost=None if own.get("lost") is None else _number(own["lost"], f"{where}.{OWN}.lost"),
        )
        label = given.get("clerp") or "" if node.kind == "feature" else ""
        prob = _part(given.get("token_prob") or 0.0, f"{where}.token_prob")
        number = given.get("feature")
        token_id = number if kind == LOGIT and isinstance(number, int) else -1
        if kind == TOKEN and (match := _TOKEN_ID.fullmatch(exported)):
            token_id = int(match[1])
        return _Read(exported, node, clean_line(_typed(label, str, where)), prob, token_id)

    def _kind(self, kind: str, given: dict[str, Any], exported: str, where: str) -> GraphNode:
        pos = int(given["ctx_idx"])
        node = GraphNode(
            id="",
            kind="logit",
            sae=None,
            layer=None,
            pos=pos,
            token=self.tokens[pos],
            feature=None,
            activation=None,
            influence=0.0,
        )
        if kind == TOKEN:
            return replace(node, id=f"t@{pos}", kind="token")
        if kind == LOGIT:
            number = _index(given.get("feature"), f"{where}.feature")
            text = _output(given.get("clerp")) or f"#{number}"
            return replace(node, id=f"o{number}", token=text)
        layer = _layer(given.get("layer"), f"{where}.layer")
        # attention features share layers and indices with those of the MLP: letters tell them apart
        letter = "" if not self.two_kinds else "b" if kind.startswith(_LORSA) else "a"
        if kind in (ERROR, _LORSA_ERROR):
            return replace(node, id=f"e{layer}{letter}@{pos}", kind="error", layer=layer)
        if kind != _LORSA and "transcoder" not in kind:
            raise ValueError(f"{where}.feature_type is {kind[:40]!r}, which is not known")
        feature = _feature(exported, layer, given.get("feature"), where)
        activation = given.get("activation")
        return replace(
            node,
            id=f"f{layer}{letter}.{feature}@{pos}",
            kind="feature",
            layer=layer,
            feature=feature,
            activation=None if activation is None else _number(activation, f"{where}.activation"),
        )

    def _edges(self, ids: Mapping[str, str]) -> list[GraphEdge]:
        made, pairs = list[GraphEdge](), set[tuple[str, str]]()
        for at, said in enumerate(self.links_said):
            where = f"links[{at}]"
            given = _typed(said, dict, where)
            ends = [_text(given, name, where) for name in ("source", "target")]
            for end in ends:
                if end not in ids:
                    raise ValueError(f"{where} names {end[:60]!r}, which is no node")
            source, target = (ids[end] for end in ends)
            if (source, target) in pairs:
                raise ValueError(f"two links lead from {ends[0]} to {ends[1]}")
            pairs.add((source, target))
            own = _typed(given.get(OWN, {}), dict, f"{where}.{OWN}")
            made.append(
                GraphEdge(
                    source=source,
                    target=target,
                    weight=_number(given.get("weight"), f"{where}.weight"),
                    flow=_number(own.get("flow", 0.0), f"{where}.{OWN}.flow"),
                    effect=_effect(own.get("effect"), where),
                )
            )
        return made

    def _graph(self, read: list[_Read], edges: list[GraphEdge], ids: Mapping[str, str]) -> Graph:
        by_hand = _many(self.own.get("by_hand", []), "by_hand", MOST_NODES)
        supernodes = _many(_shown(self.params, "supernodes"), "qParams.supernodes", MOST_NODES)
        groups = [
            GraphGroup(
                name=clean_line(group[0]),
                nodes=self._known(group[1:], ids),
                by_hand=_flag(by_hand[at], "by_hand") if at < len(by_hand) else True,
            )
            for at, said in enumerate(supernodes)
            if (group := _texts(said, f"qParams.supernodes[{at}]"))
        ]
        bare = self._bare(read, edges, groups)
        return bare if not self.own else self._own_graph(bare)

    def _bare(self, read: list[_Read], edges: list[GraphEdge], groups: list[GraphGroup]) -> Graph:
        """What the schema itself holds."""
        logits = [each for each in read if each.node.kind == "logit"]
        tokens = {each.node.pos: each.token for each in read if each.node.kind == "token"}
        pruning = _typed(self.metadata.get("pruning_settings") or {}, dict, "pruning_settings")
        asked = _typed(self.metadata.get("generation_settings") or {}, dict, "generation_settings")
        node_share = pruning.get("node_threshold", self.metadata.get("node_threshold"))
        n_features = sum(each.node.kind == "feature" for each in read)
        nothing = GraphScores(replacement=0.0, completeness=0.0)
        graph = Graph(
            tokens=self.tokens,
            token_ids=[tokens.get(pos, -1) for pos in range(len(self.tokens))],
            targets=[_target(each) for each in logits],
            nodes=[each.node for each in read],
            edges=edges,
            scores=nothing,
            kept_scores=nothing,
            kind="transcoders",
            n_active=n_features,
            n_traced=n_features,
            untraced=0.0,
            n_left_out=0,
            settings=GraphSettings(
                max_features=_index(asked.get("max_feature_nodes") or n_features, "max_features"),
                node_share=_share(node_share, 0.8),
                edge_share=_share(pruning.get("edge_threshold"), 0.98),
                most_targets=_index(asked.get("max_n_logits") or len(logits), "max_n_logits"),
                enough_prob=_share(asked.get("desired_logit_prob"), 0.95),
                most_measured=0,
                n_controls=0,
            ),
            groups=groups,
        )
        alone = _alone(graph)  # also where it is not needed: a circle is found there
        return graph if self.own else alone

    def _own_graph(self, graph: Graph) -> Graph:
        """The same with what saescope wrote beside the schema."""
        own = self.own
        warnings, token_ids = _texts(own.get("warnings", []), "warnings"), own.get("token_ids", [])
        targets = _many(own.get("targets"), "targets", MOST_NODES)
        logits = {node.id for node in graph.nodes if node.kind == "logit"}
        made = replace(
            graph,
            token_ids=[
                _index(each, "token_ids", least=-1)
                for each in _many(token_ids, "token_ids", MOST_POSITIONS)
            ],
            targets=[_own_target(_typed(each, dict, "targets")) for each in targets],
            scores=_scores(own.get("scores")),
            kept_scores=_scores(own.get("kept_scores")),
            kind=_text(own, "kind", OWN),
            n_active=_index(own.get("n_active"), "n_active"),
            n_traced=_index(own.get("n_traced"), "n_traced"),
            untraced=_part(own.get("untraced"), "untraced"),
            n_left_out=_index(own.get("n_left_out"), "n_left_out"),
            settings=_settings(_typed(own.get("settings"), dict, "settings")),
            proof=_proof(own.get("proof")),
            warnings=[clean_line(warning) for warning in warnings],
        )
        if logits != {target.id for target in made.targets}:
            raise ValueError("the targets are not the logits among the nodes")
        if len(made.token_ids) != len(made.tokens):
            raise ValueError(f"{len(made.tokens)} tokens have {len(made.token_ids)} ids")
        return made

    def _known(self, names: Any, ids: Mapping[str, str]) -> list[str]:
        """Own ids of the nodes that are named; pages name nodes that pruning dropped, too."""
        return [ids[name] for name in _texts(names, "qParams") if name in ids]


def _alone(graph: Graph) -> Graph:
    """A kept graph of which nothing more is known: its own influence, flow and scores."""
    flow = Flow.of(graph)
    scores = scores_alone(flow)
    along = {
        (step.edge.source, step.edge.target): flow.along(step)
        for inputs in flow.inputs.values()
        for step in inputs
    }
    return replace(
        graph,
        nodes=[replace(node, influence=flow.through[node.id]) for node in graph.nodes],
        edges=[replace(e, flow=along.get((e.source, e.target), 0.0)) for e in graph.edges],
        scores=scores,
        kept_scores=scores,
        warnings=[
            "Read from a file that holds only the pruned graph: scores and influence are those of "
            "what it keeps, and what was pruned or not traced is not counted."
        ],
    )


def _settings(said: dict[str, Any]) -> GraphSettings:
    """All settings that are said; those of a later version are passed over."""
    numbers: dict[str, Any] = {}
    for each in fields(GraphSettings):
        if each.name in said:
            read = _number if each.type is float else _index
            numbers[each.name] = read(said[each.name], f"settings.{each.name}")
    return GraphSettings(**numbers)


def _check_names(names: list[str]) -> None:
    twice = next((name for name, n in Counter(names).items() if n > 1), None)
    if twice is not None:
        raise ValueError(
            f"two nodes have the id {twice[:60]!r}, so that their links cannot be told apart (in "
            "files by circuit-tracer the error of layer l is named like feature l of layer 0)"
        )


def _typed(value: Any, kind: type[_T], where: str) -> _T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{where} is no {_WORDS[kind]}")
    return value


_WORDS: dict[type, str] = {
    dict: "object",
    str: "text",
    list: "list",
    int: "integer",
    float: "number",
}


def _shown(params: Mapping[str, Any], name: str) -> Any:
    """A list of what a page shows. circuit-tracer's page saves the texts of its address: ids with
    commas between them, groups as JSON, null for what is not there."""
    value = params.get(name)
    if value is None or value == "":
        return []
    if not isinstance(value, str):
        return value
    return value.split(",") if name == "pinnedIds" else json_text.parse(value)


def _many(value: Any, where: str, most: int) -> list[Any]:
    made: list[Any] = _typed(value, list, where)
    if len(made) > most:
        raise ValueError(f"{where} has {len(made):,} entries, more than {most:,}")
    return made


def _texts(value: Any, where: str) -> list[str]:
    return [
        _typed(each, str, f"{where}[{at}]")
        for at, each in enumerate(_many(value, where, MOST_LINKS))
    ]


def _text(given: Mapping[str, Any], name: str, where: str) -> str:
    return _typed(given.get(name), str, f"{where}.{name}")


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{where} is no finite number")
    return number


def _index(value: Any, where: str, *, least: int = 0) -> int:
    number = _typed(value, int, where)
    if not least <= number <= MOST_INDEX:
        raise ValueError(f"{where} is {str(number)[:20]}, out of range")
    return number


def _part(value: Any, where: str) -> float:
    """A probability or a score; what was rounded on its way may be a little beyond."""
    number = _number(value, where)
    if not -_ROUNDED <= number <= 1 + _ROUNDED:
        raise ValueError(f"{where} is {number:g}, not between 0 and 1")
    return min(1.0, max(0.0, number))


def _own_id(value: Any, where: str) -> str:
    """An id as readings and pages show it."""
    name = _typed(value, str, where)
    if not _OWN_ID.fullmatch(name):
        raise ValueError(f"{where} is {clean_line(name, 60)!r}, which is no id of a node")
    return name


def _share(value: Any, otherwise: float) -> float:
    return otherwise if value is None else min(1.0, max(0.0, _number(value, "a threshold")))


def _layer(value: Any, where: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 6:
        return int(value)
    return _index(value, where)


def _feature(exported: str, layer: int, number: Any, where: str) -> int:
    """The index of a feature: from its id, else from the pair in `feature`, else that number."""
    match = _ID.fullmatch(exported)
    if match and int(match[1]) == layer:
        return int(match[2])
    value = _index(number, f"{where}.feature")
    diagonal = (math.isqrt(8 * value + 1) - 1) // 2
    index = value - diagonal * (diagonal + 1) // 2
    return index if cantor(layer, index) == value else value


def _output(clerp: Any) -> str:
    """The token in `Output "x" (p=0.123)`."""
    match = re.fullmatch(r'Output "(.*)" \(p=[\d.]+\)', str(clerp or "")[:1000], flags=re.DOTALL)
    return match[1] if match else clean_line(str(clerp or ""))


def _target(read: _Read) -> GraphTarget:
    return GraphTarget(
        id=read.node.id,
        label=read.node.token,
        token=read.token,
        against=None,
        prob=read.prob,
        weight=read.prob,
        value=0.0,
    )


def _own_target(said: dict[str, Any]) -> GraphTarget:
    against = said.get("against")
    return GraphTarget(
        id=_text(said, "id", "targets"),
        label=_text(said, "label", "targets"),
        token=_index(said.get("token"), "targets.token"),
        against=None if against is None else _index(against, "targets.against"),
        prob=_part(said.get("prob"), "targets.prob"),
        weight=_part(said.get("weight"), "targets.weight"),
        value=_number(said.get("value"), "targets.value"),
    )


def _scores(said: Any) -> GraphScores:
    given = _typed(said, dict, "scores")
    return GraphScores(
        replacement=_part(given.get("replacement"), "replacement"),
        completeness=_part(given.get("completeness"), "completeness"),
    )


def _effect(said: Any, where: str) -> GraphEffect | None:
    if said is None:
        return None
    given = _typed(said, dict, f"{where}.effect")
    numbers = {name: _number(given.get(name), name) for name in ("predicted", "frozen", "free")}
    return GraphEffect(**numbers, confirmed=_flag(given.get("confirmed"), f"{where}.confirmed"))


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where} is neither true nor false")
    return value


def _proof(said: Any) -> GraphProof | None:
    if said is None:
        return None
    given = _typed(said, dict, "proof")
    counts = {
        name: _index(given.get(name), name)
        for name in ("n_edges", "n_confirmed", "n_nodes", "n_nodes_confirmed")
    }
    rank = given.get("rank_correlation")
    return GraphProof(
        **counts,
        linear_off=_number(given.get("linear_off"), "linear_off"),
        rank_correlation=None if rank is None else _number(rank, "rank_correlation"),
        necessity=_beside(given.get("necessity")),
        sufficiency=_beside(given.get("sufficiency")),
    )


def _beside(said: Any) -> KeptOrRandom:
    given = _typed(said, dict, "proof")
    controls = _typed(given.get("controls"), dict, "controls")
    numbers = {
        name: None if controls.get(name) is None else _number(controls[name], name)
        for name in ("mean", "sd", "p")
    }
    return KeptOrRandom(
        kept=_number(given.get("kept"), "kept"),
        controls=Comparison(
            **numbers,
            n=_index(controls.get("n"), "controls.n"),
            outside=_flag(controls.get("outside"), "controls.outside"),
        ),
    )
