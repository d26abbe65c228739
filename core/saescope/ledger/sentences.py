"""A finding in plain words, so that a reader sees what a claim rests on."""

from saescope.controls import ENOUGH
from saescope.ledger.found import NEUTRAL, tokens_in
from saescope.records.claims import FeatureClaim, FeatureTest

MOST_SHOWN = 60
"""Characters of a text that stands for others."""


def quantity(effect: str, against: str, measure: str) -> str:
    """What an effect is an effect on."""
    one, other = _named(effect), _named(against)
    if against:
        many = len(tokens_in(effect)) > 1 or len(tokens_in(against)) > 1
        return f"the {'log-odds' if many else 'logit'} of {one} against {other}"
    if measure == "logit":
        return f"the logit of {one}"
    summed = "summed " * (len(tokens_in(effect)) > 1)
    return f"the {summed}log-probability of {one}"


def _named(effect: str) -> str:
    tokens = effect.split("|") if len(tokens_in(effect)) > 1 else [effect]
    return " and ".join(map(repr, tokens))


def claimed_quantity(claim: FeatureClaim, measure: str) -> str:
    """What a claim is about."""
    return quantity(claim.effect, claim.against, measure)


def measured(found: FeatureTest) -> str:
    """What a finding is about, without what it found."""
    match found.kind:
        case "token":
            return f"where it fires ({found.effect!r})"
        case "concept":
            return f"the label {found.effect!r}"
        case "texts":
            return f"whether it tells {_texts(found)}"
        case _:
            return quantity(found.effect, found.against, found.measure)


def sentence(found: FeatureTest) -> str:
    """What a finding says."""
    match found.kind:
        case "token":
            return f"it was seen firing on {found.effect!r}"
        case "concept":
            return f"the label {found.effect!r} passed a blind quiz"
        case "texts":
            sure = "on texts held out" if found.level == "correlates" else "not confirmed"
            return f"it tells {_texts(found)} ({sure})"
        case "estimate":
            return (
                f"nothing was changed: by the estimate ({found.setting}) it adds {_size(found)} to "
                f"{measured(found)}{_on(found)}: {_way(found)}"
            )
        case _:
            done = "does not change" if not found.size else "changes"
            by = f" by {_size(found)}" if found.size else ""
            return (
                f"{found.setting} {done} {measured(found)}{by}{_on(found)}{_beside(found)}: "
                f"{_way(found)}"
            )


def _texts(found: FeatureTest) -> str:
    own, others = found.texts, found.other_texts
    return (
        f"{len(own)} texts such as {_brief(own[0])} from {len(others)} such as {_brief(others[0])}"
    )


def _brief(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= MOST_SHOWN else f"{flat[: MOST_SHOWN - 1]}…")


def _size(found: FeatureTest) -> str:
    return f"{found.size or 0.0:+.3g}{' ' * bool(found.unit)}{found.unit}"


def _on(found: FeatureTest) -> str:
    n = found.n_prompts
    if NEUTRAL in found.prompts:
        return f" on average of {n} neutral prompts" if n else " on neutral prompts"
    if n < 2:
        return " on one prompt"
    return f" on average of {n} prompts{', all of which agree' if _unanimous(found) else ''}"


def _unanimous(found: FeatureTest) -> bool:
    # An interval over prompts, of text that is generated or pushes at one KL, is of their mean.
    return found.consistent and found.unit in ("nats", "")


def _beside(found: FeatureTest) -> str:
    if found.level != "controlled":
        few = f"{found.n_controls} of the {ENOUGH} controls that it takes"
        return f", beside {few if found.n_controls else 'no controls'}"
    p = "" if found.p is None else f" (p {found.p:.2g} {found.p_by})"
    further = "further than" if found.beyond else "no further than"
    return f", {further} {found.n_controls} random features{p}"


def _way(found: FeatureTest) -> str:
    return {
        "raises": "it raises it",
        "lowers": "it lowers it",
        "none": "it does nothing to it",
        "": "which way the feature itself takes it is not said",
    }[found.direction]
