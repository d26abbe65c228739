"""An attribution graph as an SVG picture: its most influential nodes by layer and position, with a
numbered list of the features. Text alone; light or dark as the reader prefers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from saescope.render.feature_page import number, visible

MOST_NODES, MOST_EDGES, MOST_TOKENS = 40, 120, 24
_CELL, _LINE, _LEFT = 30, 32, 62
_CHAR = 7.3
"""Width of a character of the picture's font."""
_STYLE = """
svg{color-scheme:light dark;--paper:#fbfaf7;--panel:#f1efe8;--ink:#1d2126;--soft:#5a5f66;
--line:#d8d5cb;--blue:#1f5fa8;--orange:#a84813;--on:#fff}
@media(prefers-color-scheme:dark){svg{--paper:#16181c;--panel:#1f2227;--ink:#e9e7e1;--soft:#a8adb5;
--line:#3a3f47;--blue:#7db4f0;--orange:#f0a06a;--on:#16181c}}
text{font:12px ui-monospace,"SF Mono",Consolas,"DejaVu Sans Mono",monospace;fill:var(--ink)}
.paper{fill:var(--paper)}.rule{stroke:var(--line)}.soft{fill:var(--soft);font-size:11px}
.title{font:600 14px system-ui,"DejaVu Sans",sans-serif}.warn{fill:var(--orange);font-size:12px}
.mid{text-anchor:middle}.box{fill:var(--panel);stroke:var(--soft)}
.logit{stroke:var(--blue);stroke-width:2}
.feature{fill:var(--blue)}.in{fill:var(--on);font-size:11px;text-anchor:middle}
.error{fill:var(--panel);stroke:var(--soft);stroke-dasharray:3 2}
.edge{fill:none;stroke-opacity:.55}.plus{stroke:var(--blue)}.minus{stroke:var(--orange)}
.refuted{stroke-dasharray:7 5}.unmeasured{stroke-dasharray:1.5 4;stroke-linecap:round}
"""

_INNER = ("feature", "group", "error")
"""Kinds of nodes that have a layer."""

Node = Mapping[str, Any]


class _Spot(NamedTuple):
    x: float
    y: float
    width: float


@dataclass(slots=True)
class _Drawing:
    """What is drawn, and where."""

    nodes: list[Node]
    edges: list[Mapping[str, Any]]
    spots: dict[str, _Spot]
    rules: list[tuple[float, float, str]]
    """Top and middle of each layer's row, with its name."""
    width: float
    height: float


def graph_picture(
    graph: Mapping[str, Any],
    *,
    labels: Mapping[str, str] | None = None,
    title: str = "",
    most_nodes: int = MOST_NODES,
) -> str:
    """`dataclasses.asdict` of a Graph as the text of an SVG file: targets, tokens, and the
    `most_nodes` features and errors with most influence. `labels` says what nodes stand for, by
    id."""
    plan = _plan(graph, most_nodes)
    features = [node for node in plan.nodes if node["kind"] in ("feature", "group")]
    features.sort(key=lambda node: (-node["influence"], node["id"]))
    numbers = {node["id"]: n for n, node in enumerate(features, 1)}
    top = [title or f"Attribution graph: {_cut(''.join(graph['tokens']), 70)}"]
    said, marks = _said(graph, plan)
    wide = max(plan.width, 16 + _CHAR * max(len(said), len(marks), len(top[0])))
    listed, height = _listed(features, labels or {}, wide, plan.height + 94)
    parts = [
        f'<rect class="paper" width="{wide:.0f}" height="{height:.0f}"/>',
        _text(8, 22, top[0], "title"),
        _text(8, 42, said, "warn" if _explained(graph) < 0.5 else "soft"),
        _text(8, 60, marks, "soft"),
        '<g transform="translate(0 70)">',
        *_rules(plan),
        *(_edge(edge, plan) for edge in reversed(plan.edges)),
        *(_mark(node, plan.spots[node["id"]], graph, numbers) for node in plan.nodes),
        "</g>",
        *listed,
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{wide:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {wide:.0f} {height:.0f}"><title>{_safe(top[0])}'
        f"</title><style>{_STYLE}</style>{''.join(parts)}</svg>"
    )


def _explained(graph: Mapping[str, Any]) -> float:
    return graph["scores"]["replacement"] * (1 - min(graph["untraced"], 1.0))


def _said(graph: Mapping[str, Any], plan: _Drawing) -> tuple[str, str]:
    """How much the graph explains, and what its marks mean."""
    proof = graph["proof"]
    measured = (
        f"{proof['n_confirmed']} of {proof['n_edges']} edges confirmed"
        if proof
        else "nothing measured"
    )
    left = len(graph["nodes"]) - len(plan.nodes)
    hidden = f"; {left} nodes not shown" if left else ""
    said = f"{100 * _explained(graph):.0f} % of the influence comes from tokens; {measured}{hidden}"
    return said, "Diamonds: errors. Dashed: not confirmed; dotted: not measured."


def _plan(graph: Mapping[str, Any], most_nodes: int) -> _Drawing:
    free = [node for node in graph["nodes"] if node["kind"] in _INNER]
    free.sort(key=lambda node: (-node["influence"], node["id"]))
    kept = {node["id"] for node in free[:most_nodes]}
    kept |= {node["id"] for node in graph["nodes"] if node["kind"] == "logit"}
    sources = {edge["source"] for edge in graph["edges"] if edge["target"] in kept}
    tokens = [n for n in graph["nodes"] if n["kind"] == "token" and n["id"] in sources]
    tokens.sort(key=lambda node: (-node["influence"], node["pos"]))
    kept |= {node["id"] for node in tokens[:MOST_TOKENS]}
    nodes = [node for node in graph["nodes"] if node["id"] in kept]
    nodes += _bare_tokens(graph, nodes)
    shown = {node["id"] for node in nodes}
    edges = [e for e in graph["edges"] if e["source"] in shown and e["target"] in shown]
    edges.sort(key=lambda edge: -abs(edge["flow"]))
    plan = _Drawing(nodes, edges[:MOST_EDGES], {}, [], 0.0, 0.0)
    _lay_out(plan, graph)
    return plan


def _bare_tokens(graph: Mapping[str, Any], nodes: Sequence[Node]) -> list[Node]:
    """Tokens below nodes that are drawn, although no edge that is drawn begins there."""
    have = {node["pos"] for node in nodes if node["kind"] == "token"}
    want = {node["pos"] for node in nodes if node["kind"] in _INNER} - have
    return [node for node in graph["nodes"] if node["kind"] == "token" and node["pos"] in want]


def _lay_out(plan: _Drawing, graph: Mapping[str, Any]) -> None:
    """Set where nodes stand: layers from top to bottom, positions from left to right."""
    cells: dict[tuple[int, int], list[Node]] = defaultdict(list)
    for node in plan.nodes:
        if node["kind"] in _INNER:
            cells[node["layer"], node["pos"]].append(node)
    x, columns = float(_LEFT), dict[int, tuple[float, float, int]]()
    for pos in sorted({node["pos"] for node in plan.nodes if node["kind"] != "logit"}):
        most = max([1, *(len(inside) for (_, at), inside in cells.items() if at == pos)])
        across = min(most, max(3, ceil(sqrt(2 * most))))
        text = 12 + _CHAR * len(_shown(graph["tokens"][pos]))
        width = max(across * _CELL, text, 34) + 10
        columns[pos] = x, width, across
        x += width
    logits = [node for node in plan.nodes if node["kind"] == "logit"]
    widths = [24 + _CHAR * len(_target_text(node, graph)) for node in logits]
    plan.width = max(x + 8, _LEFT + max([0.0, *widths]) + 8)
    y = _place_logits(plan, logits, widths)
    gap = 14 if len({layer for layer, _ in cells}) <= 12 else 2
    for layer in sorted({layer for layer, _ in cells}, reverse=True):
        here = {pos: inside for (at, pos), inside in cells.items() if at == layer}
        lines = max(ceil(len(inside) / columns[pos][2]) for pos, inside in here.items())
        height = lines * _LINE + gap
        plan.rules.append((y, y + height / 2, f"layer {layer}"))
        for pos, inside in here.items():
            _place_cell(plan, inside, columns[pos], y + gap / 2)
        y += height
    for node in plan.nodes:
        if node["kind"] == "token":
            left, width, _ = columns[node["pos"]]
            plan.spots[node["id"]] = _Spot(left + width / 2, y + 22, width - 6)
    plan.height = y + 50


def _place_logits(plan: _Drawing, logits: Sequence[Node], widths: Sequence[float]) -> float:
    """Set the targets in lines that end at the right; return where the layers begin."""
    lines, room = list[list[int]]([[]]), plan.width - _LEFT - 8
    for at in range(len(logits)):
        if sum(widths[i] for i in lines[-1]) + widths[at] > room and lines[-1]:
            lines.append([])
        lines[-1].append(at)
    y = 20.0
    for line in lines:
        x = plan.width - 8 - sum(widths[i] for i in line)
        for i in line:
            plan.spots[logits[i]["id"]] = _Spot(x + widths[i] / 2, y, widths[i] - 6)
            x += widths[i]
        y += _LINE
    return y


def _place_cell(
    plan: _Drawing, inside: list[Node], column: tuple[float, float, int], top: float
) -> None:
    left, width, most = column
    inside = sorted(inside, key=lambda node: (-node["influence"], node["id"]))
    across = min(most, len(inside))
    first = left + (width - across * _CELL) / 2 + _CELL / 2
    for at, node in enumerate(inside):
        y = top + _LINE / 2 + at // across * _LINE
        plan.spots[node["id"]] = _Spot(first + at % across * _CELL, y, _CELL)


def _rules(plan: _Drawing) -> list[str]:
    return [
        f'<path class="rule" d="M0 {top:.1f}H{plan.width:.0f}"/>{_text(8, mid + 4, name, "soft")}'
        for top, mid, name in plan.rules
    ]


def _edge(edge: Mapping[str, Any], plan: _Drawing) -> str:
    a, b = plan.spots[edge["source"]], plan.spots[edge["target"]]
    most = max([1e-12, *(abs(each["flow"]) for each in plan.edges[:1])])
    thick = 0.8 + 4.2 * sqrt(abs(edge["flow"]) / most)
    y1, y2 = a.y - 10, b.y + 11
    bend = max(18.0, abs(y1 - y2) / 2.2)
    effect = edge["effect"]
    proved = "unmeasured" if not effect else "confirmed" if effect["confirmed"] else "refuted"
    sign = "minus" if edge["weight"] < 0 else "plus"
    return (
        f'<path class="edge {sign} {proved}" stroke-width="{thick:.2f}" d="M{a.x:.1f} {y1:.1f}C'
        f'{a.x:.1f} {y1 - bend:.1f} {b.x:.1f} {y2 + bend:.1f} {b.x:.1f} {y2:.1f}"/>'
    )


def _mark(node: Node, spot: _Spot, graph: Mapping[str, Any], numbers: Mapping[str, int]) -> str:
    x, y = spot.x, spot.y
    title = f"<title>{_safe(node['id'])}</title>"
    if node["kind"] in ("feature", "group"):
        inside = _text(x, y + 4, str(numbers[node["id"]]), "in")
        return f'<g>{title}<circle class="feature" cx="{x:.1f}" cy="{y:.1f}" r="10"/>{inside}</g>'
    if node["kind"] == "error":
        path = f"M{x:.1f} {y - 9:.1f}l9 9l-9 9l-9 -9Z"
        return f'<path class="error" d="{path}">{title}</path>'
    is_logit = node["kind"] == "logit"
    text = _target_text(node, graph) if is_logit else _shown(node["token"])
    box = (
        f'<rect class="box{" logit" if is_logit else ""}" x="{x - spot.width / 2:.1f}" '
        f'y="{y - 12:.1f}" width="{spot.width:.1f}" height="24" rx="4"/>'
    )
    pos = "" if is_logit else _text(x, y + 26, str(node["pos"]), "soft mid")
    return f"<g>{title}{box}{_text(x, y + 4, text, 'mid')}{pos}</g>"


def _target_text(node: Node, graph: Mapping[str, Any]) -> str:
    target = next((each for each in graph["targets"] if each["id"] == node["id"]), None)
    return f"{_shown(node['token'])} {number(target['prob'])}" if target else _shown(node["token"])


def _listed(
    features: Sequence[Node], labels: Mapping[str, str], width: float, top: float
) -> tuple[list[str], float]:
    """Lines that say what the numbers stand for, in columns; and where the picture ends."""
    n_columns = max(1, int(width // 340)) if features else 1
    n_lines = ceil(len(features) / n_columns)
    wide = width / n_columns
    made: list[str] = []
    for at, node in enumerate(features):
        column, line = divmod(at, n_lines)
        label = f" {labels[node['id']]}" if labels.get(node["id"]) else ""
        said = f"{at + 1:>2} {node['id']} {_shown(node['token'])}{label}"
        room = int((wide - 20) / (0.92 * _CHAR))
        made.append(_text(8 + column * wide, top + 17 * line, _cut(said, room), "soft"))
    return made, top + 17 * n_lines


def _shown(text: str) -> str:
    return _cut(visible(text).replace(" ", "\u2423"), 12)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" xml:space="preserve">{_safe(text)}</text>'


def _safe(text: str) -> str:
    return escape(visible(text))
