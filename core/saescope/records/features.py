"""What is known of features: ranked on texts, searched for, told apart by a contrast."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from saescope.records.controls import Comparison


@dataclass(frozen=True, slots=True)
class FeatureRef:
    """Which feature, where there may be several SAEs."""

    sae: int
    """Its SAE, by its place in the list that was given; 0 for one SAE alone."""
    feature: int


@dataclass(frozen=True, slots=True)
class TextToken:
    """A token by its place in the texts."""

    text_index: int
    pos: int
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SideLevel:
    """How a feature fires on one side of a contrast."""

    mean: float
    """The mean over texts of the text's score (its largest activation)."""
    share: float
    """Share of the texts on which it fires at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedFeature:
    """One feature over all counted tokens of the texts."""

    sae: int
    """Its SAE, by its place in the list that was given; 0 for one SAE alone."""
    feature: int
    score: float
    max_activation: float
    mean_activation: float
    """Over all counted tokens, those where it is silent included."""
    n_tokens: int
    """Counted tokens on which it fires."""
    top_token: TextToken
    """The place where it fires most."""
    share: float
    """`n_tokens` as a share of the counted tokens; how often it fires in a corpus is its density,
    which an index knows."""
    promotes: list[str]
    levels: tuple[SideLevel, SideLevel] | None
    """How the feature fires on `texts` and on `against`, in a contrast."""
    confirmed: bool | None
    """Whether the feature is confirmed, as `ss.contrast_texts` does it, in a contrast."""
    density: float | None
    """The share of tokens at which it fires in the indexed corpus; None without an index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SAECount:
    """What one SAE sees of the texts."""

    sae: int
    total: int
    """Its features that fire at all."""
    n_tokens: int
    n_left_out: int
    n_sinks: int


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """A page of ranked features of all SAEs; `total` fire at all (in a contrast: more on `texts`
    than on `against`)."""

    features: list[RankedFeature]
    score_is: str
    """What the score measures."""
    total: int
    by_sae: list[SAECount]
    """Counts of each SAE, in the order in which they were given."""
    n_tokens: int
    """Counted positions: of several SAEs, of the one that counts most."""
    n_left_out: int
    n_sinks: int
    """How many of those left out are positions whose norm at the site is out of proportion."""
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How well an SAE reconstructs the counted positions of texts; None where none counts, the
    explained variance where they are few."""

    l0_mean: float | None
    explained_variance: float | None
    cosine: float | None
    n_tokens: int
    n_left_out: int
    n_sinks: int
    """How many of those left out are positions whose norm at the site is out of proportion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFeature:
    """A feature, by what it was found and how good it is there."""

    feature: int
    score: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRank:
    """How far a feature's decoder row raises a token."""

    token: str
    rank: int
    """Among all tokens; 1 is raised most."""
    z: float
    """Standard deviations above the mean of the feature's effects on all tokens."""


@dataclass(frozen=True, kw_only=True)
class Writer(FoundFeature):
    """A feature that raises tokens directly, and what it does to their probability."""

    tokens: list[TokenRank]
    push: float | None
    """The change of the log of the tokens' summed probability, in nats, when the feature's typical
    activation is added at the end of neutral prompts; None: not measured."""
    control: Comparison | None
    """The same of 19 random features at their typical activation; where the tokens are near the top
    of what this one raises, with a change as large as its own."""
    writes: bool | None
    """The push is positive and outside its controls, and at least half of the tokens are near the
    top of what the feature raises."""


@dataclass(frozen=True, slots=True)
class FoundFeatures:
    """Best first; `total` could be listed, `score_is` says what the score measures."""

    features: Sequence[FoundFeature]
    total: int
    score_is: str
    warnings: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Auc:
    """How often a score tells a text of one set from one of the other: the mean over halves of the
    texts that had no part in choosing it (over all texts, where they are too few to halve)."""

    auc: float
    """Chance that one of `texts` scores higher than one of `against`, ties half (for two models:
    the share of texts on which it rises)."""
    low: float
    high: float
    """A 95 % interval of `auc`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Separation(Auc):
    """How well a score tells the two sets apart, on the texts that `Auc` is of."""

    d: float
    """Cohen's d; positive: higher in `texts` (for two models: in the model under study)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastBaseline(Auc):
    """How well something tells the texts apart that had no part in fitting it."""

    name: str
    """`best_feature`: the one that each half likes best; `all_features`, `bag_of_words`,
    `mean_activation` (of the model, at the SAE's site) and `length` (in tokens): ridge classifiers
    fitted on the other half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopPlace:
    """The place where a feature fires most in the texts that were given."""

    text_index: int
    """Number of the text: `texts` first, then `against`, from 0."""
    pos: int
    token: str
    activation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeControls:
    """A feature's change from one model to the other, beside what is none."""

    change: float
    """The mean over the texts of the feature's score (its maximum in a text) in the model under
    study less that in the other; with `against` less the mean over those."""
    halves: Comparison
    """The same of chance: how far the means of random halves of the texts are apart in the other
    model."""
    perturbed: Comparison
    """The change where the other model's activations are moved in a random direction, at each
    position as far as the two models are apart."""


@dataclass(frozen=True, kw_only=True)
class ContrastFeature:
    """A feature that differs between the two sides."""

    feature: int
    side: Literal["texts", "against"]
    """The side on which it fires more."""
    held_out: Separation
    p: float
    """The chance that any feature differs as much after random regrouping of the texts
    (Westfall & Young's maxT): corrected for all features that were looked at."""
    confirmed: bool
    """p <= 0.05, with enough texts to hold a half out."""
    levels: tuple[SideLevel, SideLevel]
    """How the feature fires on `texts` and on `against`, or in the model under study and the
    other."""
    top: TopPlace | None
    """The place where the feature fires most on its side."""
    auc_equal_length: float
    """The area over all texts with every text cut to the shortest one's length: what is left once
    length explains nothing."""
    length_correlation: float | None
    """Rank correlation of its score with the number of tokens, within the two sets."""
    position_correlation: float
    """The correlation of its activation with the position in the text."""
    confounds: list[str]
    """"length", "position": what else than the contrast might explain it."""
    controls: ChangeControls | None = None
    """What the change stands beside, where two models are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastedSets:
    """What was contrasted, and how well it can be told apart at all."""

    n_texts: int
    n_against: int
    held_out: bool
    """There were enough texts to hold halves out."""
    n_confirmed: int
    n_candidates: int
    """Features that at least half of the halves chose and that are not confirmed."""
    baselines: list[ContrastBaseline]
    length_auc: float
    """Chance that one of `texts` is longer than one of `against`: 0.5 when lengths do not
    differ."""
    length_p: float


@dataclass(frozen=True, kw_only=True)
class Contrast(ContrastedSets):
    """Features that differ, those of `texts` first, and what to make of them."""

    features: list[ContrastFeature]
    score_is: str
    """What `held_out.auc` of a feature measures."""
    total: int
    """Features that fire at all: the number of comparisons."""
    verdict: str
    warnings: list[str]
