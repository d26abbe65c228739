"""How well firing agrees with what a pattern or a label calls positive."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.features.labels.scores import Z, wilson
from saescope.metrics import average_ranks, student_t
from saescope.records.firings import Detection, Proportion

LEAST_TEXTS = 5
"""There is no interval from fewer texts than this."""


def agreement(
    scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"], text: Int[Tensor, " n"]
) -> Detection:
    """How firing, a score that is not 0, tells positive tokens or texts; `text` numbers these."""
    fires = scores != 0
    both = fires & positive
    return Detection(
        n_positive=int(positive.sum()),
        base_rate=float(positive.double().mean()) if len(positive) else 0.0,
        precision=rate(both[fires], text[fires]),
        recall=rate(both[positive], text[positive]),
        auc=_auc(scores, positive),
    )


def rate(hit: Bool[Tensor, " n"], text: Int[Tensor, " n"]) -> Proportion | None:
    """The share of hits among items of texts; None without any.

    The interval is Wilson's for as many independent trials as would vary as much as the texts do
    (Korn & Graubard 1998; Dean & Pagano 2015), which are never more than the items. Where all texts
    agree, each is one trial.
    """
    if not len(hit):
        return None
    share = float(hit.double().mean())
    _, own = text.unique(return_inverse=True)
    of = torch.bincount(own).double()
    hits = torch.bincount(own, hit.double())
    n_texts = len(of)
    if n_texts < LEAST_TEXTS:
        return Proportion(share, None, None)
    between = float((hits - share * of).square().sum()) * n_texts / (n_texts - 1) / len(hit) ** 2
    trials = min(share * (1 - share) / between, len(hit)) if between > 0 else n_texts
    trials *= (Z / student_t(n_texts - 1)) ** 2
    return Proportion(share, *wilson(share * trials, trials))


def _auc(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> float | None:
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return None
    ranks = average_ranks(scores.double()[:, None])[0][:, 0]
    return (float(ranks[positive].sum()) - n * (n + 1) / 2) / (n * m)
