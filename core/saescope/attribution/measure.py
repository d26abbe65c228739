"""Measuring what was estimated: each listed pair, all of them, random pairs that match them, the
error."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor

from saescope.attribution.ablation import (
    Pairs,
    draw_controls,
    measure_ablations,
    without_error,
    without_pairs,
)
from saescope.attribution.question import Part, Question
from saescope.controls import compare_with
from saescope.metrics import pearson, spearman
from saescope.records.attribution import Agreement, Joint, JointOfSign

N_SAMPLE = 20
"""Pairs drawn at random, to compare estimate and measurement where nothing was selected."""

Pair = tuple[int, int]
"""An SAE of the stack, and the place of one of its active (feature, position) pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablations:
    """What the ablations gave."""

    alone: list[float]
    joint: Joint
    by_sign: list[JointOfSign]
    agreement: Agreement
    errors: list[float]
    """By SAE, in the order of the stack."""


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
    sample = _sample(parts, seed)
    groups = {
        "alone": [[pair] for pair in chosen],
        **{name: [pairs] for name, pairs in sets.items()},
        **{f"controls of {name}": _draw(q, parts, pairs, seed) for name, pairs in sets.items()},
        "sample": [[pair] for pair in sample],
    }
    variants = [
        without_pairs(q.stack, _by_sae(parts, pairs)) for runs in groups.values() for pairs in runs
    ]
    variants += [without_error(i, mask) for i, mask in enumerate(q.masks)]
    effects = iter(measure_ablations(q.stack, q.ids, q.sites, variants, q.metric))
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


def _sample(parts: Sequence[Part], seed: int) -> list[Pair]:
    n_pairs, rng = sum(part.share.total for part in parts), torch.Generator().manual_seed(seed)
    return located(parts, torch.randperm(n_pairs, generator=rng)[:N_SAMPLE])


def _draw(
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


def _by_sae(parts: Sequence[Part], pairs: Sequence[Pair]) -> dict[int, Pairs]:
    by_sae: dict[int, Pairs] = {}
    for which in sorted({which for which, _ in pairs}):
        acts = parts[which].acts
        rows = acts.features.new_tensor([i for w, i in pairs if w == which])
        by_sae[which] = Pairs(acts.features[rows], acts.positions[rows])
    return by_sae
