"""Strengths tried on calibration prompts: bisected to the best concept log-probability within a
budget of damage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import exp
from statistics import mean
from typing import NamedTuple

from saescope.progress import Advance
from saescope.records.search_strength import DamageBudget, StrengthTrial
from saescope.search.arms import between, times
from saescope.search.reading import (
    Arms,
    Reading,
    SearchPrompt,
    SoughtConcept,
    log_perplexity,
    read_runs,
)
from saescope.stack import Stack
from saescope.steering.generate import Sampling, repetition_of, write
from saescope.steering.judge import LEAST_RELIEF, MOST_REPEATED
from saescope.steering.prepare import Plans

GRID = tuple(2.0**n for n in range(-3, 5))
HIGHER, LOWER = (tuple(2.0**n for n in powers) for powers in (range(5, 10), range(-9, -3)))
"""Tried too where the whole grid keeps to the budget, or nothing in it does."""
ROUNDS = 3
WEAKER = (1.0, 0.84, 0.71, 0.5, 0.35, 0.18)
"""Multiples of the best strength at which texts are written, to see whether they hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trying:
    """What strengths are tried on, and by what they are judged."""

    stack: Stack
    concept: SoughtConcept
    sign: int
    """1: the concept is to become more likely, -1: less."""
    budget: DamageBudget
    max_new_tokens: int
    advance: Advance

    def means(self, prompts: Sequence[SearchPrompt], arms: Arms) -> list[Reading]:
        """What each run does, averaged over the prompts."""
        found: list[list[Reading]] = []
        for prompt in prompts:
            found.append(read_runs(self.stack, prompt, arms(prompt), self.concept).runs)
            self.advance(1)
        return [
            Reading(mean(run.concept for run in runs), mean(run.kl for run in runs))
            for runs in zip(*found, strict=True)
        ]

    def write(self, prompt: SearchPrompt, plans: Sequence[Plans]) -> list[list[int]]:
        """The greedy text of each run."""
        sampling = Sampling(max_new_tokens=self.max_new_tokens, seeds=[0] * len(plans))
        return write(self.stack, prompt.tokens.ids, plans, sampling=sampling)

    def damage(
        self, prompts: Sequence[SearchPrompt], texts: Sequence[Sequence[int]]
    ) -> "TextDamage":
        """What became of the texts, one for each prompt."""
        model, ratios = self.stack.model, list[float]()
        for prompt, row in zip(prompts, texts, strict=True):
            plain = log_perplexity(model, prompt.tokens, prompt.written)
            own = log_perplexity(model, prompt.tokens, row)
            if plain is not None and own is not None:
                ratios.append(own - plain)
        plain_repeats = mean(repetition_of(prompt.written) for prompt in prompts)
        repeats = mean(repetition_of(row) for row in texts)
        ratio = exp(mean(ratios)) if ratios else None
        holds = (ratio is None or ratio <= self.budget.max_perplexity) and repeats <= max(
            MOST_REPEATED, plain_repeats + LEAST_RELIEF
        )
        return TextDamage(ratio, repeats, holds)


class TextDamage(NamedTuple):
    """What became of written texts beside the unsteered ones."""

    perplexity_ratio: float | None
    """The geometric mean over prompts."""
    repetition: float
    holds: bool
    """Both are within their bounds."""


At = Callable[[SearchPrompt, float], Plans]
"""What is done on a prompt at a strength."""


@dataclass(slots=True)
class Trials:
    """Every strength that was tried, with means over the calibration prompts."""

    on: Trying
    prompts: Sequence[SearchPrompt]
    readings: dict[float, Reading] = field(default_factory=dict[float, Reading])
    texts: dict[float, TextDamage] = field(default_factory=dict[float, TextDamage])

    def measure(self, strengths: Sequence[float]) -> None:
        new = [strength for strength in strengths if strength not in self.readings]
        if new:
            found = self.on.means(
                self.prompts, lambda prompt: [times(prompt.ready.plans, one) for one in new]
            )
            self.readings |= dict(zip(new, found, strict=True))

    def write(self, strengths: Sequence[float]) -> None:
        rows: list[list[list[int]]] = []
        for prompt in self.prompts:
            plans = [times(prompt.ready.plans, one) for one in strengths]
            rows.append(self.on.write(prompt, plans))
            self.on.advance(1)
        for n, strength in enumerate(strengths):
            self.texts[strength] = self.on.damage(self.prompts, [row[n] for row in rows])

    @property
    def too_much(self) -> float | None:
        """The smallest strength whose KL is over the budget: beyond it all are."""
        most = self.on.budget.max_kl
        return next((s for s in sorted(self.readings) if self.readings[s].kl > most), None)

    @property
    def within(self) -> list[float]:
        """The strengths that keep to the budget of KL, and to that of texts where these were
        written."""
        over = self.too_much
        return [
            one
            for one in sorted(self.readings)
            if (over is None or one < over) and (one not in self.texts or self.texts[one].holds)
        ]

    def best_of(self, strengths: Sequence[float]) -> float:
        return max(strengths, key=lambda one: self.on.sign * self.readings[one].concept)

    def rows(self) -> list[StrengthTrial]:
        within = self.within
        return [
            StrengthTrial(
                strength=one,
                concept_logprob=self.readings[one].concept,
                kl=self.readings[one].kl,
                perplexity_ratio=self.texts[one].perplexity_ratio if one in self.texts else None,
                repetition=self.texts[one].repetition if one in self.texts else None,
                within=one in within,
            )
            for one in sorted(self.readings)
        ]


def calibrate(on: Trying, prompts: Sequence[SearchPrompt]) -> tuple[float | None, Trials]:
    """The strength, as a multiple of those given, at which the concept's log-probability is best
    among those whose KL and whose texts keep to the budget; None if there is none.

    A grid of doublings is tried first, then points between the best one and its neighbours, or the
    limit of the budget, in three rounds. Texts are written at the best strength and at weaker
    ones; where none of these holds, at still weaker ones.
    """
    trials = Trials(on, prompts)
    trials.measure(GRID)
    if trials.too_much is None and trials.best_of(trials.within) == GRID[-1]:
        trials.measure(HIGHER)
    if not trials.within:
        trials.measure(LOWER)
    if not trials.within:
        return None, trials
    for _ in range(ROUNDS):
        trials.measure(_finer(trials))
    best = trials.best_of(trials.within)
    for scale in (1.0, WEAKER[-1] ** 2):
        written = [scale * step * best for step in WEAKER]
        trials.measure(written)
        trials.write(written)
        if held := [one for one in written if one in trials.within]:
            return trials.best_of(held), trials
    return None, trials


def _finer(trials: Trials) -> list[float]:
    """Points on both sides of the best strength so far."""
    ordered, within = sorted(trials.readings), trials.within
    place = ordered.index(trials.best_of(within))
    best = ordered[place]
    points = between(ordered[place - 1], best, 1) if place else []
    if place + 1 < len(ordered):
        points += between(best, ordered[place + 1], 3 if best == within[-1] else 1)
    return points
