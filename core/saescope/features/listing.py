"""All features of an SAE in an order: what a list of them shows, page by page."""

from dataclasses import dataclass
from typing import Literal

import torch

from saescope.features.card import card_label
from saescope.features.index import FeatureIndex
from saescope.features.labels.store import LabelStore
from saescope.records.labels import CardLabel
from saescope.saes import SAE
from saescope.untrusted import clean_token

Order = Literal["feature", "density", "peak"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFeature:
    """A feature as its labels and the indexed corpus know it; None where they do not."""

    feature: int
    density: float | None
    """Share of the counted tokens at which it fires."""
    peak: float | None
    """Its largest activation; 0 if it never fired."""
    top_token: str | None
    """The token of its strongest place."""
    label: CardLabel | None


def list_features(
    sae: SAE,
    index: FeatureIndex | None = None,
    *,
    by: Order = "feature",
    limit: int = 100,
    offset: int = 0,
) -> list[ListedFeature]:
    """Features by their number, or by density or peak, the largest first; of equals the lower
    number first. Without an index they come by number."""
    order = torch.arange(sae.cfg.d_sae)
    if index is not None and by != "feature":
        values = index.densities if by == "density" else index.maxima
        order = values.argsort(descending=True, stable=True)
    page = order[offset : offset + limit]
    features: list[int] = page.tolist()
    labels = LabelStore().best(sae.weights_hash, features)
    densities = index.densities[page].tolist() if index else [None] * len(features)
    peaks = index.maxima[page].tolist() if index else [None] * len(features)
    return [
        ListedFeature(
            feature=feature,
            density=density,
            peak=peak,
            top_token=_top_token(index, feature),
            label=card_label(labels.get(feature)),
        )
        for feature, density, peak in zip(features, densities, peaks, strict=True)
    ]


def _top_token(index: FeatureIndex | None, feature: int) -> str | None:
    strongest = index.strongest(feature, 1) if index else []
    return next((clean_token(each.tokens[each.pos]) for each in strongest), None)
