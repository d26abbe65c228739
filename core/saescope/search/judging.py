"""What carries the difference between two prompts, in a level and a sentence."""

from saescope.controls import ENOUGH
from saescope.records.pairs import Closed, PairComparison
from saescope.verdicts import Carrier, Judgement

CARRIES = 0.5
"""The share from which something carries what there is to carry."""


def share_of(closed: Closed) -> float | None:
    """The share of the logit difference, or where that hardly changes, of the KL."""
    return closed.kl if closed.difference is None else closed.difference


def judge(found: PairComparison) -> Judgement[Carrier]:
    """From the whole site down: what a site does not carry, no feature of it does."""
    shares = (found.whole, found.all_features, found.error, found.together)
    whole, features, error, listed = (share_of(each) for each in shares)
    if whole is None or features is None or error is None or listed is None:
        return Judgement(Carrier.UNTOLD, "both prompts predict the same")
    if not found.total:
        return Judgement(Carrier.ELSEWHERE, "no feature differs at positions that are patched")
    if whole < CARRIES:
        return Judgement(
            Carrier.ELSEWHERE,
            f"the activation itself, patched there, closes {whole:.2f}: the rest goes by other "
            "sites or by positions that were not patched",
        )
    if features < CARRIES * whole:
        return Judgement(
            Carrier.ERROR,
            f"all features close {features:.2f} of the {whole:.2f} that the site carries; the "
            f"error alone {error:.2f}",
        )
    return _of_features(found, features, listed)


def _of_features(found: PairComparison, features: float, listed: float) -> Judgement[Carrier]:
    n, control = len(found.features), found.control
    said = f"the {n} listed close {listed:.2f} of the {features:.2f} of all {found.total}"
    if listed < CARRIES * features:
        return Judgement(Carrier.MANY, said)
    if n == found.total:
        return Judgement(Carrier.FEW, f"{said}, and no other differs")
    if control.n < ENOUGH:
        return Judgement(Carrier.FEW, f"{said}, not controlled")
    if not control.outside:
        return Judgement(Carrier.MANY, f"{said}, random ones no less")
    return Judgement(Carrier.FEW, said)
