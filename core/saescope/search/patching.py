"""Features of one prompt put into the run of another: what changes at a site, in deltas."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.models.analysis import norm_matched_placebo
from saescope.ops import SparseActs, from_entries
from saescope.saes import SAE
from saescope.search.alignment import Alignment
from saescope.splice import SiteRecord
from saescope.stack import Stack
from saescope.variants import ChangeHere, Variant

PairOf = tuple[int, int]
"""An SAE of the stack, and the place of one of its (feature, position) pairs that differ."""


@dataclass(frozen=True, slots=True)
class SitePair:
    """One SAE on both prompts. What stands at b's positions is moved to those of a that they are
    aligned with; the rest of a is not touched."""

    sae: SAE
    before: SiteRecord
    """The SAE on a."""
    patched: Bool[Tensor, " n_pos"]
    """Positions of a that have a partner, both of which count."""
    partner: Int[Tensor, " n_pos"]
    """The position of b that each of these is aligned with; else 0."""
    there: SparseActs
    """b's features, at a's patched positions."""
    written: Float[Tensor, "n_pos d_out"]
    """What b has where the SAE writes, at a's patched positions; else what a has."""
    differ: SparseActs
    """b's features minus a's, where they differ."""


def site_pair(
    sae: SAE,
    a: SiteRecord,
    b: SiteRecord,
    aligned: Alignment,
    counts: tuple[Bool[Tensor, " n_a"], Bool[Tensor, " n_b"]],
) -> SitePair:
    """Bring one SAE's records of both prompts together; `counts`: positions that count in each."""
    on_a, on_b = aligned.a.to(counts[0].device), aligned.b.to(counts[1].device)
    keep = counts[0][on_a] & counts[1][on_b]
    on_a, on_b = on_a[keep], on_b[keep]
    patched = torch.zeros_like(counts[0])
    patched[on_a] = True
    partner = torch.zeros(len(patched), dtype=torch.long, device=on_a.device)
    partner[on_a] = on_b
    written = a.written.clone()
    written[on_a] = b.written[on_b].to(written)
    there = _moved(b.acts, on_b, on_a, len(patched))
    return SitePair(
        sae=sae,
        before=a,
        patched=patched,
        partner=partner,
        there=there,
        written=written,
        differ=_difference(there, _at(a.acts, patched)),
    )


def some_features(pair: SitePair, places: Sequence[int]) -> ChangeHere:
    """Patch these of the pairs that differ, whatever they are in the run at hand."""
    rows = pair.differ.features.new_tensor(sorted(places))  # entries are in order of position
    positions, features = pair.differ.positions[rows], pair.differ.features[rows]
    return partial(_set_to, pair.sae, positions, features, pair.there.at(positions, features))


def own_features(pair: SitePair) -> ChangeHere:
    """Patch what differs with a's own values: no change, if the patching is right."""
    positions, features = pair.differ.positions, pair.differ.features
    own = pair.before.acts.at(positions, features)
    return partial(_set_to, pair.sae, positions, features, own)


def every_feature(pair: SitePair) -> ChangeHere:
    """Patch all features at the patched positions: also those that a patch below has woken, which
    are silent in both prompts."""

    def change(site: SiteRecord) -> Tensor:
        moved = _difference(pair.there, _at(site.acts, pair.patched))
        return pair.sae.decode_change(moved, like=site.x)

    return change


def whole_site(pair: SitePair) -> ChangeHere:
    """Patch the activation itself: what the SAE says of it, and its error."""

    def change(site: SiteRecord) -> Tensor:
        wide = torch.promote_types(site.written.dtype, torch.float32)
        return (pair.written.to(wide) - site.written.to(wide)) * pair.patched[:, None]

    return change


def error_alone(pair: SitePair) -> ChangeHere:
    """Patch what the features leave of the activation: the error and what the SAE's scale adds."""

    def change(site: SiteRecord) -> Tensor:
        features = every_feature(pair)(site)
        return whole_site(pair)(site).to(features) - features

    return change


def placebo(pair: SitePair, places: Sequence[int], seed: int) -> ChangeHere:
    """Move each position that a patch of these features moves as far, in a random subspace of as
    many dimensions as there are features."""
    patch = some_features(pair, places)

    def change(site: SiteRecord) -> Tensor:
        move = patch(site).float()
        rows = move.any(dim=-1).nonzero()[:, 0]
        base, source = site.written[rows].float(), pair.written[rows].float()
        out = torch.zeros_like(move)
        out[rows] = norm_matched_placebo(base, source, move[rows], rank=len(places), seed=seed)
        return out.to(site.sae_out)

    return change


def variant(stack: Stack, pairs: Sequence[SitePair], chosen: Sequence[PairOf]) -> Variant:
    """Patch pairs of all SAEs together."""
    return {
        i: some_features(pairs[i], [n for which, n in chosen if which == i])
        for i in range(len(stack.saes))
        if any(which == i for which, _ in chosen)
    }


def _set_to(
    sae: SAE,
    positions: Int[Tensor, " n"],
    features: Int[Tensor, " n"],
    values: Float[Tensor, " n"],
    site: SiteRecord,
) -> Float[Tensor, "n_pos d_out"]:
    now = site.acts.at(positions, features)
    moved = from_entries(values - now, features, positions, site.acts.n_pos, site.acts.d_sae)
    return sae.decode_change(moved, like=site.x)


def _at(acts: SparseActs, mask: Bool[Tensor, " n_pos"]) -> SparseActs:
    return acts.select(mask[acts.positions])


def _moved(
    acts: SparseActs, source: Int[Tensor, " n"], target: Int[Tensor, " n"], n_pos: int
) -> SparseActs:
    """The entries at `source`, each at the position of a text of `n_pos` that stands for it."""
    place = torch.full((acts.n_pos,), -1, dtype=torch.long, device=source.device)
    place[source] = target
    positions = place[acts.positions]
    keep = (positions >= 0).nonzero()[:, 0]
    order = keep[positions[keep].argsort(stable=True)]
    return from_entries(
        acts.values[order], acts.features[order], positions[order], n_pos, acts.d_sae
    )


def _difference(there: SparseActs, here: SparseActs) -> SparseActs:
    """`there - here`, entries that are equal left out."""
    values = torch.cat([there.values, -here.values])
    keys = torch.cat([each.positions * each.d_sae + each.features for each in (there, here)])
    unique, place = keys.unique(return_inverse=True)  # sorted: by position, then by feature
    sums = values.new_zeros(len(unique)).index_add_(0, place, values)
    keep = sums != 0
    found = unique[keep]
    return from_entries(
        sums[keep], found % there.d_sae, found // there.d_sae, there.n_pos, there.d_sae
    )
