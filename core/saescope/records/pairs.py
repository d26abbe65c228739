"""What a comparison of two prompts says, and one of two SAEs."""

from dataclasses import dataclass, field

from saescope.records.controls import Comparison
from saescope.records.prediction import TargetLogit
from saescope.verdicts import Carrier, Judgement


@dataclass(frozen=True, slots=True)
class Closed:
    """How far a patch takes prompt a towards prompt b: 0 leaves a as it is, 1 is b, and more than 1
    or less than 0 is possible."""

    difference: float | None
    """The share of the change of logit(target) - logit(against); None where that hardly changes."""
    kl: float | None
    """1 - KL(b || patched) / KL(b || a)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDifference:
    """A stretch in which the prompts differ: tokens replaced, or in one prompt alone."""

    pos_a: int | None
    """The first token's position; None where a has nothing here."""
    text_a: str
    pos_b: int | None
    text_b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchedFeature:
    """One feature at one pair of aligned positions: what it is in both prompts, and what a becomes
    with b's value of it."""

    sae: int
    """Its SAE, by its place in the list that was given; 0 for one SAE alone."""
    feature: int
    pos_a: int
    token_a: str
    pos_b: int
    token_b: str
    activation_a: float
    activation_b: float
    estimate: float | None
    """The share of the logit difference by the gradient on a: what the features were chosen by."""
    closed: float | None
    """The share of the logit difference, measured: this feature alone patched."""
    closed_kl: float | None
    """The same of the KL to b's distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePatch:
    """What the site of one SAE carries of the difference, patched alone."""

    sae: int
    n_differ: int
    """(feature, position) pairs whose activation differs at aligned positions."""
    features: Closed
    """All of these patched from b into a."""
    error: Closed
    """What the SAE does not say patched alone: the rest of the activation."""
    whole: Closed
    """The activation itself patched, features and error: what no SAE here can exceed."""


@dataclass(frozen=True, kw_only=True)
class PairComparison:
    """What makes prompt b predict something else than prompt a, in features; patches go from b
    into a."""

    target: TargetLogit
    """The token that b favours, as b predicts it."""
    against: TargetLogit
    """The token that a favours, as a predicts it."""
    difference_a: float
    """logit(target) - logit(against) on a."""
    difference_b: float
    kl: float
    """KL(b || a) of the two predictions, in nats."""
    differences: list[TextDifference]
    n_aligned: int
    """Pairs of positions from the first difference on, of which some may not count."""
    n_unaligned: int
    """Tokens of either prompt that have no partner in the other."""
    n_patched: int
    """Pairs of aligned positions that count for at least one SAE, where features are patched."""
    features: list[PatchedFeature]
    """By size of the estimate."""
    total: int
    """(feature, position) pairs that differ, of all SAEs."""
    all_features: Closed
    together: Closed
    """The listed features patched together."""
    error: Closed
    whole: Closed
    control: Comparison
    """The share that the listed features close (the smaller of both) beside that of as many random
    ones that differ too, of like size and position."""
    placebo: Comparison
    """The same beside moves as long at the same positions in random subspaces."""
    unchanged: bool
    """a patched with its own features keeps its logits bit by bit."""
    by_sae: list[SitePatch]
    verdict: Judgement[Carrier]
    warnings: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedFeature:
    """A feature of one SAE, and its partner in another: one to one."""

    feature: int
    partner: int | None
    """None: no feature that is free is more like it than chance makes."""
    score: float | None
    """The mean of cosine and correlation, or the one that is known: of the partner, else of the
    nearest feature, which another may have."""
    cosine: float | None
    """The cosine of the decoder rows; None where the SAEs write spaces of two sizes."""
    correlation: float | None
    """The correlation of activations over tokens; None where either fires on too few."""
    low: float | None
    high: float | None
    """A 95 % interval of the correlation: stretches of text resampled."""
    n_tokens: int
    """Tokens on which the feature fires."""
    partner_tokens: int | None


@dataclass(frozen=True, kw_only=True)
class MatchedSAEs:
    """What two SAEs of one model share."""

    n_features: int
    """Features of the SAE that write or fire."""
    n_other: int
    n_matched: int
    low: float
    high: float
    """A 95 % interval of the share of features that have a partner."""
    score: float | None
    """The median over features with a partner."""
    chance: float
    """The score that the best of all features has for one feature in a hundred by chance: random
    features in place of the other SAE's, which fire on as many tokens."""
    n_same_index: int
    """Pairs in which both features have the same index: SAEs that began with the same weights."""
    unmatched: list[int]
    """Features without a partner, those that fire most first."""
    unmatched_other: list[int]
    n_tokens: int


@dataclass(frozen=True, kw_only=True)
class FeatureMatches(MatchedSAEs):
    """Which features two SAEs of one model share, pair by pair."""

    features: list[MatchedFeature]
    """Features with a partner by score, or those that were asked for."""
    warnings: list[str] = field(default_factory=list[str])
