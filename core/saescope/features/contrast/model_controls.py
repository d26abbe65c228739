"""What a feature's change from one model to another stands beside: how its level differs between
random halves of the texts in one model, and how it changes where the activations are moved as far
in a random direction."""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.cancel import stop_if_cancelled
from saescope.controls import ENOUGH, compare_with
from saescope.features.contrast.designs import Design
from saescope.features.reading.text_scores import Summary, TextScores
from saescope.hooks import record_activations
from saescope.models import LanguageModel, Tokens, counted
from saescope.records.features import ChangeControls
from saescope.saes import SAE
from saescope.sinks import find_sinks
from saescope.splice import encode_site, read_hook, site_hooks

MOST_TEXTS = 32
"""Texts of each set whose activations are moved at random: each is encoded 19 times."""


class TwoModels(NamedTuple):
    """Two models that one SAE reads, and the number that stands for a text."""

    model: LanguageModel
    other: LanguageModel
    sae: SAE
    by: Summary


def change_controls(
    models: TwoModels,
    texts: Sequence[Tokens],
    changes: TextScores,
    *,
    design: Design,
    features: Sequence[int],
    seed: int,
) -> list[ChangeControls]:
    """The mean change of each of these features beside 19 halvings of the texts in the other model
    and 19 random directions.

    With two sets of texts everything is the difference of the sets' means. A random direction is
    one for all texts and positions, and as long at each position as the two models are apart there;
    of more than `MOST_TEXTS` texts a set, an even sample is moved, and its own change compared.
    """
    columns = torch.searchsorted(changes.features, torch.tensor(features))
    change, other = changes.scores[:, columns].double(), changes.other
    assert other is not None, "these are no changes"
    before = other[:, columns].double()
    sets = design.sets()
    few = [rows[:: ceil(len(rows) / MOST_TEXTS)] for rows in sets]
    whole, part = (_difference([change[rows] for rows in each]) for each in (sets, few))
    moved = _difference(
        [
            torch.stack(
                [_moved(models, texts[row], features, seed) - before[row] for row in rows.tolist()]
            )
            for rows in few
        ]
    )
    halves = _halves(design, before, seed)
    return [
        ChangeControls(
            change=float(whole[n]),
            halves=compare_with(float(whole[n]), halves[:, n].tolist()),
            perturbed=compare_with(float(part[n]), moved[:, n].tolist()),
        )
        for n in range(len(features))
    ]


def _difference(parts: Sequence[Float[Tensor, "_ ..."]]) -> Float[Tensor, "..."]:
    """The mean over the texts of the only set, or that of the first less that of the second."""
    means = [part.mean(0) for part in parts]
    return means[0] if len(means) == 1 else means[0] - means[1]


def _halves(
    design: Design, levels: Float[Tensor, "n_texts n_features"], seed: int
) -> Float[Tensor, "n_draws n_features"]:
    """How far the mean levels of random halves of the texts are apart; no draw where a set has but
    one document."""
    rng = torch.Generator().manual_seed(seed)
    units = [design.unit[rows].unique() for rows in design.sets()]
    if min(map(len, units)) < 2:
        return levels.new_zeros(0, levels.shape[1])
    draws: list[Tensor] = []
    for _ in range(ENOUGH):
        apart: list[Tensor] = []
        for rows, own in zip(design.sets(), units, strict=True):
            chosen = own[torch.randperm(len(own), generator=rng)[: (len(own) + 1) // 2]]
            first = torch.isin(design.unit[rows], chosen)
            apart.append(levels[rows[first]].mean(0) - levels[rows[~first]].mean(0))
        draws.append(apart[0] - apart[1] if len(apart) > 1 else apart[0])
    return torch.stack(draws)


@torch.no_grad()
def _moved(
    models: TwoModels, tokens: Tokens, features: Sequence[int], seed: int
) -> Float[Tensor, "n_draws n_features"]:
    """The scores of a text in the other model, with its activations moved in each of 19 random
    directions as far as the two models are apart."""
    stop_if_cancelled()
    sae, hook, mask = models.sae, read_hook(models.sae), counted(tokens, (), False)
    reads: list[Tensor] = []
    for model in (models.model, models.other):
        recorded = record_activations(model, model.batch(tokens.ids), site_hooks(sae))
        mask &= ~find_sinks(model, recorded)[0].cpu()
        reads.append(recorded[hook].to(models.other.device))
    read, base = reads
    apart = (read.float() - base.float()).reshape(len(tokens), -1).norm(dim=-1)
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(ENOUGH, base[0, 0].numel(), generator=draw).to(base.device)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    shift = (apart[:, None] * directions[:, None]).reshape(ENOUGH, *base.shape[1:])
    _, acts = encode_site(models.other, sae, base + shift.to(base))
    values = torch.stack([acts.of_feature(i) for i in features], dim=-1).cpu().double()
    return _scores(values.reshape(ENOUGH, len(tokens), len(features)), mask, models.by)


def _scores(
    values: Float[Tensor, "n_draws n_pos n_features"], mask: Bool[Tensor, " n_pos"], by: Summary
) -> Float[Tensor, "n_draws n_features"]:
    kept = values[:, mask]
    return kept.amax(1).clamp(min=0) if by == "max" else kept.mean(1)
