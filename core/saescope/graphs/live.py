"""Runs of the model itself with nodes of a graph ablated: attention held as it was, or nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.graphs.columns import Columns, NodePlace
from saescope.graphs.replacement import FINAL, Clean, constant, decoded
from saescope.ops import SparseActs
from saescope.splice import add_at_site

MAX_TOKENS = 2048
"""Tokens of one forward pass over several ablations of a prompt."""
Change = Callable[[int, Mapping[str, Tensor]], Tensor | None]
"""Takes a site and what was read below it in this pass, by hook; returns what is added there, `[n,
n_pos, d_out]`, or None."""


@dataclass(frozen=True, slots=True)
class Live:
    """One pass of the model with some nodes ablated in each row."""

    read: Mapping[str, Tensor]
    """What arrives where members read and before the unembedding, [n, n_pos, ...]."""
    logits: Float[Tensor, "n d_vocab"]
    """After the last token."""


def run_live(clean: Clean, n: int, change: Change, *, hold_attention: bool) -> Live:
    """Run `n` rows of the prompt through the model as it is, with `change` at each site; with
    `hold_attention` its patterns are those of the clean run."""
    read: dict[str, Tensor] = {}

    def keep(hook_name: str) -> Callable[..., None]:
        def kept(x: Tensor, hook: object) -> None:
            read[hook_name] = x.detach().clone()

        return kept

    def write(i: int) -> Callable[..., Tensor | None]:
        def written(x: Tensor, hook: object) -> Tensor | None:
            added = change(i, read)
            return None if added is None else add_at_site(x, added)

        return written

    hooks = [(name, keep(name)) for name in dict.fromkeys([*clean.reads, FINAL])]
    hooks += [(site.hook_name, write(i)) for i, site in enumerate(clean.sites)]
    hooks += [(name, constant(there)) for name, there in clean.patterns.items() if hold_attention]
    with clean.model.lock, clean.model.hooked(hooks):
        logits, _ = clean.model.forward(clean.ids.expand(n, -1), last=1)
    return Live(read, logits[:, -1])


def without(columns: Columns, places: Sequence[NodePlace]) -> Change:
    """One node ablated in each row: a feature set to zero at its position, or an error taken
    away."""
    clean = columns.clean

    def change(site: int, read: Mapping[str, Tensor]) -> Tensor | None:
        added = clean.errors[site].new_zeros(len(places), *clean.errors[site].shape)
        for row, place in enumerate(places):
            if (vector := wrote(clean, place, site)) is not None:
                added[row, place.pos] -= vector
        return added if bool(added.any()) else None

    return change


def wrote(clean: Clean, place: NodePlace, site: int) -> Float[Tensor, " d_out"] | None:
    """What a node writes at a site; None where it writes nothing there."""
    if place.kind == "error":
        return clean.errors[site][place.pos] if place.owner == site else None
    if place.kind != "feature" or site not in clean.writes[place.owner]:
        return None
    acts, to = clean.acts[place.owner], clean.writes[place.owner][site]
    pos, feature = acts.features.new_tensor([[place.pos], [place.feature]])
    value = acts.at(pos, feature)
    return (value[:, None] * clean.members[place.owner].write_rows(feature, to))[0]


def without_all(columns: Columns, rows: Sequence[Tensor]) -> Change:
    """Many features ablated together in each row: each loses the activation that it has in the run
    in which those below it are gone."""
    clean = columns.clean

    def change(site: int, read: Mapping[str, Tensor]) -> Tensor | None:
        added = clean.errors[site].new_zeros(len(rows), *clean.errors[site].shape)
        for i, member in enumerate(clean.members):
            if site in clean.writes[i]:
                now = member.encode(clean.x(i, read[member.read_hook]))
                lost = _chosen(columns, i, rows, now)
                gone = decoded(member, lost, clean.writes[i][site])
                added -= gone.reshape(added.shape)
        return added

    return change


def _chosen(columns: Columns, i: int, rows: Sequence[Tensor], now: SparseActs) -> SparseActs:
    """The activations of the chosen features, of all in a pass, `[rows * n_pos]`."""
    acts, n_pos = columns.clean.acts[i], columns.clean.n_pos
    first, last = columns.starts[i], columns.starts[i + 1]
    keys = list[Tensor]()
    for row, chosen in enumerate(rows):
        own = (chosen[(chosen >= first) & (chosen < last)] - first).to(acts.features.device)
        keys.append((row * n_pos + acts.positions[own]) * acts.d_sae + acts.features[own])
    return now.select(torch.isin(now.positions * now.d_sae + now.features, torch.cat(keys)))
