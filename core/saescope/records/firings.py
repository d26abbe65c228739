"""Where named features fire, and how well that agrees with a pattern or with labels."""

from dataclasses import dataclass

from saescope.records.features import TextToken


@dataclass(frozen=True, slots=True, kw_only=True)
class FiringPlace(TextToken):
    """A token at which a feature fires."""

    feature: int
    activation: float
    text: str
    """The tokens around it; ⟦ and ⟧ mark it."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """A share, with a 95 % interval that takes texts for the independent units."""

    value: float
    low: float | None
    """None where fewer than five texts enter."""
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Firing as a test for what is positive."""

    n_positive: int
    base_rate: float
    """The share that is positive: the precision of firing at random."""
    precision: Proportion | None
    """The share that is positive, of where it fires; None where it fires nowhere."""
    recall: Proportion | None
    """The share where it fires, of what is positive; None where nothing is positive."""
    auc: float | None
    """The chance that its activation (the largest of a text) is higher on a positive one than on
    another, ties half."""


@dataclass(frozen=True, kw_only=True)
class FeatureFirings:
    """One feature over all counted tokens of the texts; one that fires nowhere has zeros."""

    feature: int
    n_firing: int
    """Tokens at which it fires."""
    share: float
    """`n_firing` as a share of the counted tokens."""
    n_texts: int
    """Texts (documents of a dataset) in which it fires."""
    max_activation: float | None
    typical_activation: float | None
    """The 99th percentile of its activations where it fires."""
    by_token: Detection | None
    """With a pattern: positive is a token that overlaps a match."""
    matches_hit: Proportion | None
    """With a pattern: the share of matches with at least one token at which it fires."""
    by_text: Detection | None
    """Positive is a text with a match, or with a true label; it fires there at any token."""
