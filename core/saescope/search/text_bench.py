"""The bench of texts: what tells those of a concept from others, and what else it fires on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saescope.controls import LEVEL
from saescope.features.contrast.contrast import tell_apart
from saescope.features.contrast.designs import Groups
from saescope.features.contrast.sets import groups_of
from saescope.features.reading.text_scores import TextScores, score_texts
from saescope.models import LanguageModel, Tokens
from saescope.saes import SAE

N_CAUSAL, N_SEPARATING = 20, 10
"""Candidates by gradient, and by texts."""
LEAST_AREA, NEAR_AREA = 0.95, 0.9
"""The area at which the public protocol takes a feature for that of a concept; few texts cannot
tell it from one of the second."""
AS_STRONG, MOST_ALSO = 0.5, 0.05
"""A feature is also on a text where it fires as strongly as this share of its usual level; on a
larger share of `against`, and on more than one text, it is not chosen. Both were set on planted
worlds (docs/log.md)."""


class Separated(NamedTuple):
    """How a feature tells the texts."""

    auc: float
    interval: tuple[float, float]
    clear: bool
    share: float
    """How many of `texts` it fires on, as a share."""
    also_on: int
    """Texts of `against` on which it fires about as strongly."""
    n_against: int

    @property
    def keeps_off(self) -> bool:
        return self.also_on <= max(1, MOST_ALSO * self.n_against)

    @property
    def tells(self) -> bool:
        """The area is the one asked for, or so near that the interval reaches it."""
        return self.auc >= NEAR_AREA and self.interval[1] >= LEAST_AREA

    @property
    def clean(self) -> bool:
        return self.clear and self.tells and self.keeps_off


@dataclass(frozen=True)
class TextBench:
    """Scores of the texts, and what separates them."""

    design: Groups
    scores: TextScores
    by_texts: list[int]
    """Features that halves of the texts like best, whether or not they are confirmed."""
    told: dict[int, tuple[float, bool]]
    """What is known of features that enough halves chose: held-out area, and whether they are
    confirmed."""

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        sae: SAE,
        texts: Sequence[Tokens],
        against: Sequence[Tokens],
        *,
        seed: int,
    ) -> "TextBench":
        both = [*texts, *against]
        scores = score_texts(model, sae, both, by="top3")
        design = groups_of(texts, against, scores.lengths)
        if not len(scores.features):
            return cls(design, scores, [], {})
        told = tell_apart(design, scores, seed)
        columns = told.best(True, unconfirmed=True).tolist()
        known = {
            int(scores.features[i]): (float(told.effects.auc[i]), bool(told.confirmed[i]))
            for i in columns
        }
        return cls(design, scores, [*known][:N_SEPARATING], known)

    def column(self, feature: int) -> Float[Tensor, " n_texts"]:
        """A feature's score in each text."""
        i = int(torch.searchsorted(self.scores.features, feature))
        known = i < len(self.scores.features) and int(self.scores.features[i]) == feature
        n = len(self.scores.lengths)
        return self.scores.scores[:, i].double() if known else torch.zeros(n).double()

    def levels(self, column: Float[Tensor, " n_texts"]) -> Float64[Tensor, " n_against"]:
        """The scores on the other texts in units of the usual one on those of the concept on which
        it fires."""
        usual = _usual(column[self.design.first])
        theirs = column[~self.design.first].double()
        return theirs / usual if usual else torch.zeros_like(theirs)

    def judged(self, feature: int, *, by_texts: bool) -> Separated:
        return self.separates(self.column(feature), feature, by_texts=by_texts)

    def separates(
        self, column: Float[Tensor, " n_texts"], feature: int | None, *, by_texts: bool
    ) -> Separated:
        """A feature that halves chose is judged by those that did not; one that the texts had no
        part in choosing (not `by_texts`) by all of them, corrected for the N_CAUSAL of such."""
        every = torch.arange(len(column))
        whole = self.design.compare(column[:, None], every)
        auc, clear = float(whole.auc), not by_texts and float(whole.p) * N_CAUSAL <= LEVEL
        if feature in self.told:
            held_out, confirmed = self.told[feature]
            auc = held_out if by_texts else auc
            clear = clear or confirmed
        low, high = self.design.interval(auc)
        ours, theirs = column[self.design.first], column[~self.design.first]
        level = AS_STRONG * _usual(ours)
        return Separated(
            auc=auc,
            interval=(low, high),
            clear=clear and low > 0.5,
            share=float((ours > 0).double().mean()),
            also_on=int(((theirs > 0) & (theirs >= level)).sum()),
            n_against=len(theirs),
        )


def _usual(ours: Float[Tensor, " n_texts"]) -> float:
    """The median score of the texts on which it fires; 0 where there are none."""
    firing = ours[ours > 0]
    return float(firing.median()) if len(firing) else 0.0
