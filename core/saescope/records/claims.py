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
    """The hash of the SAE's weights; empty where the result does not say it."""
    feature: int
    kind: str
    """"effect": the feature was changed; "estimate": nothing was; "token": it was seen firing on
    one; "concept": a label passed its blind quiz; "texts": it fires more on some than on others."""
    effect: str
    against: str
    measure: str
    """"logprob", "logit" or "difference" (of two logits); empty where it fires."""
    direction: str
    """"raises", "lowers", "fires", "none", or "" where nothing says whether the edit made more or
    less of the feature."""
    level: str
    """The kind of test: "seen", "correlates", "intervened" or "controlled"."""
    beyond: bool | None
    """Whether it goes further than its controls do, away from no effect; None where there were too
    few."""
    size: float | None
    """The measure after the change minus before; of an estimate, what the feature adds."""
    unit: str
    p: float | None
    """How likely an effect as far off is among its controls."""
    p_by: str
    """What `p` comes from, in words."""
    n_controls: int
    prompts: tuple[str, ...]
    n_prompts: int
    """How many the effect is the mean of; 0 where that is not said."""
    consistent: bool
    """Whether the prompts agree, six or more: all go one way, or an interval of their mean does not
    hold 0."""
    setting: str
    """What was done to the feature, in words."""
    chosen: str
    """Why it may be no more than the best of many; empty where nothing says so."""
    texts: tuple[str, ...]
    """Texts on which it fires more than on `other_texts`."""
    other_texts: tuple[str, ...]


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
    """Looks at this effect, at one that shares a token with it, or at this feature on the same
    prompts: each strength of a table and each candidate of a search is one."""
    n_counted: int
    """Those that the best p pays for: of this feature, or on the same prompts."""
    n_features: int
    n_prompts: int
    n_settings: int
    p: float | None
    """The smallest of those that support the claim."""
    corrected: float | None
    """It times the number of those looks."""


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
