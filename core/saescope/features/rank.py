"""Features of texts, ranked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.effects import promoted_tokens
from saescope.errors import ArgumentError
from saescope.features.contrast.ranked import DIFFERENCE, Riser, Risers, risers
from saescope.features.contrast.sets import each_once
from saescope.features.index import FeatureIndex
from saescope.features.reading.encode import Encoded, TextFeatures, encode_stack
from saescope.features.reading.text_scores import scores_of
from saescope.models import LanguageModel, Tokens
from saescope.progress import Progress, counting
from saescope.records.features import RankedFeature, Ranking, SAECount, TextToken
from saescope.saes import SAE
from saescope.sinks import many_sinks
from saescope.stack import Stack, as_stack

N_PROMOTED = 3
UNITS = (
    "Activations of different SAEs have different units: within one SAE the order says "
    'more than between SAEs. rank_by="count" compares them, as does a contrast of several texts '
    "on each side."
)
RANKINGS = {
    "max": "largest activation",
    "mean": "mean activation over all counted tokens",
    "count": "counted tokens on which it fires",
    "contrast": "",
}
"""What features may be ranked by, and what the score is; a contrast says it itself."""


@dataclass(frozen=True, slots=True)
class _ActivationSums:
    total: Float[Tensor, " d_sae"]
    count: Float[Tensor, " d_sae"]
    maximum: Float[Tensor, " d_sae"]
    n_tokens: int


class _Place(NamedTuple):
    """A feature in the list."""

    sae: int
    feature: int
    score: float
    riser: Riser | None = None


class _Order(NamedTuple):
    """All features in order."""

    places: list[_Place]
    score_is: str
    warnings: list[str]


def rank_features(
    model: LanguageModel,
    sae: SAE | Sequence[SAE],
    texts: Sequence[Tokens],
    *,
    against: Sequence[Tokens] = (),
    rank_by: str = "max",
    k: int = 10,
    offset: int = 0,
    include_special: bool = False,
    index: FeatureIndex | Sequence[FeatureIndex | None] | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Features by maximum, mean or count of tokens, or those that fire more on `texts` than on
    `against` (a contrast): by the statistic and in the order of `contrast_texts`, with one text on
    a side by the difference of activation.

    Features of several SAEs stand in one list. `index` (one for each SAE) gives each feature's
    density in its corpus. `progress` hears of tokens.

    Raises:
        ArgumentError: an unknown ranking, `against` and "contrast" not given together, or a text of
            a contrast with no counted token.
    """
    _check_ranking(rank_by, given=bool(against))
    stack = as_stack(model, sae)
    read = partial(
        encode_stack,
        stack,
        include_special=include_special,
        advance=counting(progress, sum(map(len, [*texts, *against]))),
    )
    encoded = read(texts)
    others = read(against) if against else []
    sums = [_sum(each.texts, one) for one, each in zip(stack.as_given, encoded, strict=True)]
    order = _contrasted(stack, encoded, others) if others else _strongest(sums, rank_by)
    most = max(encoded, key=lambda each: each.n_tokens)
    listed = _listed(stack, encoded, sums, order.places[offset : offset + k])
    return Ranking(
        features=_with_density(listed, index),
        score_is=order.score_is,
        total=len(order.places),
        by_sae=_counts(encoded, sums),
        n_tokens=most.n_tokens,
        n_left_out=most.n_left_out,
        n_sinks=most.n_sinks,
        warnings=[*order.warnings, *_sinks_of(others)],
    )


def _check_ranking(rank_by: str, *, given: bool) -> None:
    if rank_by not in RANKINGS or (rank_by == "contrast") != given:
        raise ArgumentError(
            'rank_by="contrast" goes with `against`, and only with it.'
            if rank_by in RANKINGS
            else f"rank_by {rank_by!r} is unknown.",
            code="INVALID_CHOICE",
            field="rank_by",
            got=rank_by,
            allowed=[*RANKINGS],
            hint='Add rank_by="contrast", or leave `against` out.'
            if given
            else 'Give against=[...] with rank_by="contrast".',
        )


def _sinks_of(against: Sequence[Encoded]) -> list[str]:
    """A warning where the other texts have many; those of the texts themselves are counted in the
    ranking."""
    most = max(against, key=lambda each: each.n_sinks, default=None)
    warnings = many_sinks(most.n_sinks, most.n_tokens) if most else []
    return [f"`against`: {warning}" for warning in warnings]


def _counts(encoded: Sequence[Encoded], sums: Sequence[_ActivationSums]) -> list[SAECount]:
    return [
        SAECount(
            sae=n,
            total=int(own.count.count_nonzero()),
            n_tokens=each.n_tokens,
            n_left_out=each.n_left_out,
            n_sinks=each.n_sinks,
        )
        for n, (each, own) in enumerate(zip(encoded, sums, strict=True))
    ]


def _strongest(sums: Sequence[_ActivationSums], rank_by: str) -> _Order:
    """All that fire, by score."""
    scores = [
        {
            "max": own.maximum,
            "mean": own.total / max(own.n_tokens, 1),
            "count": own.count.double(),
        }[rank_by]
        for own in sums
    ]
    firing = [own.count.nonzero()[:, 0] for own in sums]
    every = torch.cat([each[fires] for each, fires in zip(scores, firing, strict=True)])
    which = [n for n, fires in enumerate(firing) for _ in range(len(fires))]
    features, values = torch.cat(firing).tolist(), every.tolist()
    order = every.sort(descending=True, stable=True).indices.tolist()
    warnings = [UNITS] if len(sums) > 1 and rank_by != "count" else []
    places = [_Place(which[i], features[i], values[i]) for i in order]
    return _Order(places, RANKINGS[rank_by], warnings)


def _contrasted(stack: Stack, encoded: Sequence[Encoded], others: Sequence[Encoded]) -> _Order:
    """All that fire more on the texts than on the others."""
    found: list[Risers] = []
    texts, against = ([text.tokens for text in each[0].texts] for each in (encoded, others))
    once = each_once(texts, against)
    texts, against = [texts[i] for i in once.texts], [against[i] for i in once.against]
    for sae, one, other in zip(stack.as_given, encoded, others, strict=True):
        kept = [*(one.texts[i] for i in once.texts), *(other.texts[i] for i in once.against)]
        found.append(risers(scores_of(sae, kept), texts, against=against))
    places = [
        _Place(n, riser.feature, riser.score, riser)
        for n, each in enumerate(found)
        for riser in each.features
    ]
    places.sort(key=lambda place: place.riser.order if place.riser else ())
    in_units = len(found) > 1 and found[0].score_is == DIFFERENCE
    warnings = [*once.warnings, *found[0].warnings, *([UNITS] if in_units else [])]
    return _Order(places, found[0].score_is, warnings)


def _listed(
    stack: Stack,
    encoded: Sequence[Encoded],
    sums: Sequence[_ActivationSums],
    page: Sequence[_Place],
) -> list[RankedFeature]:
    promotes: dict[tuple[int, int], list[str]] = {}
    for n, sae in enumerate(stack.as_given):
        own = [place.feature for place in page if place.sae == n]
        words = promoted_tokens(stack.model, sae, own, N_PROMOTED)
        promotes |= {(n, feature): tokens for feature, tokens in zip(own, words, strict=True)}
    return [
        _ranked(
            place, sums[place.sae], encoded[place.sae].texts, promotes[place.sae, place.feature]
        )
        for place in page
    ]


def _sum(texts: Sequence[TextFeatures], sae: SAE) -> _ActivationSums:
    total = torch.zeros(sae.cfg.d_sae, dtype=torch.float64)
    count, maximum = torch.zeros_like(total), torch.zeros_like(total)
    for text in texts:
        kept = text.acts.select(text.counted[text.acts.positions])
        values = kept.values.double()
        total.index_add_(0, kept.features, values)
        count.index_add_(0, kept.features, torch.ones_like(values))
        maximum.scatter_reduce_(0, kept.features, values, "amax")
    return _ActivationSums(total, count, maximum, int(sum(text.counted.sum() for text in texts)))


def _with_density(
    features: list[RankedFeature], index: FeatureIndex | Sequence[FeatureIndex | None] | None
) -> list[RankedFeature]:
    if index is None:
        return features
    indexes = [index] if isinstance(index, FeatureIndex) else index
    return [
        replace(row, density=of.density(row.feature)) if (of := indexes[row.sae]) else row
        for row in features
    ]


def _ranked(
    place: _Place, sums: _ActivationSums, texts: Sequence[TextFeatures], promotes: list[str]
) -> RankedFeature:
    feature, riser = place.feature, place.riser
    text_index, pos = _top_token(feature, texts)
    n = int(sums.count[feature])
    return RankedFeature(
        sae=place.sae,
        feature=feature,
        score=place.score,
        max_activation=float(sums.maximum[feature]),
        mean_activation=float(sums.total[feature]) / sums.n_tokens,
        n_tokens=n,
        top_token=TextToken(text_index, pos, texts[text_index].tokens.strings[pos]),
        share=n / sums.n_tokens,
        promotes=promotes,
        levels=riser and riser.levels,
        confirmed=riser and riser.confirmed,
        density=None,
    )


def _top_token(feature: int, texts: Sequence[TextFeatures]) -> tuple[int, int]:
    best = (-1.0, 0, 0)
    for index, text in enumerate(texts):
        positions = text.acts.positions
        here = ((text.acts.features == feature) & text.counted[positions]).nonzero()[:, 0]
        if len(here):
            top = here[text.acts.values[here].argmax()]
            best = max(best, (float(text.acts.values[top]), -index, -int(positions[top])))
    return -best[1], -best[2]
