"""The formulas of the public protocol for agents that look for features (SAEScientist-Bench), and
the stand-in that replaces its judge where there is none. No torch: numbers in, numbers out."""

from collections import Counter
from collections.abc import Sequence
from math import sqrt
from statistics import mean
from typing import NamedTuple

TOP = 3
"""A text's activation is the mean of the feature's three largest."""
MULTIPLES = (0.5, 0.75, 1.0, 1.25, 1.5)
"""Strengths that are tried, in units of the reference strength of the task."""
LOW_MULTIPLES = (0.0625, 0.125, 0.25, 0.375)
"""Tried where each of the others breaks too many texts."""
MOST_POINTS = 4.0


def rank_score(rank: float, expert_rank: float) -> float:
    """200 r_expert / (r + r_expert): 100 where the feature ranks as the reference does, in the
    whole dictionary, on average of the positives.

    Raises:
        ValueError: a rank below 1.
    """
    if not (rank >= 1 and expert_rank >= 1):
        raise ValueError(f"ranks begin at 1, got {rank} and {expert_rank}")
    return 200 * expert_rank / (rank + expert_rank)


def activation_score(area: float) -> float:
    """100 max(0, 2 AUROC - 1).

    Raises:
        ValueError: no area.
    """
    if not 0 <= area <= 1:
        raise ValueError(f"an area lies in [0, 1], got {area}")
    return 100 * max(0.0, 2 * area - 1)


def target_effect(feature: float, baseline: float, random: float) -> float:
    """(T_feature - max(T_baseline, T_random)) / 4, of ratings from 0 to 4.

    Raises:
        ValueError: a rating that is none.
    """
    for rating in (feature, baseline, random):
        if not 0 <= rating <= MOST_POINTS:
            raise ValueError(f"a rating lies in [0, 4], got {rating}")
    return (feature - max(baseline, random)) / MOST_POINTS


def steering_score(effect: float) -> float:
    """100 max(0, effect)."""
    return 100 * max(0.0, effect)


def overall(*scores: float) -> float:
    """Their plain mean."""
    return mean(scores)


def area_under(positives: Sequence[float], others: Sequence[float]) -> float:
    """AUROC: the share of pairs in which the positive is larger; ties half.

    Raises:
        ValueError: a side is empty.
    """
    if not positives or not others:
        raise ValueError("an area needs values on both sides")
    wins = sum((a > b) + (a == b) / 2 for a in positives for b in others)
    return wins / (len(positives) * len(others))


def dictionary_rank(activation: float, all_activations: Sequence[float]) -> int:
    """One plus the number of features with a larger activation; the worst rank for a silent one."""
    if activation <= 0:
        return len(all_activations)
    return 1 + sum(other > activation for other in all_activations)


class Seen(NamedTuple):
    """What one feature does on the hidden texts."""

    rank: float
    """Mean over the positives."""
    area: float
    """Positives against hard negatives and neutral texts."""
    active: float
    """The share of positives on which it fires at all."""
    hard_ratio: float
    """Its mean on hard negatives over its mean on positives."""


class Steered(NamedTuple):
    """What steering with one feature did on the hidden prompts; shares are of prompts."""

    n_prompts: int
    feature: float
    """Mean rating, 0 to 4."""
    baseline: float
    random: float
    success: float
    """Rated 2 or more."""
    usable: float
    """Rated 2 or more, the text preserved by 2 or more, and not degenerate."""
    whole: float
    """Not degenerate."""
    agreement: float = 1.0
    """Of two passes of the judge within one point; a judge that computes agrees with itself."""

    @property
    def effect(self) -> float:
        return target_effect(self.feature, self.baseline, self.random)


def separates(seen: Seen) -> bool:
    """The gate on activations: AUROC 0.95, fires on 80 % of the positives, and on hard negatives at
    most 0.30 as strongly."""
    return seen.area >= 0.95 and seen.active >= 0.8 and seen.hard_ratio <= 0.3


def is_causal(seen: Seen, steered: Steered) -> bool:
    """The causal gate: it separates, and on at least 20 prompts the effect is 0.20 above each
    control, 70 % succeed, half of the texts are whole and the passes of the judge agree in 80 %."""
    return (
        separates(seen)
        and steered.n_prompts >= 20
        and steered.effect >= 0.2
        and steered.success >= 0.7
        and steered.whole >= 0.5
        and steered.agreement >= 0.8
    )


def is_usable(seen: Seen, steered: Steered) -> bool:
    """The causal gate, with half of the texts usable and 90 % whole."""
    return is_causal(seen, steered) and steered.usable >= 0.5 and steered.whole >= 0.9


class Tried(NamedTuple):
    """One strength on the calibration prompts."""

    multiple: float
    whole: float
    success: float
    rating: float


def pick(tried: Sequence[Tried]) -> Tried | None:
    """Of the strengths that leave 90 % of the texts whole, the one that succeeds most often, then
    with the best mean rating, then the smallest; None where there is none."""
    kept = [each for each in tried if each.whole >= 0.9]
    return max(kept, key=lambda each: (each.success, each.rating, -each.multiple), default=None)


# The stand-in for the judge. It is reported under a name of its own: ratings of texts by a model
# and these numbers are not the same thing.


def nats_rating(rise: float) -> float:
    """One point for each nat by which steering raises the log-probability of the concept's tokens
    together, on average of the positions of the text as it is without steering; from 0 to 4."""
    return min(max(rise, 0.0), MOST_POINTS)


def kept_rating(kl: float) -> float:
    """Four points less the KL(clean || steered) in nats over the same positions; from 0 to 4."""
    return min(max(MOST_POINTS - kl, 0.0), MOST_POINTS)


def is_degenerate(tokens: Sequence[int]) -> bool:
    """Fewer than half of the 3-grams are different, one token makes up more than half, or there are
    fewer than four tokens."""
    if len(tokens) < 4:
        return True
    grams = [tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2)]
    most = max(Counter(tokens).values())
    return len(set(grams)) < len(grams) / 2 or most > len(tokens) / 2


class Share(NamedTuple):
    """A share of tasks with its 95 % Wilson interval."""

    n: int
    of: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.n / self.of if self.of else 0.0

    def __str__(self) -> str:
        if not self.of:
            return "-"
        return f"{100 * self.value:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f})"


def share(hits: Sequence[bool]) -> Share:
    """How often something holds, with its interval."""
    n, of, z = sum(hits), len(hits), 1.96
    if not of:
        return Share(0, 0, 0.0, 1.0)
    p = n / of
    centre = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z * sqrt(p * (1 - p) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return Share(n, of, max(0.0, centre - half), min(1.0, centre + half))
