"""A feature's card: all that its page and its description say, as plain data."""

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from saescope.effects import logit_effects, promoted_tokens
from saescope.features.index import Example, FeatureIndex
from saescope.features.labels.store import Label, LabelStore
from saescope.features.named import require_features
from saescope.features.neighbours import nearest_features
from saescope.models import LanguageModel
from saescope.records.card import (
    CardBin,
    CardCorpus,
    CardExample,
    CardNeighbour,
    CardPartner,
    CardToken,
    FeatureBrief,
    FeatureCard,
)
from saescope.records.labels import CardLabel, ShortLabel
from saescope.saes import SAE
from saescope.splice import read_hook, write_hook
from saescope.untrusted import clean_token

N_TOKENS = 10
N_RELATED = 5
BRIEF = ("density", "n_fired", "max_activation", "typical_activation", "examples")
"""What an index tells on a short card."""
N_TOP, N_WORDS = 10, 4
"""Strongest places of a feature whose tokens are looked at, and tokens that name it."""


def feature_card(
    model: LanguageModel,
    sae: SAE,
    feature: int,
    *,
    index: FeatureIndex | None = None,
    labels: LabelStore | None = None,
    n_examples: int = 5,
) -> FeatureCard:
    """Everything known of one feature, with the SAE called after its hook. Texts of quizzes are
    never in it.

    Raises:
        ArgumentError: the SAE has no such feature.
    """
    require_features(sae, [feature], "feature")
    store, meta = labels or LabelStore(), sae.cfg.metadata
    near = nearest_features(sae, feature, N_RELATED)
    with_it = index.cofiring(feature, N_RELATED) if index else []
    related = _related(model, sae, [row.feature for row in (*near, *with_it)], index, store)
    promotes, suppresses, how = _effects(model, sae, feature)
    return FeatureCard(
        feature=feature,
        sae=meta.hook_name,
        model=model.name,
        hook_name=read_hook(sae),
        hook_name_out=write_hook(sae),
        architecture=sae.cfg.architecture,
        d_sae=sae.cfg.d_sae,
        weights_hash=sae.weights_hash,
        **_measured(index, feature, n_examples),
        promotes=promotes,
        suppresses=suppresses,
        effects_through=how,
        neighbours=[CardNeighbour(cosine=row.cosine, **related[row.feature]) for row in near],
        cofiring=[
            CardPartner(
                n_together=row.n_together,
                share=row.share,
                phi=row.phi,
                **related[row.feature],
            )
            for row in with_it
        ],
        labels=[label for label in map(card_label, store.of(sae.weights_hash, feature)) if label],
        url=_page_of(meta.neuronpedia_id, feature),
        warnings=_warnings(index, feature),
    )


class _Related(TypedDict):
    feature: int
    label: ShortLabel | None
    top_token: str | None
    promoted: str | None


def _related(
    model: LanguageModel,
    sae: SAE,
    features: Sequence[int],
    index: FeatureIndex | None,
    labels: LabelStore,
) -> dict[int, _Related]:
    """How other features are named."""
    features = list(dict.fromkeys(features))
    called = labels.best(sae.weights_hash, features)
    promoted = promoted_tokens(model, sae, features, 1)
    return {
        feature: {
            "feature": feature,
            "label": card_label(called.get(feature)),
            "top_token": next(iter(top_tokens(index, feature)), None),
            "promoted": clean_token(words[0]) if words else None,
        }
        for feature, words in zip(features, promoted, strict=True)
    }


def feature_briefs(
    model: LanguageModel,
    sae: SAE,
    features: Sequence[int],
    *,
    index: FeatureIndex | None = None,
    labels: LabelStore | None = None,
    n_examples: int = 2,
) -> list[FeatureBrief]:
    """Short cards of several features, in the order in which they are named.

    Raises:
        ArgumentError: the SAE has no such feature.
    """
    features = list(dict.fromkeys(features))
    require_features(sae, features)
    called = (labels or LabelStore()).best(sae.weights_hash, features)
    promoted = promoted_tokens(model, sae, features, N_WORDS)
    return [
        FeatureBrief(
            feature=feature,
            label=card_label(called.get(feature)),
            top_tokens=top_tokens(index, feature),
            promotes=[clean_token(word) for word in words],
            **{name: known[name] for name in BRIEF},
        )
        for feature, words in zip(features, promoted, strict=True)
        for known in [_measured(index, feature, n_examples)]
    ]


def top_tokens(index: FeatureIndex | None, feature: int) -> list[str]:
    """The tokens of its strongest places in the corpus, each once, strongest first; none without an
    index, and where it never fired."""
    strongest = index.strongest(feature, N_TOP) if index else []
    tokens = (clean_token(each.tokens[each.pos]) for each in strongest)
    return list(dict.fromkeys(tokens))[:N_WORDS]


def _page_of(neuronpedia_id: str, feature: int) -> str:
    return f"https://www.neuronpedia.org/{neuronpedia_id}/{feature}" if neuronpedia_id else ""


def card_label(label: Label | None) -> CardLabel | None:
    """A label as plain data."""
    return (
        None
        if label is None
        else CardLabel(label.text, label.source, label.score, label.verdict, label.created)
    )


def _measured(index: FeatureIndex | None, feature: int, n_examples: int) -> dict[str, Any]:
    """The fields that an index fills."""
    if index is None:
        fields = ("density", "n_fired", "max_activation", "mean_activation", "corpus")
        fields += ("typical_activation",)
        return dict.fromkeys(fields) | {"quantiles": {}, "histogram": [], "examples": []}
    row = index.statistics(feature)
    return {
        "density": row.density,
        "n_fired": row.n_fired,
        "max_activation": row.max,
        "mean_activation": row.mean_firing,
        "typical_activation": row.typical,
        "quantiles": {f"{share:g}": value for share, value in (row.quantiles or {}).items()},
        "histogram": [CardBin(each.low, each.high, each.count) for each in row.histogram],
        "examples": [_example(each) for each in index.examples(feature, n_examples)],
        "corpus": card_corpus(index),
    }


def card_corpus(index: FeatureIndex) -> CardCorpus:
    """The text that an index was made from."""
    made = index.manifest
    return CardCorpus(
        dataset=made.dataset,
        n_tokens=made.n_tokens,
        created=made.created,
        n_contexts=made.n_contexts,
        context_size=made.context_size,
        seed=made.seed,
    )


def _example(example: Example) -> CardExample:
    tokens = [clean_token(token) for token in example.tokens]
    return CardExample(
        start=example.start,
        token=tokens[example.pos],
        activation=example.activation,
        band=example.band,
        tokens=tokens,
        activations=list(example.activations),
        pos=example.pos,
    )


def _effects(
    model: LanguageModel, sae: SAE, feature: int
) -> tuple[list[CardToken], list[CardToken], str]:
    """Promoted and suppressed tokens, strongest first, and how they were found."""
    effects = logit_effects(model, sae, torch.tensor([feature], device=sae.device))
    if effects is None:
        return (
            [],
            [],
            f"none: what a feature at {write_hook(sae)} writes is no linear change of "
            "the residual stream",
        )
    if not bool(sae.decoder[feature].any()):
        return [], [], "none: the feature's decoder row is zero, so it writes nothing"
    n = min(N_TOKENS, effects.shape[1])
    promotes, suppresses = (
        [_token(model, i, effects[0, i]) for i in (sign * effects[0]).topk(n).indices.tolist()]
        for sign in (1, -1)
    )
    centred = "mean taken out, " if model.readout.centred else ""
    how = (
        f"decoder row, {centred}times the final norm's gain, times the unembedding, centred over "
        "the vocabulary; the norm's scale at each position is left out"
    )
    return promotes, suppresses, how


def _token(model: LanguageModel, token_id: int, effect: Tensor) -> CardToken:
    return CardToken(clean_token(model.token_text(token_id)), token_id, float(effect))


def card_warnings(index: FeatureIndex | None) -> list[str]:
    """What is to be known of every feature."""
    if index is None:
        return [
            "No index of this SAE: examples, density and maximum are unknown. "
            "ss.index_features makes one."
        ]
    return index.warnings


def _warnings(index: FeatureIndex | None, feature: int) -> list[str]:
    if index is not None and index.maximum(feature) is None:
        return [
            f"The feature fired nowhere in {index.manifest.n_tokens} tokens of "
            f"{index.manifest.dataset}: dead, or rare there."
        ]
    return card_warnings(index)
