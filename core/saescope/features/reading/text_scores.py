"""One number a feature and text: what a comparison of texts is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.features.reading.encode import TextFeatures
from saescope.features.reading.text_acts import text_acts
from saescope.models import LanguageModel, Tokens, counted
from saescope.ops import SparseActs
from saescope.saes import SAE

Summary = Literal["max", "mean", "top3"]
"""What stands for a text: its largest activation, the mean, or the mean of its three largest."""
TOP = 3


class Strongest(NamedTuple):
    """The places where the features of one text fire most."""

    tokens: Tokens
    features: Int[Tensor, " n"]
    """The features that fire, ascending."""
    positions: Int[Tensor, " n"]
    values: Float[Tensor, " n"]

    def of(self, feature: int) -> tuple[float, int]:
        """The largest activation of a feature and its position; (0, 0) where it is silent."""
        i = int(torch.searchsorted(self.features, feature))
        if i == len(self.features) or int(self.features[i]) != feature:
            return 0.0, 0
        return float(self.values[i]), int(self.positions[i])


@dataclass(frozen=True, slots=True)
class TextScores:
    """Scores of the features that fire in any of the texts."""

    features: Int[Tensor, " n_features"]
    scores: Float[Tensor, "n_texts n_features"]
    equal_length: Float[Tensor, "n_texts n_features"]
    """The scores over the first `n_equal` counted tokens of each text, the number that the shortest
    text has."""
    n_equal: int
    lengths: Float[Tensor, " n_texts"]
    """Counted tokens."""
    position_correlation: Float[Tensor, " n_features"]
    """The correlation of a feature's activation with the position, over the counted tokens of all
    texts; 0 without spread."""
    n_sinks: int = 0
    """Positions left out for their norm alone."""
    strongest: Sequence[Strongest] = ()
    """Where each feature fires most, one entry a text."""
    means: Float[Tensor, "n_texts d_in"] | None = None
    """The SAE's input, averaged over the counted tokens of each text."""
    other: Float[Tensor, "n_texts n_features"] | None = None
    """What changes are changes from; none where the scores are no changes."""

    def minus(self, other: "TextScores") -> "TextScores":
        """Changes from `other`, which is of the same positions of the same texts, over the features
        that fire in either."""
        features = torch.cat([self.features, other.features]).unique()
        (full, equal), (full_0, equal_0) = (
            [
                _spread(scores, each.features, features)
                for scores in (each.scores, each.equal_length)
            ]
            for each in (self, other)
        )
        correlation = _spread(self.position_correlation[None], self.features, features)[0]
        return TextScores(
            features,
            full - full_0,
            equal - equal_0,
            self.n_equal,
            self.lengths,
            correlation,
            self.n_sinks,
            strongest=self.strongest,
            other=full_0,
        )


def _spread(
    scores: Float[Tensor, "n_texts n"], own: Int[Tensor, " n"], features: Int[Tensor, " m"]
) -> Float[Tensor, "n_texts m"]:
    return scores.new_zeros(len(scores), len(features)).index_copy_(
        1, torch.searchsorted(features, own), scores
    )


def score_texts(
    model: LanguageModel,
    sae: SAE,
    texts: Sequence[Tokens],
    *,
    by: Summary = "max",
    include_special: bool = False,
) -> TextScores:
    """Each feature's maximum (or mean) over the counted tokens of each text, and how it goes with
    length and position.

    Raises:
        ArgumentError: a text has no counted token.
    """
    scoring = _Scoring(sae, by, [counted(tokens, (), include_special) for tokens in texts])
    every_text = text_acts(model, sae, texts, include_special=include_special)
    means: list[Tensor] = []
    for tokens, every in zip(texts, every_text, strict=True):
        scoring.add(tokens, every.acts, every.counted)
        means.append(every.mean)
    return replace(scoring.scores(), means=torch.stack(means))


def scores_of(sae: SAE, texts: Sequence[TextFeatures], *, by: Summary = "max") -> TextScores:
    """What `score_texts` gives, of texts that are encoded already.

    Raises:
        ArgumentError: a text has no counted token.
    """
    masks = [text.counted.cpu() for text in texts]
    scoring = _Scoring(sae, by, masks)
    for text, mask in zip(texts, masks, strict=True):
        acts = text.acts
        on_cpu = SparseActs(
            acts.values.float().cpu(), acts.features.cpu(), acts.offsets.cpu(), acts.d_sae
        )
        scoring.add(text.tokens, on_cpu, mask)
    return scoring.scores()


def score_changes(
    model: LanguageModel,
    other: LanguageModel,
    sae: SAE,
    texts: Sequence[Tokens],
    *,
    by: Summary = "max",
) -> TextScores:
    """What `score_texts` gives of `model`, less what it gives of `other`.

    Both count the same positions: what is an attention sink in one of them is left out of both.

    Raises:
        ArgumentError: a text has no counted token.
    """
    usual = [counted(tokens, (), False) for tokens in texts]
    scorings = [_Scoring(sae, by, usual) for _ in (model, other)]
    readings = (text_acts(each, sae, texts) for each in (model, other))
    for tokens, *pair in zip(texts, *readings, strict=True):
        here, there = pair
        for scoring, every in zip(scorings, pair, strict=True):
            scoring.add(tokens, every.acts, here.counted & there.counted)
    after, before = (scoring.scores() for scoring in scorings)
    return after.minus(before)


class _Scoring:
    """Takes the activations of one text after the other; the scores need all of them, since the
    shortest text sets `n_equal`."""

    def __init__(self, sae: SAE, by: Summary, usual: Sequence[Bool[Tensor, " _"]]) -> None:
        self.by: Summary = by
        self.usual = usual
        self.n_equal = _shortest(usual)
        self.moments = torch.zeros(3, sae.cfg.d_sae, dtype=torch.float64)
        self.masks: list[Tensor] = []
        self.full: list[Tensor] = []
        self.early: list[SparseActs] = []
        self.strongest: list[Strongest] = []

    def add(self, tokens: Tokens, acts: SparseActs, mask: Bool[Tensor, " n_pos"]) -> None:
        """The next text, and which of its positions count."""
        self.masks.append(mask)
        self.n_equal = min(self.n_equal, int(mask.sum()))
        acts = acts.select(mask[acts.positions])
        _add_moments(self.moments, acts)
        # The shortest text so far bounds what the shortest of all will need.
        self.early.append(_first(acts, mask, self.n_equal))
        self.full.append(_summary(acts, int(mask.sum()), self.by).to_sparse())
        self.strongest.append(_strongest(tokens, acts))

    def scores(self) -> TextScores:
        n_equal = _shortest(self.masks)
        equal = [
            _summary(_first(acts, mask, n_equal), n_equal, self.by).to_sparse()
            for acts, mask in zip(self.early, self.masks, strict=True)
        ]
        fired = self.moments[0].nonzero()[:, 0]
        positions = torch.cat([mask.nonzero()[:, 0] for mask in self.masks]).double()
        lengths = [int(mask.sum()) for mask in self.masks]
        return TextScores(
            fired,
            _columns(self.full, fired),
            _columns(equal, fired),
            n_equal,
            torch.tensor(lengths, dtype=torch.float64),
            _correlation(self.moments[:, fired], positions),
            n_sinks=sum(int(mask.sum()) for mask in self.usual) - sum(lengths),
            strongest=self.strongest,
        )


def _strongest(tokens: Tokens, acts: SparseActs) -> Strongest:
    """Find the strongest; of equal activations the first counts."""
    order = acts.values.argsort(descending=True, stable=True)
    order = order[acts.features[order].argsort(stable=True)]
    features = acts.features[order]
    first = torch.ones_like(features, dtype=torch.bool)
    first[1:] = features[1:] != features[:-1]
    kept = order[first]
    return Strongest(tokens, acts.features[kept], acts.positions[kept], acts.values[kept])


def _shortest(masks: Sequence[Bool[Tensor, " _"]]) -> int:
    """Counted tokens of the text that has fewest."""
    lengths = [int(mask.sum()) for mask in masks]
    if not min(lengths):
        raise ArgumentError(
            f"Text {lengths.index(0)} of {len(lengths)} (the first is 0) has no token that counts "
            "(position 0, special tokens and attention sinks do not).",
            code="EMPTY_PROMPT",
            field="texts",
            hint="Leave it out, or make it longer.",
        )
    return min(lengths)


def _first(acts: SparseActs, mask: Bool[Tensor, " n_pos"], n: int) -> SparseActs:
    """What fires at the first `n` counted tokens."""
    return acts.select((mask.cumsum(0) <= n)[acts.positions])


def _columns(
    rows: Sequence[Tensor], features: Int[Tensor, " n_features"]
) -> Float[Tensor, "n_texts n_features"]:
    return torch.stack([row.to_dense()[features] for row in rows])


def _summary(acts: SparseActs, n_tokens: int, by: Summary) -> Float[Tensor, " d_sae"]:
    if by == "max":
        return acts.maxima()
    if by == "top3":
        return _top_mean(acts, n_tokens)
    return acts.values.new_zeros(acts.d_sae).index_add_(0, acts.features, acts.values) / max(
        n_tokens, 1
    )


def _top_mean(acts: SparseActs, n_tokens: int) -> Float[Tensor, " d_sae"]:
    """The mean of the three largest activations of each feature (of all, in a shorter text); where
    fewer tokens fire, the others are zeros."""
    by_value = acts.values.argsort(descending=True, stable=True)
    order = by_value[acts.features[by_value].argsort(stable=True)]
    features, values = acts.features[order], acts.values[order]
    counts = torch.bincount(features, minlength=acts.d_sae)
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(features), device=features.device) - first[features]
    kept = rank < TOP
    total = values.new_zeros(acts.d_sae).index_add_(0, features[kept], values[kept])
    return total / max(1, min(TOP, n_tokens))


def _add_moments(moments: Float[Tensor, "3 d_sae"], acts: SparseActs) -> None:
    """Sums of a, a^2 and a * position."""
    values = acts.values.double()
    for row, terms in zip(moments, (values, values.square(), values * acts.positions), strict=True):
        row.index_add_(0, acts.features, terms)


def _correlation(
    moments: Float[Tensor, "3 n_features"], positions: Float[Tensor, " n"]
) -> Float[Tensor, " n_features"]:
    n, (total, squares, products) = len(positions), moments
    covariance = products - total * positions.sum() / n
    spread = (
        (squares - total.square() / n).clamp(min=0) * (positions - positions.mean()).square().sum()
    ).sqrt()
    return torch.where(spread > 1e-12, covariance / spread.clamp(min=1e-300), 0)
