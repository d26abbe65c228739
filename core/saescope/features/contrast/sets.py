"""The two sets of a contrast: each text once, and which texts are halved together."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.features.contrast.alike import counterparts
from saescope.features.contrast.baselines import word_counts
from saescope.features.contrast.designs import Groups
from saescope.models import Tokens, first_of_each


class Once(NamedTuple):
    """The places of the texts of each set that no earlier one repeats."""

    texts: list[int]
    against: list[int]
    warnings: list[str]


def each_once(texts: Sequence[Tokens], against: Sequence[Tokens]) -> Once:
    """Leave out repetitions within a set: copies taken for independent texts confirm anything."""
    kept = first_of_each(texts), first_of_each(against)
    n = len(texts) + len(against)
    left_out = n - len(kept[0]) - len(kept[1])
    which = "repeats another" if left_out == 1 else "repeat others"
    said = [f"{left_out:,} of the {n:,} texts {which} of the same set: each counts once."]
    return Once(*kept, said if left_out else [])


def groups_of(
    texts: Sequence[Tokens],
    against: Sequence[Tokens],
    lengths: Float[Tensor, " n_texts"],
    *,
    documents: Sequence[str] = (),
    words: Float[Tensor, "n_texts n_words"] | None = None,
) -> Groups:
    """The design of two sets; without documents a text and its counterpart in the other set are
    halved together, which `words` tell, counted here unless they are given."""
    first = torch.arange(len(texts) + len(against)) < len(texts)
    if documents:
        return Groups(first, lengths, documents)
    words = word_counts([*texts, *against]) if words is None else words
    return Groups(first, lengths, halved=counterparts(words, first))
