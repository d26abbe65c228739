"""What to make of a strength, by what it does on prompts that it was not chosen on."""

from collections.abc import Sequence
from math import log

from saescope.controls import ENOUGH
from saescope.records.controls import Comparison
from saescope.records.search_strength import HeldOutRow
from saescope.steering.judge import is_beyond
from saescope.verdicts import Judgement, Steerability

LEAST_SEEN = 0.1
"""Nats: a concept that changes by less than a tenth of its probability does not change."""
LEAST_USABLE = 1.0
"""Nats: the probability is e times what it was, at least, or"""
LIKELY = 0.5
"""it is the more likely one anyway."""


def judge_strength(
    steered: HeldOutRow | None,
    random: Comparison,
    controls: Sequence[HeldOutRow],
    level: float,
    *,
    sign: int,
    holds: bool,
) -> Judgement[Steerability]:
    """What to make of the one held-out trial. `level` is the concept's log-probability in the
    unsteered model; `holds`: damage on the held-out prompts is within the budget. A control is
    better where the whole interval of the difference says so."""
    if steered is None:
        return Judgement(Steerability.NONE, "no strength keeps to the budget")
    change, interval = sign * steered.concept_logprob, _signed(steered.interval, sign)
    said = f"{_in_words(steered)} on the held-out prompts"
    if change < LEAST_SEEN or interval is None or interval[0] <= 0:
        way = "more" if sign > 0 else "less"
        return Judgement(
            Steerability.NONE, f"{said}: the concept does not clearly become {way} likely"
        )
    beside = _beside(random)
    if random.n >= ENOUGH and not is_beyond(steered.concept_logprob, random):
        return Judgement(
            Steerability.NOT_BETTER, f"{said}, no further than random mixes of equal norm{beside}"
        )
    better = [row for row in controls if row.ahead is not None and row.ahead[1] < 0]
    if better:
        named = "; ".join(f"{row.arm}: {_in_words(row)}" for row in better)
        return Judgement(Steerability.NOT_BETTER, f"{said}, less than a control ({named})")
    said = f"{said}{beside}{''.join(_as_good(row) for row in controls)}"
    if not holds:
        return Judgement(Steerability.WEAK, f"{said}; the damage there is over the budget")
    if random.n < ENOUGH:
        few = f"there are too few other features to compare with ({random.n})"
        return Judgement(Steerability.WEAK, f"{said}; {few}")
    likely = sign > 0 and level + interval[0] >= log(LIKELY)
    if interval[0] < LEAST_USABLE and not likely:
        return Judgement(
            Steerability.WEAK, f"{said}; usable would be {LEAST_USABLE:g} nat at the least"
        )
    return Judgement(Steerability.USABLE, said)


def _signed(interval: tuple[float, float] | None, sign: int) -> tuple[float, float] | None:
    if interval is None or sign > 0:
        return interval
    return -interval[1], -interval[0]


def _in_words(row: HeldOutRow) -> str:
    of = f" (95 % {row.interval[0]:+.2g} to {row.interval[1]:+.2g})" if row.interval else ""
    return f"{row.concept_logprob:+.2g} nats{of} at KL {row.kl:.2g}"


def _beside(random: Comparison) -> str:
    if random.mean is None or random.p is None:
        return ""
    return f" ({random.n} random mixes {random.mean:+.2g} on average, p = {random.p:.2g})"


def _as_good(row: HeldOutRow) -> str:
    """What a control that is not better says."""
    if row.ahead is None:
        return ""
    clear = "more than" if row.ahead[0] > 0 else "not clearly more than"
    return f"; {clear} with the {row.arm} ({row.concept_logprob:+.2g})"
