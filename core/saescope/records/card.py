"""A feature's card: everything that its page and its description show."""

from dataclasses import dataclass

from saescope.records.labels import CardLabel, ShortLabel


@dataclass(frozen=True, slots=True)
class CardToken:
    """A token that the feature promotes or suppresses."""

    token: str
    id: int
    effect: float
    """Change of its logit by one unit of activation, up to the final norm's positive scale: compare
    within one feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The token of the corpus that an example was taken for."""

    token: str
    activation: float
    band: str
    """"top", or the part of the activation range that it was sampled from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardExample(Peak):
    """A context from the corpus in which the feature fires."""

    start: int
    """The position of the first token in its context of the corpus: a feature whose strongest
    places all stand at the beginning fires on beginnings."""
    tokens: list[str]
    activations: list[float]
    """One a token; 0 where it is silent."""
    pos: int
    """The position in `tokens` of the token that the example was taken for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelatedFeature:
    """Another feature, so named that it means something without its number."""

    feature: int
    label: ShortLabel | None
    top_token: str | None
    """The token at which it fires most in the indexed corpus; None without an index, and where it
    never fired."""
    promoted: str | None
    """The token that it promotes most; None where what it writes is no linear change of the
    residual stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardNeighbour(RelatedFeature):
    """Another feature whose decoder direction is close by."""

    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPartner(RelatedFeature):
    """Another feature that fires at the same positions."""

    n_together: int
    share: float
    """The share of the positions where this feature fires at which the partner fires too."""
    phi: float
    """Correlation of the two as yes or no."""


@dataclass(frozen=True, slots=True)
class CardBin:
    """A bar of the activation histogram."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedText:
    """The text that an index was made from."""

    dataset: str
    n_tokens: int
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CardCorpus(IndexedText):
    """The text that the index was made from, and how it was cut."""

    n_contexts: int
    context_size: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class FeatureFacts:
    """What is known of a feature. Without an index `corpus`, `density` and the maximum are None."""

    feature: int
    density: float | None
    n_fired: int | None
    max_activation: float | None
    """The largest activation in the corpus; None without an index, and where it never fired."""
    mean_activation: float | None
    """The mean activation over the tokens where it fires."""
    typical_activation: float | None
    """99th percentile where it fires, to 2 %: what is strong for it. None without an index, or with
    one of an earlier version."""
    quantiles: dict[str, float]
    """"0.5", "0.9", "0.99" of the activations above zero."""
    effects_through: str
    """How promoted and suppressed tokens were found, in one sentence; why not, where there are
    none."""
    neighbours: list[CardNeighbour]
    cofiring: list[CardPartner]
    corpus: CardCorpus | None


@dataclass(frozen=True, kw_only=True)
class FeatureCard(FeatureFacts):
    """`dataclasses.asdict` of it is what a page is rendered from."""

    sae: str
    """How the SAE is called here."""
    model: str
    hook_name: str
    hook_name_out: str
    architecture: str
    d_sae: int
    weights_hash: str
    histogram: list[CardBin]
    examples: list[CardExample]
    promotes: list[CardToken]
    suppresses: list[CardToken]
    labels: list[CardLabel]
    """Best first."""
    url: str
    """Its page on Neuronpedia, or empty."""
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class FeatureBrief:
    """A short card: what tells one of several features from the others."""

    feature: int
    label: ShortLabel | None
    density: float | None
    n_fired: int | None
    max_activation: float | None
    typical_activation: float | None
    """99th percentile where it fires."""
    top_tokens: list[str]
    """The tokens at which it fires most, strongest first."""
    promotes: list[str]
    examples: list[CardExample]
