"""What a push writes beside a concept: words of the other texts on which the feature fires too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from saescope.models import LanguageModel, Tokens
from saescope.search.pushes import ReadTexts, next_probabilities

RAISED, MOST_SHARED = 0.4, 0.07
"""A word counts if it rises by this share of the nats by which the concept does; more than the
second of what a push gives the concept and such words, and the feature stands for more. Both were
set on planted worlds (docs/log.md)."""
MOST_NAMED = 4


class Shared(NamedTuple):
    """What of a push goes to words of other texts on which the feature fires."""

    share: float
    """The part of such words, each as far as the feature fires on its texts, in the probability
    that the push gives to these and to the concept's tokens."""
    words: list[str]
    """The words with the largest parts."""

    @property
    def keeps_off(self) -> bool:
        return self.share <= MOST_SHARED


@dataclass(frozen=True)
class OtherWords:
    """Tokens that only the other texts have, and which texts have each."""

    model: LanguageModel
    concept: Int[Tensor, " n_concept"]
    tokens: Int[Tensor, " n_tokens"]
    has: Bool[Tensor, "n_tokens n_texts"]

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        texts: Sequence[Tokens],
        against: Sequence[Tokens],
        *,
        concept: Sequence[Sequence[int]],
    ) -> "OtherWords | None":
        """None where the concept has texts of several tokens: what a push gives to single tokens
        does not compare with these."""
        if any(len(text) > 1 for text in concept):
            return None
        ours, theirs = ([{*_words(text)} for text in side] for side in (texts, against))
        named = [text[0] for text in concept]
        tokens = sorted(set[int]().union(*theirs) - set[int]().union(*ours) - {*named})
        has = [[token in text for text in theirs] for token in tokens]
        shape = torch.tensor(has, dtype=torch.bool).reshape(len(tokens), len(theirs))
        return cls(model, torch.tensor(named), torch.tensor(tokens, dtype=torch.long), shape)

    def shared(
        self,
        read: ReadTexts,
        vectors: Float[Tensor, "n d_out"],
        levels: Float64[Tensor, "n n_texts"],
    ) -> list[Shared]:
        """What each push gives to the words; `levels` say how strongly the feature fires on each of
        the other texts, in units of what is usual on the concept's."""
        clean, *pushed = next_probabilities(read, vectors)
        return [self._shared(clean, row, level) for row, level in zip(pushed, levels, strict=True)]

    def _shared(
        self,
        clean: Float64[Tensor, " d_vocab"],
        pushed: Float64[Tensor, " d_vocab"],
        level: Float64[Tensor, " n_texts"],
    ) -> Shared:
        gained = (pushed - clean).clamp(min=0)
        rise = (pushed[self.concept].sum() / clean[self.concept].sum()).log()
        raised = (pushed[self.tokens] / clean[self.tokens]).log() >= RAISED * rise
        gains = gained[self.tokens] * raised
        fires = (self.has * level).sum(1) / self.has.sum(1)
        parts = gains * fires.clamp(max=1)
        whole = float(gains.sum() + gained[self.concept].sum())
        largest = [i for i in parts.argsort(descending=True).tolist() if parts[i] > 0]
        words = [self.model.token_text(int(self.tokens[i])) for i in largest[:MOST_NAMED]]
        return Shared(float(parts.sum()) / whole if whole else 0.0, words)


def _words(text: Tokens) -> list[int]:
    return text.ids[~text.special].tolist()
