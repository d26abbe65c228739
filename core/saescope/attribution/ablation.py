"""Measuring what was estimated, by ablation: each listed pair, all of them, random pairs that match
them, and what the SAEs do not reconstruct."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.attribution.question import Part, Question
from saescope.controls import compare_with
from saescope.metrics import pearson, spearman
from saescope.ops import SparseActs, from_entries
from saescope.records.attribution import Agreement, Joint, JointOfSign
from saescope.saes import SAE
from saescope.splice import SiteRecord
from saescope.stack import Stack
from saescope.variants import Change, Variant, run_variants

N_NEAREST = 8
"""Each control is drawn from this many pairs that are nearest in position and size."""
N_SAMPLE = 20
"""Pairs drawn at random, to compare estimate and measurement where nothing was selected."""

Pair = tuple[int, int]
"""An SAE of the stack, and the place of one of its active (feature, position) pairs."""


class Pairs(NamedTuple):
    """(feature, position) pairs of one SAE."""

    features: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablations:
    """What the ablations gave."""

    alone: list[float]
    joint: Joint
    by_sign: list[JointOfSign]
    agreement: Agreement
    errors: list[float]
    """The effect of each SAE's error, in the order of the stack."""


def strongest(parts: Sequence[Part], k: int, sign: str) -> list[Pair]:
    """The `k` pairs of all SAEs together whose attributions are largest, by `sign`."""
    attributions = torch.cat([part.attributions for part in parts])
    strength = {"any": attributions.abs(), "positive": attributions, "negative": -attributions}[
        sign
    ]
    order = strength.sort(descending=True, stable=True).indices
    return located(parts, order[strength[order] > 0][:k])


def located(parts: Sequence[Part], places: Int[Tensor, " n"]) -> list[Pair]:
    """The pairs at these places of all SAEs' pairs in a row."""
    # [all pairs], SAE after SAE: starts[i] is where those of SAE i begin.
    starts = [0, *accumulate(part.share.total for part in parts)]
    return [(which := bisect_right(starts, i) - 1, i - starts[which]) for i in places.tolist()]


def measure_pairs(
    question: Question, parts: Sequence[Part], chosen: Sequence[Pair], seed: int
) -> Ablations:
    """One batch of runs: each listed pair alone, all of them and those of each sign together with
    their controls, a random sample of pairs, and each SAE's error."""
    q = question
    estimates = [float(parts[which].attributions[i]) for which, i in chosen]
    sets = {"all": [*chosen]}
    if min(estimates) < 0 < max(estimates):
        for name, sign in (("positive", 1), ("negative", -1)):
            sets[name] = [pair for pair, a in zip(chosen, estimates, strict=True) if a * sign > 0]
    n_pairs, rng = sum(part.share.total for part in parts), torch.Generator().manual_seed(seed)
    sample = located(parts, torch.randperm(n_pairs, generator=rng)[:N_SAMPLE])
    groups = {
        "alone": [[pair] for pair in chosen],
        **{name: [pairs] for name, pairs in sets.items()},
        **{f"controls of {name}": _draws(q, parts, pairs, seed) for name, pairs in sets.items()},
        "sample": [[pair] for pair in sample],
    }
    variants = [_without(q.stack, parts, pairs) for runs in groups.values() for pairs in runs]
    variants += [
        {i: partial(_without_error, mask=mask.to(q.ids.device))} for i, mask in enumerate(q.masks)
    ]
    clean, ablated = run_variants(q.stack, q.ids, q.sites, variants, position=q.position)
    effects = iter(q.metric.target.change(ablated, clean))
    measured = {name: [next(effects) for _ in runs] for name, runs in groups.items()}
    controls = {
        name: compare_with(measured[name][0], measured[f"controls of {name}"]) for name in sets
    }
    sampled = torch.tensor([float(parts[which].attributions[i]) for which, i in sample])
    rank = spearman(sampled, torch.tensor(measured["sample"]))
    return Ablations(
        alone=measured["alone"],
        joint=Joint(measured_effect=measured["all"][0], control=controls["all"]),
        by_sign=[
            JointOfSign(
                measured_effect=measured[name][0],
                control=controls[name],
                sign=name,
                n=len(sets[name]),
            )
            for name in [*sets][1:]
        ],
        agreement=Agreement(pearson(estimates, measured["alone"]), len(chosen), rank, len(sample)),
        errors=list(effects),
    )


def _draws(
    question: Question, parts: Sequence[Part], pairs: Sequence[Pair], seed: int
) -> list[list[Pair]]:
    """Controls of pairs: of each SAE as many others as there are of it."""
    draws: list[list[Pair]] = [[] for _ in range(question.n_controls)]
    for which, part in enumerate(parts):
        own = torch.tensor([i for w, i in pairs if w == which], dtype=torch.long)
        drawn = draw_controls(
            part.acts, own, sizes=part.sizes, n_controls=question.n_controls, seed=seed
        )
        for draw, entries in zip(draws, drawn, strict=True):
            draw += [(which, i) for i in entries.tolist()]
    return draws


def _without(stack: Stack, parts: Sequence[Part], pairs: Sequence[Pair]) -> Variant:
    """Pairs set to zero together, the SAEs' errors kept.

    What a pair of an upper SAE loses is its activation in the run in which the pairs below it are
    ablated.
    """
    variant: dict[int, Change] = {}
    for which in sorted({which for which, _ in pairs}):
        acts = parts[which].acts
        rows = acts.features.new_tensor([i for w, i in pairs if w == which])
        lost = Pairs(acts.features[rows], acts.positions[rows])
        variant[which] = partial(removal, stack.saes[which], pairs=lost)
    return variant


def _without_error(
    site: SiteRecord, *, mask: Bool[Tensor, " n_pos"]
) -> Float[Tensor, "n_pos d_out"]:
    """What taking the SAE's error away adds at the positions that count."""
    return -site.error * mask[:, None]


def removal(sae: SAE, site: SiteRecord, *, pairs: Pairs) -> Float[Tensor, "n_pos d_out"]:
    """What ablating the pairs adds at the site: `-f_i W_dec_i` at each one's position."""
    order, here = pairs.positions.argsort(stable=True), site.acts.values.device
    features, positions = pairs.features[order].to(here), pairs.positions[order].to(here)
    gone = from_entries(
        -site.acts.at(positions, features),
        features,
        positions,
        site.acts.n_pos,
        site.acts.d_sae,
    )
    return sae.decode_change(gone, like=site.x)


def draw_controls(
    acts: SparseActs,
    chosen: Int[Tensor, " k"],
    *,
    sizes: Float[Tensor, " nnz"],
    n_controls: int,
    seed: int,
    others_only: bool = False,
) -> list[Int[Tensor, " k"]]:
    """For each draw as many active pairs as are chosen, each at or near the position of one of them
    and of like size (`sizes`: |f| times the norm of the decoder row).

    The chosen pairs may be drawn like any other: a draw is what a random choice among pairs that
    match would have been, so that a random choice is outside of its controls as rarely as the rule
    says. With `others_only` they are not drawn: of few chosen ones, most draws would hold one.
    Features that write nothing are never drawn.
    """
    # A choice among few pairs, one after the other: an accelerator's host would wait for each.
    acts, sizes, chosen = acts.to("cpu"), sizes.cpu(), chosen.cpu()
    free = sizes > 0
    if others_only:
        free = free.index_fill(0, chosen, False)
    pool = free.nonzero()[:, 0]
    near = [_nearest(acts, entry, sizes, pool, len(chosen)) for entry in chosen.tolist()]
    rng = torch.Generator().manual_seed(seed)
    return [chosen.new_tensor(_draw(near, rng)) for _ in range(n_controls)]


def _nearest(
    acts: SparseActs, entry: int, sizes: Tensor, pool: Int[Tensor, " m"], k: int
) -> list[int]:
    """Pairs that match, best first: those at the position, with its neighbours where it has few, by
    ratio of sizes; then farther ones, of which a draw of many pairs may need some."""
    if not len(pool):
        return []
    apart = (acts.positions[pool] - acts.positions[entry]).abs()
    unlike = (sizes[pool].log() - sizes[entry].log()).abs()
    order = unlike.argsort(stable=True)
    beyond = apart > apart.sort().values[:N_NEAREST][-1]
    order = order[beyond[order].to(torch.int8).argsort(stable=True)]
    return pool[order][: N_NEAREST + k].tolist()


def _draw(near: Sequence[Sequence[int]], rng: torch.Generator) -> list[int]:
    """One draw, without replacement: pairs ablated together must be different ones."""
    drawn: list[int] = []
    for options in near:
        free = [entry for entry in options if entry not in drawn][:N_NEAREST]
        if free:
            drawn.append(free[int(torch.randint(len(free), (1,), generator=rng))])
    return drawn
