"""What carries the difference between two prompts, in a level and a sentence."""

from saescope.controls import ENOUGH
from saescope.records.pairs import Closed, PairComparison
from saescope.verdicts import Carrier, Judgement

CARRIES = 0.5
"""The share from which something carries what there is to carry."""


def share_of(closed: Closed) -> float | None:
    """The smaller of both shares, as far as they are known: a push that moves one logit difference
    as it should may take the rest of the prediction anywhere."""
    known = [share for share in (closed.difference, closed.kl) if share is not None]
    return min(known, default=None)


def judge(found: PairComparison) -> Judgement[Carrier]:
    """From the whole site down: what a site does not carry, no feature of it does."""
    shares = (found.whole, found.all_features, found.together)
    whole, features, listed = (share_of(each) for each in shares)
    if whole is None or features is None or listed is None:
        return Judgement(Carrier.UNTOLD, "both prompts predict the same")
    if not found.total:
        return Judgement(Carrier.ELSEWHERE, "no feature differs at positions that are patched")
    if whole < CARRIES:
        return Judgement(
            Carrier.ELSEWHERE,
            f"the activation itself, patched there, closes {_both(found.whole)}: the rest goes by "
            "other sites or by positions that were not patched",
        )
    if features < CARRIES * whole and not _carry(found, listed, whole):
        alone = share_of(found.error) or 0.0
        too = "; neither carries it alone" if alone < CARRIES * whole else ""
        return Judgement(
            Carrier.ERROR,
            f"all features close {_both(found.all_features)}, the site {_both(found.whole)}; the "
            f"error alone {_both(found.error)}{too}",
        )
    return _of_features(found, features, listed)


def _carry(found: PairComparison, listed: float, whole: float) -> bool:
    """Whether the listed do what all features together do not: others may undo it, and the SAE
    sees it all the same."""
    control = found.control
    return listed >= CARRIES * whole and (control.n < ENOUGH or control.outside)


def _of_features(found: PairComparison, features: float, listed: float) -> Judgement[Carrier]:
    n, control = len(found.features), found.control
    said = (
        f"the {n} listed close {_both(found.together)}, all {found.total} "
        f"{_both(found.all_features)}"
    )
    if listed < CARRIES * features:
        return Judgement(Carrier.MANY, said)
    if n == found.total:
        return Judgement(Carrier.FEW, f"{said}, and no other differs")
    if control.n < ENOUGH:
        return Judgement(Carrier.FEW, f"{said}, not controlled")
    if not control.outside:
        return Judgement(Carrier.MANY, f"{said}, random ones no less")
    return Judgement(Carrier.FEW, said)


def _both(closed: Closed) -> str:
    """Both shares in words; what is not known is left out."""
    parts = [
        f"{share:.2f} of the {name}"
        for share, name in ((closed.difference, "difference"), (closed.kl, "KL"))
        if share is not None
    ]
    return " and ".join(parts)
