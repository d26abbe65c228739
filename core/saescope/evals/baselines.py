"""What something simpler reaches: random directions of the same shape and L0, and the best linear
subspace of the same rank."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.evals.reconstruction import Moments, Reconstruction, batches
from saescope.evals.text import EvalText
from saescope.models import LanguageModel
from saescope.saes import SAE, TopKConfig, TopKSAE
from saescope.splice import SiteRecord, read_site


@dataclass(frozen=True, slots=True)
class RandomSAE:
    """TopK over random unit directions, the same ones to read and to write except in a
    transcoder."""

    sae: TopKSAE
    mean: Float[Tensor, " d_out"]
    scale: float

    def __call__(self, site: SiteRecord, fold: int) -> Float[Tensor, "n_pos d_out"]:
        return self.mean + self.scale * (self.sae(site.x).float() - self.mean)


@dataclass(frozen=True, slots=True)
class PCA:
    """Projection onto the directions of the largest variance: each half of the documents onto those
    of the other half."""

    means: tuple[Float[Tensor, " d_out"], Float[Tensor, " d_out"]]
    bases: tuple[Float[Tensor, "d_out rank"], Float[Tensor, "d_out rank"]]
    """What stands in for each half."""
    explained: Float[Tensor, " d_out"]
    """Share of the variance that the first 1, 2, ... directions explain."""

    def __call__(self, site: SiteRecord, fold: int) -> Float[Tensor, "n_pos d_out"]:
        mean, basis = self.means[fold], self.bases[fold]
        return mean + (site.target.float() - mean) @ basis @ basis.T

    @property
    def rank(self) -> int:
        return self.bases[0].shape[1]

    def rank_to_match(self, explained_variance: float | None) -> int | None:
        """Directions needed for as much explained variance; None if the SAE has none to match."""
        if explained_variance is None or explained_variance <= 0:
            return None
        return min(1 + int((self.explained < explained_variance).sum()), len(self.explained))


class Fitted(NamedTuple):
    """Both baselines, ready to stand in for the SAE."""

    random_sae: RandomSAE
    pca: PCA | None
    """The projection; None where the text has no two halves."""


def fit_pca(fit: Reconstruction, sae: SAE, l0: float) -> PCA | None:
    """Fit as many directions as features fire at a position to each half of the documents, for the
    other half; None where there are no two halves."""
    assert fit.moments is not None, "reconstruct(covariance=True) comes first"
    halves = [half.cpu() for half in fit.moments]
    if min(half.n for half in halves) < 2:
        return None
    rank = min(max(1, round(l0)), sae.cfg.d_out)
    offset = fit.mean - fit.shift
    means, bases, total = list[Tensor](), list[Tensor](), 0.0
    errors = torch.zeros(sae.cfg.d_out, dtype=torch.float64)
    for judged, fitted in zip(halves, halves[::-1], strict=True):
        directions = _directions_of_variance(fitted)
        means.append(fitted.first / fitted.n)
        bases.append(directions[:, :rank])
        around = _about(judged, means[-1])
        along = ((around @ directions) * directions).sum(0)
        errors += around.trace() - along.cumsum(0)
        total += float(_about(judged, offset).trace())
    explained = 1 - errors / max(total, torch.finfo(torch.float64).tiny)
    here = sae.device
    return PCA(
        means=_pair([(fit.shift + mean).float().to(here) for mean in means]),
        bases=_pair([basis.float().contiguous().to(here) for basis in bases]),
        explained=explained,
    )


def _directions_of_variance(half: Moments) -> Float[Tensor, "d_out d_out"]:
    """The principal directions as columns, that of the largest variance first."""
    return torch.linalg.eigh(_about(half, half.first / half.n)).eigenvectors.flip(1)


def _about(half: Moments, mean: Float[Tensor, " d_out"]) -> Float[Tensor, "d_out d_out"]:
    """The sum of outer products about a mean."""
    across = torch.outer(half.first, mean)
    return half.second - across - across.T + half.n * torch.outer(mean, mean)


def _pair(two: list[Tensor]) -> tuple[Tensor, Tensor]:
    return two[0], two[1]


def fit_random(
    model: LanguageModel, sae: SAE, text: EvalText, fit: Reconstruction, *, l0: float, seed: int
) -> RandomSAE:
    """Directions from the seed; the scale of the output fitted by least squares to the first batch
    of the text."""
    contexts = next(batches(text))
    site = read_site(model, sae, text.ids[contexts])
    keep = text.mask[contexts].flatten().to(site.x.device)
    x, mean = site.x[keep], fit.mean.float().to(sae.device)
    drawn = _random_topk(
        sae, mean.to(sae.dtype), x.mean(0), k=min(max(1, round(l0)), sae.cfg.d_sae), seed=seed
    )
    made, wanted = drawn(x).float() - mean, site.target[keep].float() - mean
    size = float(made.square().sum())
    return RandomSAE(drawn, mean, float((made * wanted).sum()) / size if size else 0.0)


def _random_topk(
    sae: SAE, mean: Float[Tensor, " d_out"], mean_in: Float[Tensor, " d_in"], *, k: int, seed: int
) -> TopKSAE:
    generator = torch.Generator().manual_seed(seed)
    cfg = sae.cfg
    reads = _directions(cfg.d_sae, cfg.d_in, generator)
    writes = _directions(cfg.d_sae, cfg.d_out, generator) if cfg.transcoder else reads
    reads, writes = reads.to(sae.decoder), writes.to(sae.decoder)
    tensors = {"W_enc": reads.T, "W_dec": writes if cfg.transcoder else reads, "b_dec": mean}
    tensors["b_enc"] = -(reads @ mean_in) if cfg.transcoder else reads.new_zeros(cfg.d_sae)
    shape = TopKConfig(
        d_in=cfg.d_in,
        d_out=cfg.d_out,
        d_sae=cfg.d_sae,
        k=k,
        transcoder=cfg.transcoder,
        apply_b_dec_to_input=not cfg.transcoder,
    )
    return TopKSAE(shape, tensors)


def _directions(n: int, width: int, generator: torch.Generator) -> Float[Tensor, "n width"]:
    return torch.nn.functional.normalize(torch.randn(n, width, generator=generator), dim=-1)
