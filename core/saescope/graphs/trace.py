"""Trace a circuit: the rows of a graph, most influential first, and what is kept of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from saescope.cancel import stop_if_cancelled
from saescope.graphs.columns import Columns
from saescope.graphs.influence import Influence, influence
from saescope.graphs.members import GraphMembers
from saescope.graphs.prune import Pruned, prune
from saescope.graphs.replacement import Clean, read_clean
from saescope.graphs.rows import RowStore
from saescope.graphs.tape import Tape, Tapes
from saescope.graphs.targets import LogitTarget
from saescope.models import LanguageModel, Tokens
from saescope.progress import Progress
from saescope.records.graph import GraphSettings

_GRADIENT_BYTES = 512 << 20
"""Memory for the gradients of one batch of rows."""
_PATTERN_BYTES = 64 << 20
"""Memory for one layer's attention pattern, copied for each row of a batch."""
_MOST_ROWS = 64
_STEP, _N_LENGTHS = 64, 8
"""A row is computed over the beginning of the prompt that reaches its feature: by steps of so many
positions, at most so many."""
_ROUND = 256
"""Features, at least, between two looks at what is influential now."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A graph with all that it was made of."""

    clean: Clean
    tokens: Tokens
    targets: Sequence[LogitTarget]
    store: RowStore
    influence: Influence
    kept: Pruned
    kind: str
    settings: GraphSettings

    @property
    def weights(self) -> Tensor:
        """How much each target counts."""
        return torch.tensor([target.weight for target in self.targets], dtype=torch.float64)


def trace(
    model: LanguageModel,
    of: GraphMembers,
    tokens: Tokens,
    targets: Sequence[LogitTarget],
    settings: GraphSettings,
    *,
    progress: Progress | None = None,
) -> Traced:
    """The graph of what `targets` after the prompt owe to features, errors and tokens.

    `A[t, s]`, the weight of an edge, is what source s supplies of the pre-activation of feature t
    (or of the demeaned logit t) in the local replacement model: write vector of s, through the
    frozen pass, onto the read vector of t (circuit-tracer's definition). Rows are computed for the
    logits, then for the features with most influence so far, up to `settings.max_features`.

    Raises:
        ModelError: GRAPH_NOT_LINEAR: attention or a norm of the model cannot be held still.
        ConfigError: GRAPH_UNSUPPORTED_SAE.
    """
    with model.lock:
        clean = read_clean(model, of, model.batch(tokens.ids), n_left_out=1)
        tapes = Tapes(clean)
        store = RowStore(Columns.of(clean))
        _add_logits(store, tapes.reaching(clean.n_pos), targets)
        weights = torch.tensor([target.weight for target in targets], dtype=torch.float64)
        _add_features(store, tapes, weights, settings.max_features, progress)
    found = influence(store, weights)
    kept = prune(
        store,
        found,
        weights,
        node_share=settings.node_share,
        edge_share=settings.edge_share,
    )
    return Traced(clean, tokens, targets, store, found, kept, of.kind, settings)


def _add_logits(store: RowStore, tape: Tape, targets: Sequence[LogitTarget]) -> None:
    directions = torch.stack([target.direction for target in targets])
    last = torch.full((len(targets),), tape.clean.n_pos - 1)
    rows = store.columns.contract(tape.pull(None, directions, last))
    store.add(None, torch.arange(len(targets)), rows)


def _add_features(
    store: RowStore,
    tapes: Tapes,
    weights: Tensor,
    max_features: int,
    progress: Progress | None,
) -> None:
    n = store.columns.n_features
    todo = torch.ones(n, dtype=torch.bool)
    wanted = min(n, max_features)
    done = 0
    while done < wanted:
        # All are wanted: in which order does not matter, and nothing needs to be ranked.
        if wanted == n:
            best = todo.nonzero()[:, 0]
        else:
            best = _most_influential(store, weights, todo, min(wanted - done, _round(done)))
        if not len(best):
            return
        for n_pos, reader, columns in _batches(store.columns, best):
            tape = tapes.reaching(n_pos)
            for part in columns.split(_rows_at_once(tape.clean)):
                stop_if_cancelled()
                _add_rows(store, tape, reader, part)
                done += len(part)
                if progress:
                    progress(done, wanted)
        todo[best] = False


def _round(done: int) -> int:
    """How many features the next round takes: more as the ranking settles."""
    return max(_ROUND, done // 4)


def _most_influential(
    store: RowStore, weights: Tensor, todo: Tensor, most: int
) -> Int[Tensor, " n"]:
    scores = influence(store, weights).of[: store.columns.n_features] * todo
    best = scores.topk(min(most, len(scores)))
    return best.indices[best.values > 0]


def _batches(columns: Columns, chosen: Int[Tensor, " n"]) -> list[tuple[int, int, Tensor]]:
    """The columns of features by how many positions their rows need, then by member."""
    members = columns.member_of(chosen)
    lengths = _lengths(columns.positions_of(chosen), columns.clean.n_pos)
    batches = torch.stack([lengths, members], dim=1)
    return [
        (int(length), int(i), chosen[(batches == key).all(1)].sort().values)
        for key in batches.unique(dim=0)
        for length, i in [key]
    ]


def _lengths(positions: Int[Tensor, " n"], n_pos: int) -> Int[Tensor, " n"]:
    """How many positions of the prompt are run for a row: what comes after a feature supplies
    nothing to it. A few lengths, since each needs a clean run of its own."""
    step = max(_STEP, -(-n_pos // _N_LENGTHS))
    return ((positions // step + 1) * step).clamp(max=n_pos)


def _add_rows(store: RowStore, tape: Tape, reader: int, columns: Int[Tensor, " n"]) -> None:
    acts, start = tape.clean.acts[reader], store.columns.starts[reader]
    rows = tape.clean.members[reader].read_rows(acts.features[columns - start])
    gradients = tape.pull(reader, rows, acts.positions[columns - start])
    store.add(reader, columns, store.columns.contract(gradients))


def _rows_at_once(clean: Clean) -> int:
    """How many rows the memory for their gradients, and for copies of an attention pattern, one for
    each row, allows."""
    gradients = 4 * clean.n_pos * clean.model.d_model * (len(clean.sites) + 1)
    pattern = 4 * max((x.numel() for x in clean.patterns.values()), default=0)
    most = min(_GRADIENT_BYTES // gradients, _PATTERN_BYTES // max(1, pattern))
    return max(1, min(_MOST_ROWS, most))
