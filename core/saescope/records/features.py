"""What is known of features: ranked on texts, searched for, told apart by a contrast."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeatureRef:
    """Which feature, where there may be several SAEs."""

    sae: int
    """Its SAE, by its place in the list that was given; 0 for one SAE alone."""
    feature: int


@dataclass(frozen=True, slots=True)
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
    share: float
    """`n_tokens` as a share of the counted tokens; how often it fires in a corpus is its density,
    which an index knows."""
    text_index: int
    pos: int
    token: str
    """The token at which it fires most."""
    promotes: list[str]


@dataclass(frozen=True, slots=True)
class SAECount:
    """What one SAE sees of the texts."""

    sae: int
    total: int
    """Its features that fire at all."""
    n_tokens: int
    n_left_out: int
    n_sinks: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """A page of ranked features; `total` fire at all, of all SAEs."""

    features: list[RankedFeature]
    total: int
    n_tokens: int
    """Counted positions: of several SAEs, of the one that counts most."""
    n_left_out: int
    n_sinks: int
    counts: list[SAECount]
    """Counts of each SAE, in the order in which they were given."""
    warnings: list[str]


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Separation:
    """How well a score tells the two sets apart, on texts that had no part in choosing it (all
    texts, where they are too few to halve)."""

    d: float
    """Cohen's d; positive: higher in `texts` (for two models: in the model under study)."""
    auc: float
    """Chance that one of `texts` scores higher than one of `against`, ties half."""
    low: float
    high: float
    """A 95 % interval of `auc`."""
    p: float
    """Two-sided, by 9,999 random regroupings of the texts; by the normal approximation where there
    is no held-out half."""
    length_correlation: float | None
    """Rank correlation with the number of tokens, within the two sets."""


@dataclass(frozen=True, slots=True)
class ContrastFeature:
    """A feature that differs."""

    feature: int
    held_out: Separation
    q: float
    """The false discovery rate of `held_out.p` among the features chosen (Benjamini-Hochberg)."""
    q_chosen: float
    """On the half that chose it, among all features that fire there."""
    confirmed: bool
    """q <= 0.05 on the held-out half, the same sign on both."""
    auc_equal_length: float
    """`auc` with every text cut to the shortest one's length: what is left once length explains
    nothing."""
    position_correlation: float
    """The correlation of its activation with the position in the text."""
    confounds: list[str]
    """"length", "position": what else than the contrast might explain it."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """Features by how well they separate on the half that chose them, and what to make of it."""

    features: list[ContrastFeature]
    total: int
    """Features that fire at all: the number of comparisons."""
    together: Separation | None
    """The sum of the chosen features, each in its own standard deviations and with its sign."""
    n_texts: int
    n_against: int
    n_held_out: tuple[int, int] | None
    """Texts of each set that were held out; None where there are too few to hold a half out."""
    length_auc: float
    """Chance that one of `texts` is longer than one of `against`: 0.5 when lengths do not
    differ."""
    length_p: float
    verdict: str
    warnings: list[str]
