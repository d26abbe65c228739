"""Features that fire more on some texts than on others, in the order and by the statistic of a
contrast."""

from collections.abc import Sequence
from typing import NamedTuple

from saescope.features.contrast.contrast import (
    LEAST,
    levels_of,
    score_is,
    tell_apart,
    too_few,
)
from saescope.features.contrast.designs import Groups
from saescope.features.contrast.sets import groups_of
from saescope.features.reading.text_scores import TextScores
from saescope.models import Tokens
from saescope.records.features import SideLevel

DIFFERENCE = (
    "difference of the largest activations (with several texts on a side, of their mean): "
    "nothing is tested"
)


class Riser(NamedTuple):
    """A feature that fires more on `texts`."""

    feature: int
    score: float
    order: tuple[float, ...]
    """What it is sorted by, the smallest first."""
    confirmed: bool | None
    """None: so few texts test nothing."""
    levels: tuple[SideLevel, SideLevel]


class Risers(NamedTuple):
    """Best first, and what their score is."""

    features: list[Riser]
    score_is: str
    warnings: list[str]


def risers(
    scores: TextScores, texts: Sequence[Tokens], *, against: Sequence[Tokens], seed: int = 0
) -> Risers:
    """Rank what fires more on `texts`, whose scores come first: as `contrast_texts` does with
    `unconfirmed`; with one text on a side by the difference of activation."""
    design = groups_of(texts, against, scores.lengths)
    if min(design.n) < LEAST:
        return Risers(_by_difference(design, scores), DIFFERENCE, [])
    few = too_few(design)
    if not len(scores.features):
        return Risers([], score_is(design.splits), few)
    told = tell_apart(design, scores, seed)
    d, auc = told.effects.d, told.effects.auc
    found = [
        Riser(
            int(scores.features[i]),
            float(auc[i]),
            (float(not told.confirmed[i]), -abs(float(auc[i]) - 0.5), -abs(float(d[i]))),
            bool(told.confirmed[i]),
            levels_of(design, scores, i),
        )
        for i in told.best(True, unconfirmed=True).tolist()
    ]
    return Risers(found, score_is(design.splits), few)


def _by_difference(design: Groups, scores: TextScores) -> list[Riser]:
    one, other = (scores.scores[rows].double().mean(0) for rows in design.sets())
    rise = one - other
    order = rise.sort(descending=True, stable=True).indices[: int((rise > 0).sum())].tolist()
    return [
        Riser(
            int(scores.features[i]),
            float(rise[i]),
            (-float(rise[i]),),
            None,
            levels_of(design, scores, i),
        )
        for i in order
    ]
