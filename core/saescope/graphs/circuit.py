"""From a prompt to a graph that has been measured."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch

from saescope.errors import ArgumentError, MismatchError
from saescope.graphs.members import GraphMembers, held
from saescope.graphs.proof import prove
from saescope.graphs.prune import candidates_of
from saescope.graphs.replacement import require_linear
from saescope.graphs.report import as_record, node_ids
from saescope.graphs.targets import choose_targets
from saescope.graphs.trace import Traced, trace
from saescope.hooks import hook_shape
from saescope.models import LanguageModel, Tokens
from saescope.progress import Progress
from saescope.records.graph import Graph, GraphSettings, smaller_part
from saescope.saes import SAE
from saescope.sets import SAESet

MUCH = 0.5
"""A share from which on a reader is warned."""
SOME = 0.1
LITTLE = 0.05
"""A share of the influence that a reader is told of if pruning took it away."""
N_NAMED = 3


def trace_circuit(
    model: LanguageModel,
    of: GraphMembers | SAE | Sequence[SAE],
    prompt: str | Tokens,
    *,
    targets: Sequence[int | str] = (),
    against: int | str | None = None,
    settings: GraphSettings | None = None,
    progress: Progress | None = None,
) -> Graph:
    """The attribution graph of the next token: which features, errors and tokens the targets rest
    on, through which features, pruned to the part that carries most of it, each kept node measured
    by ablation.

    `of` is a set of transcoders (`ss.load_set`), or SAEs of several layers that read where they
    write. Targets are tokens by text or id, by default the likely next tokens; with `against`, the
    difference of one token's logit to that one's. Weights of edges are parts of a pre-activation,
    or of a demeaned logit.

    Raises:
        ArgumentError: PROMPT_TOO_SHORT, or a target that is no single token.
        ModelError: GRAPH_NOT_LINEAR: attention or a norm of the model cannot be held still.
        ConfigError: GRAPH_UNSUPPORTED_SAE.
    """
    members, settings = _members(model, of), settings or GraphSettings()
    tokens = _tokens(model, members, prompt) if isinstance(prompt, str) else prompt
    require_two(tokens)
    with model.lock, torch.no_grad():
        ids = model.batch(tokens.ids)
        if members.kind != "residual":
            require_linear(model, members, ids)
        logits = model.forward(ids, last=1)[0][0, -1]
        chosen = choose_targets(model, logits, named=targets, against=against, settings=settings)
        rows, proof = _halves(progress) if settings.most_measured else (progress, None)
        traced = trace(model, members, tokens, chosen, settings, progress=rows)
        graph = prove(traced, progress=proof) if settings.most_measured else as_record(traced)
    return replace(graph, warnings=_warnings(model, graph, traced))


def _halves(progress: Progress | None) -> tuple[Progress | None, Progress | None]:
    """Progress of the rows, then of the proof: on a long prompt either may take minutes."""
    if progress is None:
        return None, None
    return (
        lambda done, total: progress(done, 2 * total),
        lambda done, total: progress(total + done, 2 * total),
    )


def require_two(tokens: Tokens, *, field: str = "prompt") -> None:
    """Raises ArgumentError: PROMPT_TOO_SHORT: a single token has no circuit."""
    if len(tokens) < 2:
        raise ArgumentError(
            f"A circuit needs at least two tokens (got {len(tokens)}): at the first no feature "
            "counts.",
            code="PROMPT_TOO_SHORT",
            field=field,
            got=len(tokens),
            hint="Give a longer prompt.",
        )


def _members(model: LanguageModel, of: GraphMembers | SAE | Sequence[SAE]) -> GraphMembers:
    """The set at the hooks of this model.

    Raises:
        MismatchError: DIM_MISMATCH: the model has another width there.
    """
    if not isinstance(of, GraphMembers):
        return held(model, of)
    if isinstance(of, SAESet) and of.members[0].model is not model:
        of = of.settled(model)
    for member in of.members:
        if (there := prod(hook_shape(model, member.read_hook))) != member.cfg.d_in:
            raise MismatchError(
                f"The set has width {member.cfg.d_in} at {member.read_hook}, {model.name} has "
                f"{there} there.",
                code="DIM_MISMATCH",
                field="model",
                got=there,
                allowed=member.cfg.d_in,
                hint="Load the set with its own model.",
            )
    return of


def _tokens(model: LanguageModel, members: GraphMembers, prompt: str) -> Tokens:
    """The prompt as the members were trained to see it."""
    return model.tokenize(prompt, prepend_bos=members.members[0].cfg.metadata.prepend_bos)


def _pruned(traced: Traced) -> list[str]:
    """What much of the influence flows through, and pruning left out: in a small graph the ends of
    its paths hold most of what is kept."""
    columns, flow = traced.store.columns, traced.influence.of / traced.weights.sum()
    lost = flow * candidates_of(traced.store)
    lost[traced.kept.columns] = 0
    largest = (lost >= LITTLE).nonzero()[:, 0]
    largest = largest[lost[largest].argsort(descending=True, stable=True)].tolist()
    if not largest:
        return []
    names = node_ids(traced, {column: columns.place(column) for column in largest[:N_NAMED]})
    shown = ", ".join(f"{name} {float(lost[column]):.0%}" for column, name in names.items())
    more = f" and {len(largest) - N_NAMED} more" if len(largest) > N_NAMED else ""
    return [
        f"Pruned, though {LITTLE:.0%} of the influence or more flows through each: {shown}{more}. "
        "node_share=0.98 keeps more."
    ]


def _warnings(model: LanguageModel, graph: Graph, traced: Traced) -> list[str]:
    warnings: list[str] = []
    if said := smaller_part(graph.scores.replacement, graph.untraced):
        warnings.append(said)
    if graph.untraced > SOME:
        left = graph.n_active - graph.n_traced
        warnings.append(
            f"{100 * graph.untraced:.0f}% of the influence flows through {left} features whose own "
            "sources were not computed: raise max_features."
        )
    warnings += _pruned(traced)
    if model.dtype not in (torch.float32, torch.float64):
        warnings.append(
            f"The model runs in {str(model.dtype).removeprefix('torch.')}: weights of edges are "
            'off by several percent. Load it with dtype="float32".'
        )
    if not traced.tokens.bos_prepended:
        first = traced.tokens.strings[0]
        warnings.append(
            f"No BOS stands before the prompt: its first token ({first!r}) has no features and no "
            "error in the graph."
        )
    proof = graph.proof
    if proof and proof.n_edges and proof.n_confirmed < MUCH * proof.n_edges:
        warnings.append(
            f"Of the {proof.n_edges} strongest edges {proof.n_confirmed} were confirmed by "
            "ablation (the sign, and half to twice the size): the others are attributions."
        )
    return warnings
