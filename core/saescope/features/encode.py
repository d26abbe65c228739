"""Which features fire on texts, token by token."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from saescope.metrics import explained_variance, mean_cosine
from saescope.models import LanguageModel, Tokens, counted
from saescope.ops import SparseActs
from saescope.saes import SAE
from saescope.splice import SiteRecord, read_site


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Active features at every position of one text."""

    tokens: Tokens
    counted: Bool[Tensor, " n_pos"]
    acts: SparseActs

    def l0(self, pos: int) -> int:
        """Number of active features at a position."""
        return int(self.acts.offsets[pos + 1] - self.acts.offsets[pos])

    def at(self, pos: int, top_k: int) -> list[tuple[int, float]]:
        """The strongest features at a position with their activations."""
        entries = slice(int(self.acts.offsets[pos]), int(self.acts.offsets[pos + 1]))
        values, order = self.acts.values[entries].sort(descending=True, stable=True)
        return list(
            zip(
                self.acts.features[entries][order].tolist()[:top_k],
                values.tolist()[:top_k],
                strict=True,
            )
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """Texts with their features, and how well the SAE reconstructs the counted positions."""

    texts: list[TextFeatures]
    n_tokens: int
    n_left_out: int
    n_sinks: int
    """Of those left out, the positions whose norm at the site is out of proportion."""
    l0_mean: float | None
    explained_variance: float | None
    cosine: float | None


def encode_texts(
    model: LanguageModel,
    sae: SAE,
    texts: Sequence[Tokens],
    *,
    positions: Iterable[int] = (),
    include_special: bool = False,
) -> Encoded:
    """Features of every position; statistics over the counted ones (position 0, special tokens and sinks left out unless named)."""
    named = list(positions)
    sites = [read_site(model, sae, model.batch(tokens.ids)) for tokens in texts]
    masks = [
        counted(tokens, named, include_special, sinks=site.sinks).to(model.device)
        for tokens, site in zip(texts, sites, strict=True)
    ]
    n_usual = sum(int(counted(tokens, named, include_special).sum()) for tokens in texts)
    target, sae_out = (_kept(sites, masks, what) for what in ("target", "sae_out"))
    l0 = torch.cat([site.acts.l0[mask] for site, mask in zip(sites, masks, strict=True)]).double()
    n = int(sum(mask.sum() for mask in masks))
    return Encoded(
        [
            TextFeatures(tokens, mask, site.acts)
            for tokens, mask, site in zip(texts, masks, sites, strict=True)
        ],
        n,
        sum(len(tokens) for tokens in texts) - n,
        n_usual - n,
        float(l0.mean()) if n else None,
        explained_variance(target, sae_out),
        mean_cosine(target, sae_out),
    )


def _kept(sites: list[SiteRecord], masks: list[Tensor], what: str) -> Tensor:
    return torch.cat([getattr(site, what)[mask] for site, mask in zip(sites, masks, strict=True)])
