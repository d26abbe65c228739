"""What tells two sets of texts apart without any SAE: their words, their lengths, the model's own
activations. A feature is worth reporting beside these."""

from collections.abc import Sequence
from math import ceil

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.cancel import stop_if_cancelled
from saescope.features.contrast.designs import Fold, Groups
from saescope.metrics import average_ranks
from saescope.models import Tokens

PENALTIES = torch.logspace(-3, 3, 7, dtype=torch.float64)
"""Ridge penalties, in units of the mean eigenvalue; leave-one-out chooses."""
MOST_FITTED = 1000
"""Texts that a probe is fitted to: its eigenvalues take the cube of their number."""


def word_counts(texts: Sequence[Tokens]) -> Float[Tensor, "n_texts n_words"]:
    """Which tokens each text has (1 or 0), special tokens left out: a bag of words."""
    rows = [tokens.ids[~tokens.special].unique() for tokens in texts]
    words = torch.cat(rows).unique()
    table = torch.zeros(len(texts), len(words), dtype=torch.float64)
    for row, ids in zip(table, rows, strict=True):
        row[torch.searchsorted(words, ids)] = 1
    return table


def probe_auc(
    inputs: Float[Tensor, "n_texts width"], design: Groups, folds: Sequence[Fold]
) -> float:
    """Area under the curve of a ridge classifier fitted on one half (at most `MOST_FITTED` of its
    texts) and tested on the other, over all halves."""
    return sum(_fold_auc(inputs.double(), design.first, fold) for fold in folds) / len(folds)


def _fold_auc(
    inputs: Float[Tensor, "n_texts width"], first: Bool[Tensor, " n_texts"], fold: Fold
) -> float:
    stop_if_cancelled()
    chosen_on = fold.chosen_on[:: ceil(len(fold.chosen_on) / MOST_FITTED)]
    fitted = inputs[chosen_on]
    spread = fitted.std(0)
    used = spread > 1e-9
    if not bool(used.any()):
        return 0.5
    scaled = (inputs[:, used] - fitted[:, used].mean(0)) / spread[used]
    own = scaled[chosen_on]
    weights = _ridge(own @ own.T, first[chosen_on].double() * 2 - 1)
    return auc_of(scaled[fold.held_out] @ (own.T @ weights), first[fold.held_out])


def _ridge(kernel: Float[Tensor, "n n"], y: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Dual coefficients at the penalty whose leave-one-out squared error is least (Allen's PRESS:
    the residual of a text that was left out is a_i / (K + cI)^-1_ii)."""
    values, vectors = torch.linalg.eigh(kernel)
    values = values.clamp(min=0)
    y = vectors.T @ (y - y.mean())
    best, least = y, float("inf")
    for penalty in PENALTIES * values.mean():
        inverse = 1 / (values + penalty)
        dual = vectors @ (inverse * y)
        error = float((dual / (vectors.square() @ inverse)).square().sum())
        if error < least:
            best, least = dual, error
    return best


def auc_of(scores: Float[Tensor, " n"], first: Bool[Tensor, " n"]) -> float:
    """Chance that a text of the first group scores higher than one of the second, ties half."""
    n1, n2 = int(first.sum()), int((~first).sum())
    ranks: Int[Tensor, " n"] = average_ranks(scores[:, None])[0][:, 0]
    return float((ranks[first].sum() - n1 * (n1 + 1) / 2) / (n1 * n2))
