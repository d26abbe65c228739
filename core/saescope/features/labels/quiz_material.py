"""What a quiz may ask of a feature: the index's own choice over the range of activations, and more
firings from its sample of contexts."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from saescope.features.index import FeatureIndex, QuizPassage
from saescope.features.index.passages import read_spans
from saescope.features.labels.quiz_store import MARKS, passage_key

FAINT = 0.1
"""Firings below this share of the feature's maximum are asked only where there are no others."""
MOST_SAMPLED = 40
SAMPLED = "fires, in the sample"


@dataclass(slots=True)
class Material:
    """What is left; each passage is used once, from the end of its list."""

    firing: list[QuizPassage]
    near_miss: list[QuizPassage]
    random: list[QuizPassage]

    def silent(self, turn: int) -> QuizPassage | None:
        """A near miss, every third time a text at random, as far as there are any."""
        source = (
            (self.random or self.near_miss) if turn % 3 == 2 else (self.near_miss or self.random)
        )
        return source.pop() if source else None


def quiz_material(
    index: FeatureIndex,
    feature: int,
    *,
    seed: int,
    similar: Collection[int],
    spent: Collection[str],
) -> Material:
    """All passages whose answers nobody can know; the firings that are taken first come last."""
    pool = index.quiz_pool(feature, seed=seed, similar=list(similar))
    chosen, near_miss, at_random = ([p for p in part if _askable(p, spent)] for part in pool)
    least = FAINT * (index.maximum(feature) or 0.0)
    used = {p.context for part in pool for p in part}
    sampled = [
        p for p in sampled_firings(index, feature, seed=seed, besides=used) if _askable(p, spent)
    ]
    faint, clear = (
        [p for p in chosen if (p.activation >= least) == is_clear] for is_clear in (False, True)
    )
    return Material([*faint, *sampled, *clear], near_miss, at_random)


def sampled_firings(
    index: FeatureIndex, feature: int, *, seed: int, besides: Collection[int]
) -> list[QuizPassage]:
    """A firing of each sampled context that is not in `besides`; of how strong it is the sample
    only knows "1", above zero."""
    fires = index.sample.fires(feature)
    rng = torch.Generator().manual_seed(seed)
    rows = [
        row
        for row in torch.randperm(len(fires), generator=rng).tolist()
        if int(index.sample.contexts[row]) not in besides
    ]
    rows = [row for row in rows if bool(fires[row].any())][:MOST_SAMPLED]
    places = [
        (
            int(index.sample.contexts[row]),
            int((torch.rand(fires.shape[1], generator=rng) * fires[row]).argmax()),
        )
        for row in rows
    ]
    passages: list[QuizPassage] = []
    for row, (context, _), span in zip(rows, places, read_spans(index.texts, places), strict=True):
        acts = fires[row, span.start : span.start + len(span.tokens)].float().tolist()
        passages.append(
            QuizPassage(context, span.start, span.tokens, span.pos, tuple(acts), SAMPLED)
        )
    return passages


def _askable(passage: QuizPassage, spent: Collection[str]) -> bool:
    return passage_key(passage.tokens) not in spent and not any(
        mark in token for mark in MARKS for token in passage.tokens
    )
