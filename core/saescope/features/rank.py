"""Features of texts, ranked."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.effects import promoted_tokens
from saescope.errors import ArgumentError
from saescope.features.encode import TextFeatures, encode_texts
from saescope.features.separation import d_of_moments
from saescope.models import LanguageModel, Tokens
from saescope.saes import SAE

N_PROMOTED = 3
RANKINGS = ("max", "mean", "count", "contrast")


@dataclass(frozen=True, slots=True)
class RankedFeature:
    """One feature over all counted tokens of the texts."""

    feature: int
    score: float
    max_activation: float
    mean_activation: float
    """Over all counted tokens, those where it is silent included."""
    n_tokens: int
    """Counted tokens on which it fires."""
    density: float
    """`n_tokens` as a share of the counted tokens."""
    text_index: int
    pos: int
    token: str
    """Where it fires most."""
    promotes: list[str]


@dataclass(frozen=True, slots=True)
class Ranking:
    """A page of ranked features; `total` fire at all."""

    features: list[RankedFeature]
    total: int
    n_tokens: int
    n_left_out: int
    n_sinks: int


@dataclass(frozen=True, slots=True)
class _Sums:
    total: Float[Tensor, " d_sae"]
    squares: Float[Tensor, " d_sae"]
    count: Float[Tensor, " d_sae"]
    maximum: Float[Tensor, " d_sae"]
    n_tokens: int


def rank_features(
    model: LanguageModel,
    sae: SAE,
    texts: Sequence[Tokens],
    *,
    against: Sequence[Tokens] = (),
    rank_by: str = "max",
    k: int = 10,
    offset: int = 0,
    include_special: bool = False,
) -> Ranking:
    """Features by maximum, mean or count of tokens, or by the effect size (Cohen's d over tokens) against other texts.

    Raises:
        ArgumentError: an unknown ranking, or `against` and "contrast" not given together.
    """
    if rank_by not in RANKINGS or (rank_by == "contrast") != bool(against):
        raise ArgumentError(
            'rank_by="contrast" goes with `against`, and only with it.'
            if rank_by in RANKINGS
            else f"rank_by {rank_by!r} is unknown.",
            code="INVALID_CHOICE",
            field="rank_by",
            got=rank_by,
            allowed=RANKINGS,
            hint='Give against=[...] with rank_by="contrast".',
        )
    encoded = encode_texts(model, sae, texts, include_special=include_special)
    sums = _sum(encoded.texts, sae)
    scores = {
        "max": sums.maximum,
        "mean": sums.total / max(sums.n_tokens, 1),
        "count": sums.count.double(),
    }.get(rank_by)
    if scores is None:
        other = _sum(encode_texts(model, sae, against, include_special=include_special).texts, sae)
        scores = d_of_moments(
            (sums.n_tokens, sums.total, sums.squares), (other.n_tokens, other.total, other.squares)
        )
    firing = sums.count.nonzero()[:, 0]
    order = firing[scores[firing].sort(descending=True, stable=True).indices]
    page = order[offset : offset + k].tolist()
    promotes = promoted_tokens(model, sae, page, N_PROMOTED)
    features = [
        _ranked(i, float(scores[i]), sums, encoded.texts, words)
        for i, words in zip(page, promotes, strict=True)
    ]
    return Ranking(features, len(firing), encoded.n_tokens, encoded.n_left_out, encoded.n_sinks)


def _sum(texts: Sequence[TextFeatures], sae: SAE) -> _Sums:
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
    return _Sums(total, squares, count, maximum, int(sum(text.counted.sum() for text in texts)))


def _ranked(
    feature: int, score: float, sums: _Sums, texts: Sequence[TextFeatures], promotes: list[str]
) -> RankedFeature:
    text_index, pos = _top_token(feature, texts)
    n = int(sums.count[feature])
    return RankedFeature(
        feature,
        score,
        float(sums.maximum[feature]),
        float(sums.total[feature]) / sums.n_tokens,
        n,
        n / sums.n_tokens,
        text_index,
        pos,
        texts[text_index].tokens.strings[pos],
        promotes,
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
