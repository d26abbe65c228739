"""What something simpler reaches: random directions of the same shape and L0, and the best linear
subspace of the same rank."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.evals.reconstruction import Reconstruction, batches
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

    def __call__(self, site: SiteRecord) -> Float[Tensor, "n_pos d_out"]:
        return self.mean + self.scale * (self.sae(site.x).float() - self.mean)


@dataclass(frozen=True, slots=True)
class PCA:
    """Projection onto the directions of the largest variance."""

    mean: Float[Tensor, " d_out"]
    basis: Float[Tensor, "d_out rank"]
    explained: Float[Tensor, " d_out"]
    """Share of the variance that the first 1, 2, ... directions explain."""

    def __call__(self, site: SiteRecord) -> Float[Tensor, "n_pos d_out"]:
        return self.mean + (site.target.float() - self.mean) @ self.basis @ self.basis.T

    @property
    def rank(self) -> int:
        return self.basis.shape[1]

    def rank_to_match(self, explained_variance: float | None) -> int | None:
        """Directions needed for as much explained variance; None if the SAE has none to match."""
        if explained_variance is None or explained_variance <= 0:
            return None
        return min(1 + int((self.explained < explained_variance).sum()), len(self.explained))


class Fitted(NamedTuple):
    """Both baselines, ready to stand in for the SAE."""

    random_sae: RandomSAE
    pca: PCA


def fit_pca(fit: Reconstruction, sae: SAE, l0: float) -> PCA:
    """Fit as many directions as features fire at a position to the evaluated positions
    themselves."""
    assert fit.second_moment is not None, "reconstruct(covariance=True) comes first"
    offset = fit.mean - fit.shift
    covariance = fit.second_moment / fit.n_tokens - torch.outer(offset, offset)
    variances, directions = torch.linalg.eigh(covariance)
    variances, directions = variances.flip(0).clamp(min=0), directions.flip(1)
    rank = min(max(1, round(l0)), len(variances))
    explained = variances.cumsum(0) / variances.sum().clamp(min=torch.finfo(torch.float64).tiny)
    basis = directions[:, :rank].float().contiguous()
    return PCA(fit.mean.float().to(sae.device), basis.to(sae.device), explained)


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
