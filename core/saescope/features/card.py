"""A feature's card: all that its page and its description say, as plain data."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saescope.effects import logit_effects
from saescope.errors import ArgumentError
from saescope.features.index import Example, FeatureIndex
from saescope.features.labels import Label, LabelStore
from saescope.features.neighbours import nearest_features
from saescope.features.scores import LabelScore
from saescope.models import LanguageModel
from saescope.saes import SAE
from saescope.splice import read_hook, write_hook
from saescope.untrusted import clean_token

N_TOKENS = 10
N_RELATED = 5


@dataclass(frozen=True, slots=True)
class CardToken:
    """A token that the feature promotes or suppresses."""

    token: str
    id: int
    effect: float
    """Change of its logit by one unit of activation, up to the final norm's positive scale: compare within one feature."""


@dataclass(frozen=True, slots=True)
class CardExample:
    """A context from the corpus in which the feature fires."""

    tokens: list[str]
    activations: list[float]
    """One a token; 0 where it is silent."""
    pos: int
    """In `tokens`: the token that the example was taken for."""
    token: str
    activation: float
    band: str
    """"top", or the part of the activation range that it was sampled from."""


@dataclass(frozen=True, slots=True)
class CardLabel:
    """What somebody calls the feature, and whether that was tested."""

    text: str
    source: str
    """"you", "agent" or "neuronpedia:<model of the explanation>": text from elsewhere is to be distrusted."""
    score: LabelScore | None
    """None: not tested."""
    verdict: str
    created: str


@dataclass(frozen=True, slots=True)
class CardNeighbour:
    """Another feature whose decoder direction is close by."""

    feature: int
    cosine: float
    label: CardLabel | None


@dataclass(frozen=True, slots=True)
class CardPartner:
    """Another feature that fires at the same positions."""

    feature: int
    n_together: int
    share: float
    """Of the positions where this feature fires, those where the partner does too."""
    phi: float
    """Correlation of the two as yes or no."""
    label: CardLabel | None


@dataclass(frozen=True, slots=True)
class CardBin:
    """A bar of the activation histogram."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class CardCorpus:
    """The text that the index was made from."""

    dataset: str
    n_tokens: int
    n_contexts: int
    context_size: int
    seed: int
    created: str


@dataclass(frozen=True, slots=True)
class FeatureCard:
    """`dataclasses.asdict` of it is what a page is rendered from. Without an index `corpus`, `density` and the maximum are None."""

    feature: int
    sae: str
    """How the SAE is called here."""
    model: str
    hook_name: str
    hook_name_out: str
    architecture: str
    d_sae: int
    weights_hash: str
    density: float | None
    n_fired: int | None
    max_activation: float | None
    """None without an index, and where it never fired."""
    mean_activation: float | None
    """Where it fires."""
    typical_activation: float | None
    """99th percentile where it fires, to 2 %: what is strong for it. None without an index, or with one of an earlier version."""
    quantiles: dict[str, float]
    """"0.5", "0.9", "0.99" of the activations above zero."""
    histogram: list[CardBin]
    examples: list[CardExample]
    promotes: list[CardToken]
    suppresses: list[CardToken]
    effects_through: str
    """How promoted and suppressed tokens were found, in one sentence; why not, where there are none."""
    neighbours: list[CardNeighbour]
    cofiring: list[CardPartner]
    labels: list[CardLabel]
    """Best first."""
    corpus: CardCorpus | None
    url: str
    """Its page on Neuronpedia, or empty."""
    warnings: list[str]


def feature_card(
    model: LanguageModel,
    sae: SAE,
    feature: int,
    *,
    index: FeatureIndex | None = None,
    labels: LabelStore | None = None,
    n_examples: int = 5,
) -> FeatureCard:
    """Everything known of one feature, with the SAE called after its hook. Texts of quizzes are never in it.

    Raises:
        ArgumentError: the SAE has no such feature.
    """
    _check_feature(sae, feature)
    store, meta = labels or LabelStore(), sae.cfg.metadata
    near = nearest_features(sae, feature, N_RELATED)
    with_it = index.cofiring(feature, N_RELATED) if index else []
    called = store.best(
        sae.weights_hash, [*(row.feature for row in near), *(row.feature for row in with_it)]
    )
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
        neighbours=[
            CardNeighbour(row.feature, row.cosine, card_label(called.get(row.feature)))
            for row in near
        ],
        cofiring=[CardPartner(*row, label=card_label(called.get(row.feature))) for row in with_it],
        labels=[label for label in map(card_label, store.of(sae.weights_hash, feature)) if label],
        url=_page_of(meta.neuronpedia_id, feature),
        warnings=_warnings(index, feature),
    )


def _check_feature(sae: SAE, feature: int) -> None:
    if not 0 <= feature < sae.cfg.d_sae:
        raise ArgumentError(
            f"Feature {feature} is outside this SAE.",
            code="FEATURE_OUT_OF_RANGE",
            field="feature",
            got=feature,
            allowed=f"0..{sae.cfg.d_sae - 1}",
        )


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
    row, made = index.statistics(feature), index.manifest
    return {
        "density": row.density,
        "n_fired": row.n_fired,
        "max_activation": row.max,
        "mean_activation": row.mean_firing,
        "typical_activation": row.typical,
        "quantiles": {f"{share:g}": value for share, value in (row.quantiles or {}).items()},
        "histogram": [CardBin(each.low, each.high, each.count) for each in row.histogram],
        "examples": [_example(each) for each in index.examples(feature, n_examples)],
        "corpus": CardCorpus(
            made.dataset, made.n_tokens, made.n_contexts, made.context_size, made.seed, made.created
        ),
    }


def _example(example: Example) -> CardExample:
    tokens = [clean_token(token) for token in example.tokens]
    return CardExample(
        tokens,
        list(example.activations),
        example.pos,
        tokens[example.pos],
        example.activation,
        example.band,
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
            f"none: what a feature at {write_hook(sae)} writes is no linear change of the residual stream",
        )
    if not bool(sae.decoder[feature].any()):
        return [], [], "none: the feature's decoder row is zero, so it writes nothing"
    n = min(N_TOKENS, effects.shape[1])
    promotes, suppresses = (
        [_token(model, i, effects[0, i]) for i in (sign * effects[0]).topk(n).indices.tolist()]
        for sign in (1, -1)
    )
    centred = "mean taken out, " if model.readout.centred else ""
    how = f"decoder row, {centred}times the final norm's gain, times the unembedding; the norm's scale at each position is left out"
    return promotes, suppresses, how


def _token(model: LanguageModel, token_id: int, effect: Tensor) -> CardToken:
    return CardToken(clean_token(model.token_text(token_id)), token_id, float(effect))


def _warnings(index: FeatureIndex | None, feature: int) -> list[str]:
    if index is None:
        return [
            "No index of this SAE: examples, density and maximum are unknown. ss.index_features makes one."
        ]
    if index.maximum(feature) is None:
        return [
            f"The feature fired nowhere in {index.manifest.n_tokens} tokens of {index.manifest.dataset}: dead, or rare there."
        ]
    return index.warnings
