"""Features by the words of their labels or by texts that make them fire, each with why it was
found; and how far tokens stand out of what each feature writes."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.features.index import FeatureIndex
from saescope.features.labels.store import LabelStore
from saescope.features.reading.text_acts import text_acts
from saescope.models import LanguageModel, Tokens
from saescope.records.features import FoundFeature, FoundFeatures
from saescope.saes import SAE
from saescope.sinks import many_sinks
from saescope.splice import write_hook

ROWS = 4096
"""Decoder rows whose effects are computed at a time."""


def find_by_label(
    labels: LabelStore, weights_hash: str, query: str, *, k: int = 10, offset: int = 0
) -> FoundFeatures:
    """Features with a label that shares words with `query`."""
    rows, total = labels.search(weights_hash, query, k=k, offset=offset)
    features = [
        FoundFeature(
            feature=label.feature,
            score=1 / (offset + i),
            why=f"label: {label.text} ({label.verdict})",
        )
        for i, label in enumerate(rows, 1)
    ]
    untested = sum(label.score is None for label in rows)
    warnings = (
        [f"{untested} of these {len(rows)} labels were never tested: ss.make_quiz tests one."]
        if untested
        else []
    )
    return FoundFeatures(
        features, total, "1 / rank by the words that label and query share", warnings
    )


def token_scores(
    model: LanguageModel, sae: SAE, ids: Sequence[int]
) -> Float[Tensor, "d_sae n_tokens"]:
    """(effect on the token - mean effect) / standard deviation over the vocabulary, of every
    feature.

    Raises:
        ArgumentError: the SAE's site does not write to the residual stream linearly.
    """
    to_residual = model.residual_map(write_hook(sae))
    if to_residual is None:
        raise ArgumentError(
            f"What a feature at {write_hook(sae)} writes is no linear change of the "
            "residual stream: promoted tokens are not defined.",
            code="NO_LOGIT_EFFECTS",
            field="tokens",
            got=write_hook(sae),
            hint='Search by label text (query="...") or by texts.',
        )
    W_U = model.readout.W_U.float()
    mean = W_U.mean(1)
    centred = W_U - mean[:, None]
    narrow = replace(
        model.readout, gain=model.readout.gain.float(), W_U=torch.eye(len(mean), device=W_U.device)
    )
    gram = centred @ centred.T / W_U.shape[1]
    parts: list[Tensor] = []
    for features in torch.arange(sae.cfg.d_sae, device=sae.device).split(ROWS):
        with torch.no_grad():
            written = narrow.logit_effects(
                to_residual(sae.directions(features).to(model.device, model.dtype))
            )
        spread = ((written @ gram) * written).sum(1).clamp(min=0).sqrt()
        parts.append((written @ centred[:, list(ids)] / spread.clamp(min=1e-12)[:, None]).cpu())
    return torch.cat(parts)


def find_by_texts(
    model: LanguageModel,
    sae: SAE,
    texts: Sequence[Tokens],
    *,
    index: FeatureIndex | None,
    k: int = 10,
    offset: int = 0,
) -> FoundFeatures:
    """Features that fire more often on these texts than in the indexed corpus; without an index,
    those that fire most often.

    The score is the log likelihood ratio of the number of firing tokens (G^2 / 2 of one share
    against the corpus', in nats).
    """
    fired, total, n, n_sinks = _firing_counts(model, sae, texts)
    share = fired / max(n, 1)
    if index is None:
        scores, usual = share, None
        says, warnings = "share of the texts' tokens on which it fires", [_NO_INDEX]
    else:
        m = index.manifest.n_tokens
        usual = ((index.densities.cpu().double() * m + 0.5) / (m + 1)).clamp(max=1 - 0.5 / (m + 1))
        scores = torch.where(share > usual, n * _divergence(share, usual), 0)
        says, warnings = (
            "log likelihood ratio, nats: firing on these texts against the corpus",
            list[str](),
        )
    enriched = (scores > 0).nonzero()[:, 0]
    # By score; of equal scores, as where several fire on every token, the stronger first.
    for value in (total, scores):
        enriched = enriched[value[enriched].sort(descending=True, stable=True).indices]
    best = enriched[offset : offset + k].tolist()
    features = [
        FoundFeature(
            feature=i,
            score=float(scores[i]),
            why=_fires(int(fired[i]), n, None if usual is None else float(usual[i])),
        )
        for i in best
    ]
    return FoundFeatures(features, len(enriched), says, [*warnings, *many_sinks(n_sinks, n)])


_NO_INDEX = (
    "There is no index of this SAE: features that fire on any text cannot be told from those "
    "that fire on these. ss.index_features makes one."
)


def _firing_counts(
    model: LanguageModel, sae: SAE, texts: Sequence[Tokens]
) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, " d_sae"], int, int]:
    """Count on how many tokens each feature fires, its activations' sum, how many tokens there are,
    and how many sinks were left out."""
    n, n_sinks = 0, 0
    fired, total = torch.zeros(2, sae.cfg.d_sae, dtype=torch.float64)
    for acts, mask, sinks, _ in text_acts(model, sae, texts):
        own = acts.select(mask[acts.positions])
        fired += torch.bincount(own.features, minlength=len(fired))
        total += torch.bincount(own.features, own.values.double(), minlength=len(total))
        n, n_sinks = n + int(mask.sum()), n_sinks + sinks
    return fired, total, n, n_sinks


def _divergence(p: Float[Tensor, " n"], q: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """KL(p || q) of a coin, in nats."""
    return torch.xlogy(p, p / q) + torch.xlogy(1 - p, (1 - p) / (1 - q))


def _fires(fired: int, n: int, usual: float | None) -> str:
    count = f"fires on {fired} of {n} tokens"
    return (
        count
        if usual is None
        else f"{count}, {fired / n / usual:.3g} times as often as in the corpus"
    )
