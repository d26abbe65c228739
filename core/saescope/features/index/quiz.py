"""Material for a quiz: where a feature fires, where it nearly does, and anything else; only from
contexts that no card shows."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.activations import counted_positions
from saescope.activations.hashing import mixed
from saescope.features.index.cofiring import Sample
from saescope.features.index.firings import AFTER, BEFORE
from saescope.features.index.passages import KeptFiring, read_spans
from saescope.features.index.rows import QuizPassage, QuizPool
from saescope.features.index.texts import ContextTexts

N_DISTRACTORS = 12
"""The most items of each kind."""
FIRING, RANDOM, SAME_TOKEN = "firing", "random", "same token"


class _PassagePlace(NamedTuple):
    context: int
    pos: int
    why: str
    activations: tuple[float, ...]
    """The activations at the tokens of the full window; empty where all are silent."""


def make_pool(
    sample: Sample,
    texts: ContextTexts,
    feature: int,
    kept: Sequence[Sequence[KeptFiring]],
    *,
    similar: Sequence[int],
    seed: int,
) -> QuizPool:
    """`kept`: firings of the feature in quiz contexts, by band; `similar`: features that are easily
    taken for it."""
    rng = torch.Generator().manual_seed(int(mixed(torch.tensor([seed * 2**20 + feature]))))
    firing = [
        _PassagePlace(one.context, one.pos, FIRING, tuple(one.activations))
        for band in kept
        for one in band
    ]
    firing = [firing[i] for i in torch.randperm(len(firing), generator=rng).tolist()]
    firing = list({place.context: place for place in firing}.values())
    used = {place.context for place in firing}
    ids = _ids(sample, texts)
    silent = _silent(sample.fires(feature)) & counted_positions(ids, sample.special_ids)
    tokens = ids[sample.fires(feature)]
    rows = texts.ids(place.context for place in firing)
    tokens = torch.cat(
        [tokens, *(rows[place.context][place.pos : place.pos + 1] for place in firing)]
    )
    near = [(SAME_TOKEN, silent & torch.isin(ids, tokens))]
    near += [
        (f"feature {other} fires", silent & sample.fires(other))
        for other in dict.fromkeys(similar)
        if other != feature
    ]
    near_miss = _draw(sample, near, used, rng)
    random = _draw(sample, [(RANDOM, silent)], used, rng)
    return QuizPool(*(_passages(texts, places) for places in (firing, near_miss, random)))


def _draw(
    sample: Sample,
    kinds: Sequence[tuple[str, Bool[Tensor, "n n_pos"]]],
    used: set[int],
    rng: torch.Generator,
) -> list[_PassagePlace]:
    """One place of each kind in turn, each in a context of its own, which is `used` from then
    on."""
    queues = [(why, iter(_one_each(there, rng))) for why, there in kinds]
    drawn: list[_PassagePlace] = []
    while queues and len(drawn) < N_DISTRACTORS:
        why, queue = queues.pop(0)
        for row, pos in queue:
            context = int(sample.contexts[row])
            if context not in used:
                used.add(context)
                drawn.append(_PassagePlace(context, pos, why, ()))
                queues.append((why, queue))
                break
    return drawn


def _one_each(there: Bool[Tensor, "n n_pos"], rng: torch.Generator) -> list[tuple[int, int]]:
    """A random one of these positions of each context that has any, the contexts in random
    order."""
    rows = torch.randperm(len(there), generator=rng)
    rows = rows[there[rows].any(1)] if len(rows) else rows
    chance = torch.rand(len(rows), there.shape[1], generator=rng) * there[rows]
    return list(zip(rows.tolist(), chance.argmax(1).tolist(), strict=True)) if len(rows) else []


def _silent(fires: Bool[Tensor, "n n_pos"]) -> Bool[Tensor, "n n_pos"]:
    """Around which positions a passage holds no firing."""
    padded = torch.nn.functional.pad(fires.float(), (BEFORE, AFTER))
    return (
        torch.nn.functional.max_pool1d(padded, BEFORE + 1 + AFTER, stride=1) == 0
        if len(fires)
        else ~fires
    )


def _ids(sample: Sample, texts: ContextTexts) -> Int[Tensor, "n n_pos"]:
    rows = texts.ids(sample.contexts.tolist())
    return (
        torch.stack([rows[i] for i in sample.contexts.tolist()])
        if rows
        else torch.zeros(0, sample.context_size, dtype=torch.int64)
    )


def _passages(texts: ContextTexts, places: Sequence[_PassagePlace]) -> list[QuizPassage]:
    spans = read_spans(texts, [(place.context, place.pos) for place in places])
    passages: list[QuizPassage] = []
    for place, span in zip(places, spans, strict=True):
        seen = place.activations[span.first : span.first + len(span.tokens)] or (0.0,) * len(
            span.tokens
        )
        passages.append(
            QuizPassage(place.context, span.start, span.tokens, span.pos, tuple(seen), place.why)
        )
    return passages
