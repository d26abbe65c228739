"""A claim about a feature, and what kept results allow one to say."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureClaim:
    """What somebody wants to write of one feature, and in fields what it comes to."""

    text: str
    sae: str
    feature: int
    effect: str
    """The token that it makes likelier or less likely, several joined by "|"; where it fires, the
    token or the concept."""
    direction: str
    """"raises", "lowers" or "fires"."""
    level: str
    against: str = ""
    """The second token, where effects are of the difference of two logits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureTest:
    """What one kept test says of one feature."""

    result_id: str
    sae: str
    weights: str
    feature: int
    effect: str
    against: str
    direction: str
    """"raises", "lowers", "fires" or "none"."""
    level: str
    """The kind of test: "seen", "correlates", "intervened" or "controlled"."""
    beyond: bool | None
    """Whether it is beyond its controls; None where there were too few."""
    size: float | None
    p: float | None
    """How likely an effect as large is among its controls: by Student's t from their mean and
    deviation, else by rank."""
    n_controls: int
    prompts: tuple[str, ...]
    n_prompts: int
    consistent: bool
    """Whether the prompts agree: a sign test or an interval without 0, over six or more."""
    setting: str
    """How strongly and in which way the feature was changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedResult:
    """What a result that a claim names says of it."""

    result_id: str
    counts: str
    """"supports", "contradicts", "fails" (no more than its controls) or "not counted"."""
    level: str | None
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """A test without which a higher level cannot be reached."""

    what: str
    """"intervention", "controls", "prompts", "fresh prompts" or "contrast"."""
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks:
    """How often it was looked, and what that leaves of the best p."""

    n_tests: int
    """Tests of this effect by changing the model, of any feature of the SAE."""
    n_counted: int
    """Those that the best p pays for: of this feature, or on the same prompts."""
    n_features: int
    n_prompts: int
    n_settings: int
    p: float | None
    """The smallest of those that support the claim."""
    corrected: float | None
    """It times the number of those tests."""


@dataclass(frozen=True, kw_only=True)
class ClaimVerdict:
    """Whether a claim stands, and how far."""

    verdict: str
    """"stands", "lowered" or "refused"."""
    level: str | None
    """The highest level that the results allow; None: they support nothing of it."""
    reasons: tuple[str, ...]
    printed: str
    """The text with what it rests on beneath it; empty where it is refused."""
    checks: tuple[CheckedResult, ...]
    contradicting: tuple[CheckedResult, ...]
    """Results that the claim does not name and that speak against it."""
    missing: tuple[Missing, ...]
    looks: Looks
