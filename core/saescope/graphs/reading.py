"""An attribution graph in words, short enough for an agent to reason with."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from saescope.errors import ArgumentError
from saescope.graphs.flow import Flow
from saescope.graphs.merging import merged
from saescope.graphs.paths import GraphPath, n_paths, strongest_paths
from saescope.records.graph import Graph, GraphEdge, GraphNode, KeptOrRandom, smaller_part
from saescope.untrusted import clean_line, clean_token

MOST_TOKENS = 1200
"""Tokens of a reading unless told otherwise, counted as UTF-8 bytes / 3."""
N_PATHS = 8
N_LAYERS_NAMED = 5
MUCH_IN_ERRORS = 0.1
"""The share of the kept graph's influence from errors above which their paths are shown too."""
WARNING = "WARNING: "
"""How the first line begins where a graph explains the smaller part."""
_TOKEN_CHARS, _LABEL_CHARS = 16, 48
_MOST_PROMPT = 40
"""Tokens of the prompt that are shown, the last ones."""


@dataclass(frozen=True)
class _Words:
    """The parts of a reading of one graph."""

    graph: Graph
    labels: Mapping[str, str]
    target: str

    @cached_property
    def flow(self) -> Flow:
        return Flow.of(self.graph, target=self.target)

    @cached_property
    def nodes(self) -> dict[str, GraphNode]:
        return {node.id: node for node in self.graph.nodes}

    @property
    def replaced_by(self) -> str:
        return "SAEs" if self.graph.kind == "residual" else "transcoders"


def read_graph(
    graph: Graph,
    *,
    labels: Mapping[str, str] | None = None,
    target: str = "",
    n_shown: int = N_PATHS,
    most_tokens: int = MOST_TOKENS,
) -> str:
    """Say what a graph shows: its targets, how much of them it explains, the paths that carry most
    and where the rest ends.

    `labels` maps ids of nodes to what their features stand for; texts are cleaned here. At most
    `most_tokens` tokens (UTF-8 bytes / 3) come out: paths give way first, the weakest of them.

    Raises:
        ArgumentError: GRAPH_TARGET_UNKNOWN.
    """
    words = _Words(graph, labels or {}, target)
    fixed = [
        *_warnings(words),
        _prompt(graph),
        *_targets(words),
        *_scores(words),
        *_measured(words),
        *_endings(words),
        *_groups(graph),
        *_notes(words),
    ]
    room = 3 * most_tokens - _size(fixed)
    return _cut("\n".join([*fixed, *_paths(words, n_shown, room)]), 3 * most_tokens)


def percent(share: float) -> str:
    """Write a share as a percentage of two figures: `61 %`, `3.4 %`, `<0.1 %`."""
    value = 100 * share
    if 0 < value < 0.1:
        return "<0.1 %"
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.2g} %"


def _unexplained(words: _Words) -> str:
    return smaller_part(words.graph.scores.replacement, words.graph.untraced)


def _warnings(words: _Words) -> list[str]:
    said = _unexplained(words)
    return [f"{WARNING}{said}"] if said else []


def _notes(words: _Words) -> list[str]:
    """Warnings of the graph beside the one at the top."""
    others = [each for each in words.graph.warnings if each != _unexplained(words)]
    return [f"Note: {clean_line(warning, 160)}" for warning in others[:3]]


def _prompt(graph: Graph) -> str:
    shown = graph.tokens[-_MOST_PROMPT:]
    first = len(graph.tokens) - len(shown)
    text = " ".join(f"{first + at}{_token(token, 12)}" for at, token in enumerate(shown))
    return f"Prompt, {len(graph.tokens)} tokens{', the last ones' if first else ''}: {text}"


def _targets(words: _Words) -> list[str]:
    targets = [t for t in words.graph.targets if t.id in words.flow.weights]
    known = any(t.value for t in targets)  # files by others do not hold logits
    what = " logit difference" if any(t.against is not None for t in targets) else ""
    rows = [
        f"{t.id} {_token(t.label)} p={t.prob:.3g}" + (f"{what} {t.value:+.3g}" if known else "")
        for t in targets[:10]
    ]
    more = f"; {len(targets) - 10} more" if len(targets) > 10 else ""
    unit = " and demeaned logit" if known and not what else ""
    return [f"Targets, with probability{unit}: {'; '.join(rows)}{more}"]


def _scores(words: _Words) -> list[str]:
    graph, scores = words.graph, words.graph.scores
    of = "influence that reaches an end" if graph.untraced > 0.005 else "influence"
    lines = [
        f"Replacement {scores.replacement:.2f}: {percent(1 - scores.replacement)} of the {of} "
        f"ends in errors: what the {words.replaced_by} do not reconstruct.",
        f"Completeness {scores.completeness:.2f}: the share of nodes' inputs that does not come "
        "from errors.",
        f"Kept: {len(graph.nodes)} nodes, {len(graph.edges)} edges; with all that was dropped "
        f"counted as error, replacement {graph.kept_scores.replacement:.2f}, completeness "
        f"{graph.kept_scores.completeness:.2f}.",
    ]
    if graph.untraced > 0.005:
        lines.append(
            f"Not traced: {graph.n_active - graph.n_traced:,} of {graph.n_active:,} active "
            f"features; {percent(graph.untraced)} of the influence ends there."
        )
    return lines


def _measured(words: _Words) -> list[str]:
    proof, n_edges = words.graph.proof, len(words.graph.edges)
    if proof is None or not proof.n_nodes:
        return [f"Measured: nothing. All {n_edges} edges are claims of the linear model."]
    said = (
        f"Measured: {proof.n_confirmed} of the {proof.n_edges} strongest edges and "
        f"{proof.n_nodes_confirmed} of {proof.n_nodes} nodes confirmed by ablation"
    )
    if proof.rank_correlation is not None:
        said += f"; rank correlation of predicted and measured {proof.rank_correlation:.2f}"
    runs = (
        ("the kept features are ablated", proof.necessity),
        ("all features but these are", proof.sufficiency),
    )
    return [f"{said}.", f"{_falls(words, runs)}."]


def _falls(words: _Words, runs: Sequence[tuple[str, KeptOrRandom]]) -> str:
    """What the first target loses in runs of the model."""
    first = words.graph.targets[0]
    unit = "log-probability (nats)" if first.against is None else "difference of logits"
    parts: list[str] = []
    for what, one in runs:
        mean, sd = one.controls.mean, one.controls.sd
        spread = "" if sd is None else f" (sd {sd:.2g})"
        random = "" if mean is None else f", of as many random ones by {mean:.3g}{spread}"
        if one.controls.p is not None and not one.controls.outside:
            random += f": no better than random (p {one.controls.p:.2g})"
        rises = " (it rises)" if one.kept < 0 else ""
        parts.append(f"by {one.kept:.3g}{rises} where {what}{random}")
    return f"The {unit} of {_token(first.label)} falls {'; '.join(parts)}"


def _endings(words: _Words) -> list[str]:
    kinds = {"token": "tokens", "error": "errors", "feature": "features without kept sources"}
    parts: list[str] = []
    for kind, name in kinds.items():
        ends = {node: share for node, share in words.flow.ends.items() if _is(words, node, kind)}
        whole = sum(ends.values())
        if not whole:
            continue
        top = ", ".join(
            f"{_short(words, node)} {percent(share)}" for node, share in list(ends.items())[:4]
        )
        layers = _by_layer(words, ends) if kind == "error" and len(ends) > 4 else ""
        parts.append(f"{name} {percent(whole)} ({top}{layers})")
    return [f"In the kept graph the influence comes from: {'; '.join(parts)}."] if parts else []


def _by_layer(words: _Words, ends: Mapping[str, float]) -> str:
    """The layers whose errors matter most, where there are several."""
    shares: dict[int | None, float] = {}
    for node, share in ends.items():
        layer = words.nodes[node].layer
        shares[layer] = shares.get(layer, 0.0) + share
    top = sorted(shares.items(), key=lambda item: -item[1])[:N_LAYERS_NAMED]
    told = ", ".join(f"{percent(share)} in {layer}" for layer, share in top)
    return f"; by layer: {told}" if len(shares) > 1 else ""


def _groups(graph: Graph) -> list[str]:
    if not graph.groups:
        return []
    named = "; ".join(
        f"{clean_line(group.name, 30)}: {' '.join(group.nodes[:6])}"
        + (f" +{len(group.nodes) - 6}" if len(group.nodes) > 6 else "")
        for group in graph.groups[:8]
    )
    more = f"; {len(graph.groups) - 8} more" if len(graph.groups) > 8 else ""
    return [f"Groups: {named}{more}. {_survives(graph)}"]


def _survives(graph: Graph) -> str:
    """What is left of the scores where each group is one node."""
    try:
        made = merged(graph, graph.groups)
    except ArgumentError:
        return "Merged by them the graph would go in a circle: a node lies between two of a group."
    return (
        f"Merged by them, {percent(made.replacement_survives)} of replacement and "
        f"{percent(made.completeness_survives)} of completeness survive: signs that cancel are "
        "lost."
    )


def _paths(words: _Words, n_shown: int, room: int) -> list[str]:
    """The lines on paths from tokens and from errors; as many paths as there is room for."""
    shown = {"token": n_shown, "error": _n_from_errors(words, n_shown)}
    found = {
        kind: strongest_paths(words.flow, n, ends_at=partial(_is, words, kind=kind))
        for kind, n in shown.items()
        if n
    }
    found = {kind: paths for kind, paths in found.items() if paths}
    if not found and (others := strongest_paths(words.flow, n_shown)):
        found = {"feature": others}
    if not found:
        return ["Paths: none is kept."]
    while True:
        lines, longest = _listed(words, found), max(found.values(), key=len)
        if _size(lines) <= room or len(longest) == 1:
            return lines
        longest.pop()


def _n_from_errors(words: _Words, n_shown: int) -> int:
    """How many paths from errors are told: half as many as from tokens where these carry less, all
    where no path begins at a token."""
    ends: defaultdict[str, float] = defaultdict(float)
    for node, share in words.flow.ends.items():
        ends[words.nodes[node].kind] += share
    if not ends["token"]:
        return n_shown
    if ends["error"] < MUCH_IN_ERRORS:
        return 0
    return max(1, n_shown // 2 if ends["error"] > ends["token"] else n_shown // 4)


def _listed(words: _Words, found: Mapping[str, Sequence[GraphPath]]) -> list[str]:
    lines = [_legend([path for paths in found.values() for path in paths])]
    alone = " (none reaches a token)" if "token" not in found else ""
    for kind, paths in found.items():
        lines.append(_carried(words, paths, f"from {kind}s{alone}", again=len(lines) > 1))
        lines += [
            f"{n}. {percent(path.share)} {'raises' if path.sign > 0 else 'lowers'} it: "
            f"{_chain(words, path)}"
            for n, path in enumerate(paths, 1)
        ]
    # What the numbers mean stands below the first heading.
    return [lines[1], lines[0], *lines[2:]]


def _carried(words: _Words, paths: Sequence[GraphPath], kind: str, *, again: bool) -> str:
    whole, few = sum(path.share for path in paths), min(3, len(paths))
    begin = "The" if again else f"Of {n_paths(words.flow):,} paths in the kept graph, the"
    said = f"{begin} {len(paths)} strongest {kind} carry {percent(whole)} of its influence"
    if few < len(paths):
        said += f", the first {few} of them {percent(sum(path.share for path in paths[:few]))}"
    return f"{said}:"


def _legend(paths: Sequence[GraphPath]) -> str:
    marks = {_mark(edge) for path in paths for edge in path.edges}
    said = "(source weight\u2192 target: what it supplies of the target's pre-activation or logit"
    if "!" in marks:
        said += '; "!" refuted by ablation'
    if marks & {"!", "*"}:
        said += '; "*" confirmed, without a mark not measured'
    return f"{said})"


def _chain(words: _Words, path: GraphPath) -> str:
    parts = [_named(words, path.nodes[0])]
    for edge, node in zip(path.edges, path.nodes[1:], strict=True):
        parts.append(f"{edge.weight:+.3g}{_mark(edge)}\u2192 {_named(words, node)}")
    return " ".join(parts)


def _mark(edge: GraphEdge) -> str:
    return "" if edge.effect is None else "*" if edge.effect.confirmed else "!"


def _named(words: _Words, node: str) -> str:
    label = words.labels.get(node, "")
    named = f" “{clean_line(label, _LABEL_CHARS)}”" if label else ""
    return f"{_short(words, node)}{named}"


def _short(words: _Words, node: str) -> str:
    return f"{node}{_token(words.nodes[node].token)}"


def _token(text: str, limit: int = _TOKEN_CHARS) -> str:
    shown = clean_token(text, limit).replace("\n", "\\n").replace("\t", "\\t")
    return f"'{shown}'"


def _is(words: _Words, node: str, kind: str) -> bool:
    return words.nodes[node].kind == kind


def _size(lines: Sequence[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def _cut(text: str, most_bytes: int) -> str:
    raw = text.encode()
    return text if len(raw) <= most_bytes else raw[: most_bytes - 3].decode(errors="ignore") + "…"
