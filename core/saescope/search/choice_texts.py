"""What is wrong with texts that a feature is to be chosen by: their number, length, words and
topics."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.features.contrast.alike import neighbours_alike
from saescope.features.contrast.designs import Groups
from saescope.models import LanguageModel, Tokens

LEAST, ENOUGH_TEXTS = 8, 30
CUE, NO_CUE = 0.5, 0.1
"""Shares of the texts of one side and of the other between which a word is a cue."""
SHARED_WORDS = 0.3
"""The share of the words of `texts` that the other side should have too."""
MOST_CUES = 3
LEVEL = 0.05


def faults_of(
    model: LanguageModel,
    texts: Sequence[Tokens],
    against: Sequence[Tokens],
    *,
    design: Groups,
    scores: Float[Tensor, "n_texts n_features"],
    seed: int,
) -> list[str]:
    """Each fault in a sentence that says what to write instead."""
    n, m = design.n
    said: list[str] = []
    if min(n, m) < LEAST:
        said.append(
            f"Too few texts ({n} and {m}): nothing can be tested on texts that had no part in the "
            f"choice. Write at least {LEAST} a side, better {ENOUGH_TEXTS}."
        )
    elif min(n, m) < ENOUGH_TEXTS:
        said.append(f"Few texts ({n} and {m}): {ENOUGH_TEXTS} a side tell features apart better.")
    if design.length_p < LEVEL:
        longer = "longer" if design.length_auc > 0.5 else "shorter"
        said.append(
            f"texts are {longer} than against (AUC of the length {design.length_auc:.2g}): write "
            "both equally long."
        )
    said += _words(model, texts, against)
    if scores.shape[1] and neighbours_alike(design, scores, seed):
        said.append(
            "Neighbouring texts are more alike than others, as passages of one document are: take "
            "them from different ones."
        )
    return said


def _words(model: LanguageModel, texts: Sequence[Tokens], against: Sequence[Tokens]) -> list[str]:
    """Words that give the side away, and sides that speak of different things."""
    ours, theirs = (_shares(side) for side in (texts, against))
    cues = [
        (share, token)
        for token, share in ours.items()
        if share >= CUE and theirs.get(token, 0.0) <= NO_CUE
    ]
    said: list[str] = []
    if cues:
        named = ", ".join(
            f"{model.token_text(token)!r} ({share:.0%})"
            for share, token in sorted(cues, reverse=True)[:MOST_CUES]
        )
        said.append(
            f"Words give texts away that against hardly has: {named}. A feature of the word passes "
            "for one of the concept: say it in other words, or use the word in against too."
        )
    overlap = sum(token in theirs for token in ours) / max(1, len(ours))
    if overlap < SHARED_WORDS:
        said.append(
            f"against shares {overlap:.0%} of the words of texts: it speaks of other things, and "
            "any topic tells the sides apart. Add texts on the same topics without the concept."
        )
    return said


def _shares(side: Sequence[Tokens]) -> dict[int, float]:
    """The share of the texts that have each token."""
    rows = [tokens.ids[~tokens.special].unique() for tokens in side]
    ids, counts = torch.cat(rows).unique(return_counts=True)
    return dict(zip(ids.tolist(), (counts / len(rows)).tolist(), strict=True))
