"""Features of texts, ranked."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.effects import promoted_tokens
from saescope.errors import ArgumentError
from saescope.features.contrast.separation import d_of_moments
from saescope.features.reading.encode import Encoded, TextFeatures, encode_stack
from saescope.models import LanguageModel, Tokens
from saescope.records.features import RankedFeature, Ranking, SAECount, TextToken
from saescope.saes import SAE
from saescope.sinks import many_sinks
from saescope.stack import Stack, as_stack

N_PROMOTED = 3
UNITS = (
    "Activations of different SAEs have different units: within one SAE the order says "
    "more than between SAEs. "
    'rank_by="count" or "contrast" compares them.'
)
RANKINGS = ("max", "mean", "count", "contrast")


@dataclass(frozen=True, slots=True)
class _ActivationSums:
    total: Float[Tensor, " d_sae"]
    squares: Float[Tensor, " d_sae"]
    count: Float[Tensor, " d_sae"]
    maximum: Float[Tensor, " d_sae"]
    n_tokens: int


@dataclass(frozen=True, slots=True)
class _Scored:
    sums: _ActivationSums
    scores: Float[Tensor, " d_sae"]


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
) -> Ranking:
    """Features by maximum, mean or count of tokens, or by Cohen's d over tokens (a contrast).

    Features of several SAEs stand in one list.

    Raises:
        ArgumentError: an unknown ranking, or `against` and "contrast" not given together.
    """
    _check_ranking(rank_by, given=bool(against))
    stack = as_stack(model, sae)
    encoded = encode_stack(stack, texts, include_special=include_special)
    others = encode_stack(stack, against, include_special=include_special) if against else []
    scored = [
        _score(one, each, others[n] if others else None, rank_by)
        for n, (one, each) in enumerate(zip(stack.as_given, encoded, strict=True))
    ]
    order = _strongest(scored)
    features = _listed(stack, encoded, scored, order[offset : offset + k])
    most = max(encoded, key=lambda each: each.n_tokens)
    warnings = [UNITS] if len(encoded) > 1 and rank_by in ("max", "mean") else []
    warnings += _sinks_of(others)
    return Ranking(
        features=features,
        total=len(order),
        by_sae=_counts(encoded, scored),
        n_tokens=most.n_tokens,
        n_left_out=most.n_left_out,
        n_sinks=most.n_sinks,
        warnings=warnings,
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
            allowed=RANKINGS,
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


def _counts(encoded: Sequence[Encoded], scored: Sequence[_Scored]) -> list[SAECount]:
    return [
        SAECount(
            sae=n,
            total=int(own.sums.count.count_nonzero()),
            n_tokens=each.n_tokens,
            n_left_out=each.n_left_out,
            n_sinks=each.n_sinks,
        )
        for n, (each, own) in enumerate(zip(encoded, scored, strict=True))
    ]


def _score(sae: SAE, encoded: Encoded, against: Encoded | None, rank_by: str) -> _Scored:
    sums = _sum(encoded.texts, sae)
    if against is None:
        scores = {
            "max": sums.maximum,
            "mean": sums.total / max(sums.n_tokens, 1),
            "count": sums.count.double(),
        }[rank_by]
    else:
        other = _sum(against.texts, sae)
        scores = d_of_moments(
            (sums.n_tokens, sums.total, sums.squares), (other.n_tokens, other.total, other.squares)
        )
    return _Scored(sums, scores)


def _strongest(scored: Sequence[_Scored]) -> list[tuple[int, int]]:
    """(SAE, feature) of all that fire, by score."""
    firing = [each.sums.count.nonzero()[:, 0] for each in scored]
    scores = torch.cat([each.scores[fires] for each, fires in zip(scored, firing, strict=True)])
    which = [n for n, fires in enumerate(firing) for _ in range(len(fires))]
    features = torch.cat(firing).tolist()
    order = scores.sort(descending=True, stable=True).indices.tolist()
    return [(which[i], features[i]) for i in order]


def _listed(
    stack: Stack,
    encoded: Sequence[Encoded],
    scored: Sequence[_Scored],
    page: Sequence[tuple[int, int]],
) -> list[RankedFeature]:
    promotes: dict[tuple[int, int], list[str]] = {}
    for n, sae in enumerate(stack.as_given):
        own = [feature for which, feature in page if which == n]
        words = promoted_tokens(stack.model, sae, own, N_PROMOTED)
        promotes |= {(n, feature): tokens for feature, tokens in zip(own, words, strict=True)}
    return [
        _ranked(n, feature, scored[n], encoded[n].texts, promotes[n, feature])
        for n, feature in page
    ]


def _sum(texts: Sequence[TextFeatures], sae: SAE) -> _ActivationSums:
    total = torch.zeros(sae.cfg.d_sae, dtype=torch.float64, device=sae.device)
    squares, count, maximum = (
        torch.zeros_like(total),
        torch.zeros_like(total),
        torch.zeros_like(total),
    )
    for text in texts:
        kept = text.acts.select(text.counted[text.acts.positions])
        values = kept.values.double()
        total.index_add_(0, kept.features, values)
        squares.index_add_(0, kept.features, values.square())
        count.index_add_(0, kept.features, torch.ones_like(values))
        maximum.scatter_reduce_(0, kept.features, values, "amax")
    return _ActivationSums(
        total, squares, count, maximum, int(sum(text.counted.sum() for text in texts))
    )


def _ranked(
    sae: int, feature: int, scored: _Scored, texts: Sequence[TextFeatures], promotes: list[str]
) -> RankedFeature:
    text_index, pos = _top_token(feature, texts)
    sums = scored.sums
    n = int(sums.count[feature])
    return RankedFeature(
        sae=sae,
        feature=feature,
        score=float(scored.scores[feature]),
        max_activation=float(sums.maximum[feature]),
        mean_activation=float(sums.total[feature]) / sums.n_tokens,
        n_tokens=n,
        top_token=TextToken(text_index, pos, texts[text_index].tokens.strings[pos]),
        share=n / sums.n_tokens,
        promotes=promotes,
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
