"""Pure numbers about reconstructions and logits."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saescope.precision import wide

LEAST_POSITIONS = 16
"""The variance of fewer positions about their own mean is mostly that of the draw: explained
variance is not reported."""


class RunningFit:
    """Explained variance and mean cosine of positions that come in parts, of which none is kept
    (Chan et al. 1979 for the variance)."""

    def __init__(self) -> None:
        self.n = 0
        self._mean = torch.zeros(())
        self._spread = self._squares = self._cosines = 0.0

    def add(
        self, target: Float[Tensor, "n_pos d"], reconstruction: Float[Tensor, "n_pos d"]
    ) -> None:
        n = len(target)
        if not n:
            return
        target, reconstruction = wide(target), wide(reconstruction)
        mean, total = target.mean(0), self.n + n
        apart = mean - self._mean.to(mean)
        # One copy to the host: each number by itself would be a wait.
        within, between, squares, cosines = torch.stack(
            [
                (target - mean).square().sum(),
                apart.square().sum(),
                (target - reconstruction).square().sum(),
                torch.cosine_similarity(target, reconstruction, dim=-1).sum(),
            ]
        ).tolist()
        self._spread += within + between * self.n * n / total
        self._mean = self._mean.to(mean) + apart * n / total
        self._squares += squares
        self._cosines += cosines
        self.n = total

    @property
    def explained_variance(self) -> float | None:
        """1 - sum of squared errors / total variance about the mean over positions; None if there
        is no variance, or from fewer than LEAST_POSITIONS."""
        known = self.n >= LEAST_POSITIONS and self._spread > 0
        return 1 - self._squares / self._spread if known else None

    @property
    def mean_cosine(self) -> float | None:
        """The cosine of each position and its reconstruction, averaged over positions."""
        return self._cosines / self.n if self.n else None


def kl_divergence(
    logits: Float[Tensor, "*n vocab"], reference: Float[Tensor, "*n vocab"]
) -> Float[Tensor, "*n"]:
    """KL(softmax(logits) || softmax(reference)) of each position, in nats."""
    log_p, log_q = wide(logits).log_softmax(-1), wide(reference).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)


def log_mass(logits: Float[Tensor, "*n vocab"], tokens: Sequence[int]) -> Float64[Tensor, "*n"]:
    """The log of the summed probability of some tokens, at each position."""
    precise = wide(logits)
    return precise[..., [*tokens]].logsumexp(-1) - precise.logsumexp(-1)


def average_ranks(scores: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n m"], Float[Tensor, " m"]]:
    """Ranks from 1 within each column, ties at their average; and the sum of t^3 - t over its
    groups of ties."""
    ordered, order = scores.sort(dim=0)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    group = new.long().cumsum(0) - 1
    sizes = torch.zeros_like(ordered).scatter_add_(0, group, torch.ones_like(ordered))
    ranks = (sizes.cumsum(0) - (sizes - 1) / 2).gather(0, group)
    return torch.zeros_like(ranks).scatter_(0, order, ranks), (sizes**3 - sizes).sum(0)


def spearman(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float | None:
    """Rank correlation; None with fewer than three pairs or without spread."""
    if len(a) < 3:
        return None
    ranks = average_ranks(torch.stack([a.double(), b.double()], dim=1))[0]
    return None if bool((ranks.std(0) == 0).any()) else float(torch.corrcoef(ranks.T)[0, 1])


def pearson(a: list[float], b: list[float]) -> float | None:
    """Correlation coefficient; None with fewer than three pairs or without spread."""
    if len(a) < 3:
        return None
    pair = torch.tensor([a, b], dtype=torch.float64)
    return None if (pair.std(1) == 0).any() else float(torch.corrcoef(pair)[0, 1])


def score_between(worst: float, best: float, value: float) -> float | None:
    """(worst - value) / (worst - best): 1 = as good as `best`, 0 = as bad as `worst` (the field's
    CE and KL scores)."""
    return None if worst == best else (worst - value) / (worst - best)


def student_t(n_free: int) -> float:
    """The 97.5th percentile of Student's t (Abramowitz and Stegun 26.7.5); to 1 % from four degrees
    of freedom on."""
    z, v = 1.959964, n_free
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
