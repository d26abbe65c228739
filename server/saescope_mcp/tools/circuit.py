"""trace_circuit."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from mcp.types import ToolAnnotations

from saescope.errors import ArgumentError
from saescope.records.graph import Graph, GraphNode
from saescope_mcp.binding import Link, next_call
from saescope_mcp.groups import Group
from saescope_mcp.jobs import Job
from saescope_mcp.replies import Tool
from saescope_mcp.replies.facts import brief, percent, provenance
from saescope_mcp.replies.labels import StackLabels, labels_of_layers
from saescope_mcp.replies.pictures import of_graph, write_graph
from saescope_mcp.replies.rows import extended
from saescope_mcp.replies.tool import load_named_layers
from saescope_mcp.replies.waiting import result_or_job, still_running
from saescope_mcp.schemas.circuit import (
    CircuitEvidence,
    NodeRow,
    TraceCircuit,
    TraceCircuitReply,
)
from saescope_mcp.state import AppState, void_quizzes, writable
from saescope_mcp.state.traced import Layers, require_layers, use_layers

if TYPE_CHECKING:
    from saescope.graphs import GraphSettings
    from saescope.graphs.comparing import CircuitOverPrompts
    from saescope.models import Tokens

PAGE_URI = "sae://graph/{name}"
APP_URI = "ui://saescope/graph.html"
N_PROMOTED = 5
READING_TOKENS = {"concise": 900, "detailed": 1200}
N_NODES, N_GROUPED = 40, 150
"""Nodes of a reply, the strongest, and ids in its groups: the page and an export have all."""
N_HELD = 5
"""Edges named that all prompts share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedPrompts:
    """The graphs of a call's prompts, and what is known of the first one's features."""

    graph: Graph
    others: list[Graph]
    labels: StackLabels
    promoted: dict[str, list[str]]
    """Tokens that features promote, by node."""
    name: str
    """The name of its files."""

    @property
    def meanings(self) -> dict[str, str]:
        """What features stand for, by node: a label, else the tokens that they promote."""
        told = {
            node: f"promotes {', '.join(map(repr, t[:3]))}" for node, t in self.promoted.items()
        }
        return told | self.label_texts

    @property
    def label_texts(self) -> dict[str, str]:
        """Labels, by node."""
        by_feature = self.labels.by_feature
        return {
            node.id: by_feature[node.sae, node.feature].text
            for node in self.graph.nodes
            if node.sae is not None
            and node.feature is not None
            and (node.sae, node.feature) in by_feature
        }


async def trace_circuit(state: AppState, request: TraceCircuit) -> TraceCircuitReply:
    """The circuit of a prediction: which features it rests on, through which others, as a graph
    over layers and positions, its nodes ablated in the model to prove it. Give a set, or `saes` at
    several layers. Read `reading`; trust confirmed edges, and mind what goes through errors."""
    require_layers(state, request.handles)
    export = _file(writable(request.export, state.settings, "export")) if request.export else ""

    async def work(job: Job) -> TraceCircuitReply:
        async with use_layers(state, request.handles, patient=True) as layers:
            traced = await _traced(layers, request, job)
            return await state.workers.run(partial(_reply, layers, request, traced, export))

    again = next_call("trace_circuit", **request.named, prompt=request.prompt)
    done, job = await result_or_job(state, request, work, tool="trace_circuit", again=again)
    return done or TraceCircuitReply(**still_running(job, "The tracing"))


def _file(export: str) -> str:
    """Where the graph will be written, looked at before anything is traced.

    Raises:
        ArgumentError: EXPORT_IS_FOLDER.
    """
    if Path(export).is_dir():
        raise ArgumentError(
            "The export is one file, and this is a folder.",
            code="EXPORT_IS_FOLDER",
            field="export",
            got=export,
            allowed="a file",
            hint=f'Name a file in it: export="{Path(export) / "graph.json"}".',
        )
    return export


async def _traced(layers: Layers, request: TraceCircuit, job: Job) -> TracedPrompts:
    prompts = [request.prompt, *request.other_prompts]
    await layers.slot.run(void_quizzes, prompts)
    tokens = await layers.tokenize(prompts, chat=request.chat)
    await layers.slot.run(_require_two, tokens)
    graphs: list[Graph] = []
    for n, each in enumerate(tokens, 1):
        what = f"prompt {n} of {len(tokens)}: " if len(tokens) > 1 else ""
        job.say(f"{what}tracing")
        graphs.append(await layers.slot.run(partial(_trace, layers, request, each, job, what)))
    first, *others = graphs
    pairs = [(n.sae, n.feature) for n in first.nodes if n.sae is not None and n.feature is not None]
    labels = await labels_of_layers(layers.slot, layers.entries, pairs)
    question = f"{layers.handles}{request.model_dump_json()}"
    name = hashlib.sha256(question.encode()).hexdigest()[:12]
    traced = TracedPrompts(graph=first, others=others, labels=labels, promoted={}, name=name)
    return await layers.slot.run(partial(_grouped, layers, request, traced))


def _require_two(tokens: "list[Tokens]") -> None:
    """Raises ArgumentError: PROMPT_TOO_SHORT, before any prompt takes its time."""
    from saescope.graphs.circuit import require_two

    for n, each in enumerate(tokens):
        require_two(each, field="other_prompts" if n else "prompt")


def _trace(layers: Layers, request: TraceCircuit, tokens: "Tokens", job: Job, what: str) -> Graph:
    from saescope.graphs import trace_circuit as trace

    def progress(done: int, total: int) -> None:
        job.say(f"{what}tracing: {done / max(1, total):.0%}")
        layers.slot.done(done / max(1, total))

    return trace(
        layers.model,
        layers.of,
        tokens,
        targets=request.targets,
        against=request.against or None,
        settings=_settings(request),
        progress=progress,
    )


def _settings(request: TraceCircuit) -> "GraphSettings":
    from saescope.graphs import GraphSettings

    return GraphSettings(
        max_features=request.max_features,
        most_measured=request.n_measured,
        node_share=request.node_share,
        seed=request.seed,
    )


def _grouped(layers: Layers, request: TraceCircuit, traced: TracedPrompts) -> TracedPrompts:
    from saescope.graphs.features import promoted, rows_of
    from saescope.graphs.grouping import find_groups, parse_groups

    of, graph = layers.of, traced.graph
    told = promoted(layers.model, of, graph.nodes, N_PROMOTED)
    groups = (
        parse_groups(graph, request.groups)
        if request.groups
        else find_groups(
            graph, write_rows=partial(rows_of, of), labels=traced.label_texts, promoted=told
        )
    )
    return replace(traced, graph=replace(graph, groups=groups), promoted=told)


def _reply(
    layers: Layers, request: TraceCircuit, traced: TracedPrompts, export: str
) -> TraceCircuitReply:
    from saescope.graphs.reading import read_graph

    graph, meanings = traced.graph, traced.meanings
    # The reply has the warnings itself.
    reading = read_graph(
        replace(graph, warnings=[]),
        labels=meanings,
        most_tokens=READING_TOKENS[request.response_format],
    )
    cards = {
        node: {"label": traced.label_texts.get(node, ""), "promotes": tokens}
        for node, tokens in traced.promoted.items()
    }
    page = of_graph(graph, cards, reading, traced.name)
    exported = (
        write_graph(graph, layers.model, request.prompt, meanings, export) if export else None
    )
    shared = _over_prompts(traced)
    return TraceCircuitReply(
        summary=" ".join([_summary(graph), *_expected(graph)]),
        warnings=[
            *graph.warnings,
            *_unlikely(traced, shared),
            *traced.labels.warnings,
            *layers.disagreement(chat=request.chat),
            *_left_out(graph, request),
            *page.warnings,
            *(exported.warnings if exported else []),
        ],
        next=_next(layers, request, graph),
        evidence=_evidence(graph),
        provenance=provenance(layers.used, request.seed),
        state="done",
        reading=reading,
        targets=graph.targets,
        scores=graph.scores,
        kept_scores=graph.kept_scores,
        untraced=graph.untraced,
        proof=graph.proof,
        saes=layers.handles,
        nodes=[_row(traced, node) for node in _strongest(graph)],
        groups=_groups(graph),
        shared=_shared(traced, shared),
        page=PAGE_URI.format(name=traced.name) if page.path else None,
        page_path=page.path or None,
        exported=exported and exported.path,
    )


def _strongest(graph: Graph) -> list[GraphNode]:
    return sorted(graph.nodes, key=lambda node: -node.influence)[:N_NODES]


def _groups(graph: Graph) -> list[str]:
    """Groups as the argument `groups` takes them, as many as have room."""
    ends = accumulate(len(group.nodes) for group in graph.groups)
    return [
        f"{group.name}: {' '.join(group.nodes)}"
        for group, end in zip(graph.groups, ends, strict=True)
        if end <= N_GROUPED
    ]


def _left_out(graph: Graph, request: TraceCircuit) -> list[str]:
    """What a detailed reply has no room for; a concise one lists no nodes."""
    said: list[str] = []
    if request.response_format == "concise":
        return said
    if (n := len(graph.nodes)) > N_NODES:
        said.append(f"nodes has the {N_NODES} strongest of {n}: the page and an export have all.")
    if (n := len(graph.groups)) > (shown := len(_groups(graph))):
        said.append(f"groups has {shown} of {n}: the page has all.")
    return said


def _row(traced: TracedPrompts, node: GraphNode) -> NodeRow:
    known = traced.labels.by_feature
    label = None if node.sae is None else known.get((node.sae, node.feature or 0))
    return extended(NodeRow, node, label=label)


def _evidence(graph: Graph) -> CircuitEvidence:
    if graph.proof is None or not graph.proof.n_nodes:
        return "correlational"
    return "controlled" if graph.proof.necessity.controls.n else "intervened"


def _summary(graph: Graph) -> str:
    features = sum(node.kind == "feature" for node in graph.nodes)
    errors = (1 - graph.scores.replacement) * (1 - min(graph.untraced, 1.0))
    untraced = (
        f", {percent(graph.untraced)} in features that were not traced"
        if graph.untraced >= 0.005
        else ""
    )
    names = ", ".join(repr(target.label) for target in graph.targets[:3])
    more = f" and {len(graph.targets) - 3} more" if len(graph.targets) > 3 else ""
    said = (
        f"The circuit of {names}{more}: {features} of {graph.n_active} active features are kept, "
        f"and {len(graph.edges)} edges; {percent(errors)} of the influence ends in errors, which "
        f"no feature explains{untraced}."
    )
    proof = graph.proof
    if proof is None or not proof.n_nodes:
        return f"{said} Nothing was measured: edges are attributions."
    return (
        f"{said} Of the {proof.n_edges} strongest edges from features and errors, "
        f"{proof.n_confirmed} were confirmed by ablation{_of_errors(graph)}."
    )


def _of_errors(graph: Graph) -> str:
    """How many of the confirmed edges explain nothing, as they come from errors."""
    from saescope.graphs.proof import strongest_edges

    errors = {node.id for node in graph.nodes if node.kind == "error"}
    tested = [edge for edge in strongest_edges(graph.edges) if edge.source in errors]
    n = sum(edge.effect is not None and edge.effect.confirmed for edge in tested)
    return f", {n} of them from errors" if n else ""


def _over_prompts(traced: TracedPrompts) -> "CircuitOverPrompts | None":
    from saescope.graphs.comparing import over_prompts

    return over_prompts([traced.graph, *traced.others]) if traced.others else None


def _unlikely(traced: TracedPrompts, found: "CircuitOverPrompts | None") -> list[str]:
    """A warning of prompts after which the target is not what the model says."""
    graphs = [traced.graph, *traced.others]
    if found is None or not found.unlikely:
        return []
    where = "; ".join(
        f"{'the prompt' if at == 0 else f'other prompt {at}'} "
        f"({graphs[at].targets[0].label!r}: {graphs[at].targets[0].prob:.2g})"
        for at in found.unlikely
    )
    return [
        f"The first target is unlikely after {where}: edges shared with it say what would raise "
        "the target there, not why it is predicted."
    ]


def _shared(traced: TracedPrompts, found: "CircuitOverPrompts | None") -> str:
    """What the circuits of several prompts have in common."""
    if found is None:
        return ""
    graphs = [traced.graph, *traced.others]
    held = "; ".join(f"{edge.source} -> {edge.target}" for edge in found.in_all[:N_HELD])
    flows = ", ".join(percent(flow) for flow in found.flow_all)
    return (
        f"{len(found.in_all)} of {found.n_edges} edges between features, tokens and targets are in "
        f"the circuits of all {found.n_prompts} prompts with one sign, and carry {flows} of the "
        f"influence there{f': {held}' if held else ''}. {_first_targets(graphs)}"
    )


def _first_targets(graphs: Sequence[Graph]) -> str:
    """How likely the first target is after each prompt; without names each has its own."""
    firsts = [graph.targets[0] for graph in graphs]
    if len({target.id for target in firsts}) == 1:
        probs = ", ".join(f"{target.prob:.2g}" for target in firsts)
        return f"The first target has a probability of {probs} there."
    told = ", ".join(f"{target.label!r} ({target.prob:.2g})" for target in firsts)
    return f"The first targets differ: {told}; name `targets` to ask all prompts the same."


def _top(graph: Graph) -> GraphNode | None:
    """The feature through which most flows."""
    features = [node for node in graph.nodes if node.kind == "feature" and node.sae is not None]
    return max(features, key=lambda node: node.influence, default=None)


def _expected(graph: Graph) -> list[str]:
    """What the suggested ablation will say."""
    top, target = _top(graph), graph.targets[0]
    if top is None or top.lost is None:
        return []
    what = f"difference of logits {target.label!r}"
    if target.against is None:
        what = f"log-probability of {target.label!r}"
    unit = " nats" if target.against is None else ""
    return [
        f"With {top.id} ablated alone the {what} changes by {-top.lost:+.3g}{unit}: the `effect` "
        "of the intervene in `next`."
    ]


def _next(layers: Layers, request: TraceCircuit, graph: Graph) -> list[str]:
    top = _top(graph)
    if top is None:
        return []
    sae = layers.handles[top.sae or 0]
    edit = {"feature": top.feature, "mode": "ablate", "positions": [top.pos]}
    asked = {"target": request.targets[0]} if request.targets else {}
    asked |= {"against": request.against} if request.against else {}
    asked |= {"chat": True} if request.chat else {}
    return [
        next_call("describe_feature", sae=sae, feature=top.feature),
        next_call("intervene", sae=sae, prompt=brief(request.prompt), edits=[edit], **asked),
    ]


TOOLS = [
    Tool(
        trace_circuit,
        TraceCircuit,
        ToolAnnotations(
            title="Trace a circuit",
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=False,
        ),
        group=Group.CIRCUITS,
        prepare=load_named_layers,
        app=APP_URI,
        links=lambda document: (
            [Link("The circuit", document["page"], "text/html")] if document.get("page") else []
        ),
    )
]
