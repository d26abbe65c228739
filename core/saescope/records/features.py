"""What is known of features: ranked on texts, searched for, told apart by a contrast."""

from dataclasses import dataclass


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
    """A page of ranked features; `total` fire at all, of all SAEs."""

    features: list[RankedFeature]
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


@dataclass(frozen=True, slots=True)
class FoundFeatures:
    """Best first; `total` could be listed, `score_is` says what the score measures."""

    features: list[FoundFeature]
    total: int
    score_is: str
    warnings: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Auc:
    """How often a score tells a text of one set from one of the other, on texts that had no part in
    choosing it (all texts, where they are too few to halve)."""

    auc: float
    """Chance that one of `texts` scores higher than one of `against`, ties half."""
    low: float
    high: float
    """A 95 % interval of `auc`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Separation(Auc):
    """How well a score tells the two sets apart, on the texts that `Auc` is of."""

    d: float
    """Cohen's d; positive: higher in `texts` (for two models: in the model under study)."""
    p: float
    """Two-sided, by 9,999 random regroupings of the texts; by the normal approximation where there
    is no held-out half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut(Separation):
    """A separation, and what it has to do with the length of the texts."""

    length_correlation: float | None
    """Rank correlation with the number of tokens, within the two sets."""


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """What speaks for and against a feature that was chosen because it differs."""

    confirmed: bool
    """q <= 0.05 on the held-out half, the same sign on both."""
    auc_equal_length: float
    """`auc` with every text cut to the shortest one's length: what is left once length explains
    nothing."""
    position_correlation: float
    """The correlation of its activation with the position in the text."""
    confounds: list[str]
    """"length", "position": what else than the contrast might explain it."""


@dataclass(frozen=True, kw_only=True)
class ContrastFeature(Confirmation):
    """A feature that differs."""

    feature: int
    held_out: HeldOut
    q: float
    """The false discovery rate of `held_out.p` among the features chosen (Benjamini-Hochberg)."""
    q_chosen: float
    """On the half that chose it, among all features that fire there."""


@dataclass(frozen=True, kw_only=True)
class ContrastedSets:
    """The two sets of texts of a contrast."""

    n_texts: int
    n_against: int
    n_held_out: tuple[int, int] | None
    """Texts of each set that were held out; None where there are too few to hold a half out."""
    length_auc: float
    """Chance that one of `texts` is longer than one of `against`: 0.5 when lengths do not
    differ."""


@dataclass(frozen=True, kw_only=True)
class Contrast(ContrastedSets):
    """Features by how well they separate on the half that chose them, and what to make of it."""

    features: list[ContrastFeature]
    total: int
    """Features that fire at all: the number of comparisons."""
    together: HeldOut | None
    """The sum of the chosen features, each in its own standard deviations and with its sign."""
    length_p: float
    verdict: str
    warnings: list[str]
