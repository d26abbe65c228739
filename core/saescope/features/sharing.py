"""Features in the form in which Neuronpedia shows them: their cards, what they write, and their
effects on the whole vocabulary, as files."""

from collections.abc import Sequence
from pathlib import Path

import torch

from saescope.effects import logit_effects
from saescope.features.card import feature_card
from saescope.features.index import FeatureIndex
from saescope.features.labels.quiz_store import QuizStore
from saescope.features.named import require_features
from saescope.models import LanguageModel
from saescope.neuronpedia import (
    Bars,
    Exported,
    FeatureExport,
    HostedSAE,
    Origin,
    own_id,
    write_features,
)
from saescope.saes import SAE
from saescope.splice import write_hook

N_EXAMPLES = 30
N_BARS = 50
"""Bars of the histogram of logit effects: as SAEDashboard makes it."""


def export_features(
    model: LanguageModel,
    sae: SAE,
    features: Sequence[int],
    *,
    folder: str | Path,
    index: FeatureIndex | None = None,
    dry_run: bool = False,
) -> FeatureExport:
    """Write features into `<folder>/<model>/<source>`, as Neuronpedia exports and imports them,
    with the bodies of its uploads and of a list beside them. An SAE that it does not host is
    called by its weights. Quizzes about the texts that are written are void.

    Raises:
        ArgumentError: the SAE has no such feature, or that folder holds something.
        ResourceError: it cannot be written.
    """
    chosen = list(dict.fromkeys(features))
    require_features(sae, chosen)
    made = [_exported(model, sae, feature, index) for feature in chosen]
    origin = Origin(
        sae=neuronpedia_name(model.name, sae),
        model=model.name,
        n_layers=model.n_layers,
        d_model=model.d_model,
        title=f"{sae.cfg.architecture} of {sae.cfg.d_sae:,} features at {write_hook(sae)}",
        instruct="instruct" in model.name.lower() or model.name.lower().endswith("-it"),
    )
    done = write_features(folder, origin, made, dry_run=dry_run)
    if done.written:
        texts = ["".join(row.tokens) for each in made for row in each.card.examples]
        QuizStore().void(texts)
    return done


def neuronpedia_name(model: str, sae: SAE) -> HostedSAE:
    """What Neuronpedia calls this SAE of `model`; where it hosts none, what exports of it are
    called here."""
    hosted = sae.cfg.metadata.neuronpedia_id
    return HostedSAE.parse(hosted) if hosted else own_id(model, write_hook(sae), sae.weights_hash)


def _exported(model: LanguageModel, sae: SAE, feature: int, index: FeatureIndex | None) -> Exported:
    card = feature_card(model, sae, feature, index=index, n_examples=N_EXAMPLES)
    row = torch.tensor([feature], device=sae.device)
    effects = logit_effects(model, sae, row)
    bars = Bars((), ())
    if effects is not None and bool(effects.any()):
        # On the CPU: torch has no histogram with edges elsewhere.
        heights, edges = effects[0].float().cpu().histogram(N_BARS)
        bars = Bars(((edges[1:] + edges[:-1]) / 2).tolist(), heights.int().tolist())
    return Exported(card=card, vector=sae.directions(row)[0].float().tolist(), logits=bars)
