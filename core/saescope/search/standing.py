"""How a candidate stands: what the texts say of it, what else its push writes, and whether a random
direction does as much."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.controls import ENOUGH, LEVEL
from saescope.ledger.statistics import student
from saescope.search.bench import CausalBench
from saescope.search.causes import Against, Tested
from saescope.search.others import MOST_SHARED, OtherWords, Shared
from saescope.search.text_bench import LEAST_AREA, Separated, TextBench


class Standing(NamedTuple):
    """What decides whether a feature, or a group, that causes is good enough."""

    told: Separated
    shared: Shared | None = None
    """None: not measured, for it does not both cause and separate, or the concept has texts of
    several tokens."""
    chance: float | None = None
    """p of its effect among the random directions, corrected for all that separate; None: not both,
    or too few controls."""

    @property
    def clean(self) -> bool:
        return self.told.clean and self.writes_off

    @property
    def writes_off(self) -> bool:
        return self.shared is None or self.shared.keeps_off

    @property
    def is_chance(self) -> bool:
        return self.chance is not None and self.chance > LEVEL

    @property
    def flaw(self) -> str:
        """Why it does not stand for the concept alone, or for all of it, or may be chance."""
        told = self.told
        if not told.keeps_off:
            return (
                f"fires at least half as strongly on {told.also_on} of {told.n_against} of against "
                "as well"
            )
        if not told.tells:
            on = f": it fires on {told.share:.0%} of texts" if told.share < 1 else ""
            return (
                f"tells the texts from against with an AUC of {told.auc:.2f} only "
                f"({LEAST_AREA:g} is asked for){on}"
            )
        if self.shared and not self.shared.keeps_off:
            words = ", ".join(map(repr, self.shared.words))
            return (
                f"also fires on and writes words that only against has: {words} "
                f"({self.shared.share:.0%} of what its push gives; {MOST_SHARED:.0%} may be)"
            )
        return f"the best of random directions may do as much (p = {self.chance or 0:.2g})"

    @property
    def perhaps(self) -> str:
        """What the flaw may mean, where the texts speak for one thing."""
        wrong_side = "or a text is on the wrong side"
        if not self.told.keeps_off:
            return f"; it may stand for more than the concept, {wrong_side}"
        if not self.told.tells:
            part = f"; it may stand for a part of the concept, {wrong_side}"
            return part if self.told.share < LEAST_AREA else ""
        if self.shared and not self.shared.keeps_off:
            return "; words that belong to the concept are named in causes"
        return ""


def standings(
    bench: CausalBench,
    told: TextBench,
    others: OtherWords | None,
    found: dict[int, tuple[Tested, Separated]],
    beside: Against,
) -> dict[int, Standing]:
    """How each candidate stands; what writes and fires is pushed again for its words."""
    both = [i for i, (tested, texts) in found.items() if tested.causes and texts.clear]
    known = dict[int, Standing]()
    n_separating = sum(texts.clear for _, texts in found.values())
    if both:
        strengths = torch.tensor([found[i][0].curve.at.strength for i in both])
        vectors = strengths[:, None] * bench.vectors(both)
        columns = [told.column(i) for i in both]
        shared = shared_words(bench, told, others, vectors, columns)
        for i, words in zip(both, shared, strict=True):
            tested, texts = found[i]
            chance = chance_of(tested, beside, bench.sign, n_separating)
            known[i] = Standing(texts, words, chance)
    return {i: known.get(i, Standing(texts)) for i, (_, texts) in found.items()}


def shared_words(
    bench: CausalBench,
    told: TextBench,
    others: OtherWords | None,
    vectors: Float[Tensor, "n d_out"],
    columns: Sequence[Float[Tensor, " n_texts"]],
) -> Sequence[Shared | None]:
    """What each push gives to words of the other texts that its column of scores fires on."""
    if others is None:
        return [None] * len(columns)
    levels = torch.stack([told.levels(column) for column in columns])
    return others.shared(bench.read, vectors, levels)


def chance_of(tested: Tested, beside: Against, sign: int, n: int) -> float | None:
    """How likely one of n random directions, each the best by gradient of as many as there are
    features, does as much: by Student's t, since ranks among so few controls cannot be corrected
    for n."""
    controls = beside.directions
    if len(controls) < ENOUGH:
        return None
    p = student(sign * tested.curve.score, mean(controls), stdev(controls), len(controls))
    return None if p is None else min(1.0, n * p)
