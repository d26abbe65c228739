"""Calibrated steering: how strongly to push features for a concept, found on some prompts and
measured on others, beside other ways to the same end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp
from statistics import mean

import torch

from saescope.controls import ENOUGH, compare_with
from saescope.errors import ArgumentError
from saescope.models import LanguageModel, Tokens
from saescope.ops import SparseActs
from saescope.progress import Advance, Progress, counting
from saescope.records.controls import Comparison
from saescope.records.search_strength import (
    DamageBudget,
    HeldOutRow,
    LeftOut,
    StrengthSearch,
)
from saescope.saes import SAE
from saescope.search.arms import (
    along,
    in_mode,
    match_kl,
    mean_difference,
    of_equal_norm,
    times,
    without,
)
from saescope.search.calibrate import Trials, Trying, calibrate
from saescope.search.prompts import neutral_prompts
from saescope.search.questions import QUESTIONS
from saescope.search.reading import (
    Reading,
    SearchPrompt,
    SoughtConcept,
    log_perplexity,
    read_instructed,
    read_runs,
)
from saescope.search.usable import judge_strength
from saescope.stack import Stack, as_stack
from saescope.steering.edits import FeatureEdit, check_edits
from saescope.steering.generate import Sampling, repetition_of, write
from saescope.steering.means import t_interval
from saescope.steering.prepare import Plans, distinct, prepare, repeated, units_over
from saescope.steering.units import Controls, IndexedActivations, OneOrEach, Unit, Units
from saescope.verdicts import Judgement, Steerability

MAX_KL = 0.5
MAX_PERPLEXITY = 4.0
CALIBRATING = 1 / 3
"""Share of the prompts on which strengths are tried, where none are named for the rest."""
LEAST = 2
CURVE = (0.25, 0.5, 0.75, 1.5, 2.0)
"""Multiples of the chosen strength that are shown beside it."""
SAME_NORM, SAME_KL = "difference of means, same norm", "difference of means, same KL"
INSTRUCTION = "instruction"
SIGNS = {"raise": 1, "lower": -1}
MOST_PASSES = 20
"""Times that a calibration prompt is written or read: once unsteered, 9 times at most for the
strength, 5 times for each control of equal KL."""
OTHER_MODE = {"add": "clamp", "clamp": "add"}


def steer_search(
    model: LanguageModel,
    sae: SAE | Sequence[SAE],
    edits: Sequence[FeatureEdit],
    *,
    concept: Sequence[str],
    prompts: Sequence[str] = (),
    held_out: Sequence[str] = (),
    texts: Sequence[str] = (),
    against: Sequence[str] = (),
    instruction: str = "",
    sign: str = "raise",
    chat: bool = False,
    max_kl: float = MAX_KL,
    max_perplexity: float = MAX_PERPLEXITY,
    unit: str = "typical",
    reference: OneOrEach[SparseActs] = None,
    indexed: OneOrEach[IndexedActivations] = None,
    max_new_tokens: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> StrengthSearch:
    """Find how strongly to push features (`add` or `clamp`; their strengths are shares of one mix)
    so that the concept becomes more likely, or less (`sign="lower"`), without much damage.

    Strengths are bisected on calibration prompts (a third of `prompts`, or all where `held_out` is
    given; neutral ones without any) to the best concept log-probability within the budget. The one
    chosen is measured once on the other prompts, beside 19 random mixes of equal norm, the
    difference of means of `texts` and `against`, the other mode at the same KL, an instruction, and
    the mix without each feature.

    Raises:
        ArgumentError: an edit, sign, budget or concept that cannot be, or too few prompts.
    """
    stack = as_stack(model, sae)
    _check(stack.as_given, edits, sign, (texts, against))
    asked = _StrengthAsked(
        stack=stack,
        edits=edits,
        concept=SoughtConcept.of(model, concept),
        sign=SIGNS[sign],
        budget=_budget(max_kl, max_perplexity),
        unit=Unit.of(unit, reference, indexed, len(stack.saes)),
        chat=chat,
        instruction=instruction,
        contrast=tuple([read_as(stack, text) for text in side] for side in (texts, against)),
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    return _search(asked, _sides(asked, prompts, held_out), progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _StrengthAsked:
    """What is searched for, and how."""

    stack: Stack
    edits: Sequence[FeatureEdit]
    concept: SoughtConcept
    sign: int
    budget: DamageBudget
    unit: Unit
    chat: bool
    instruction: str
    contrast: tuple[list[Tokens], ...]
    """Texts that have the concept, and texts that lack it."""
    max_new_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class _Sides:
    """The prompts on which strengths are tried, and the others; as text too, for the
    instruction."""

    calibration: list[Tokens]
    held_out: list[Tokens]
    held_out_texts: list[str]
    warnings: list[str]


def read_as(stack: Stack, text: str, *, chat: bool = False) -> Tokens:
    """A text read as the first SAE that says so was trained."""
    says = (sae.cfg.metadata.prepend_bos for sae in stack.as_given)
    bos = next((each for each in says if each is not None), None)
    return stack.model.tokenize(text, prepend_bos=bos, chat=chat)


def _check(
    saes: Sequence[SAE],
    edits: Sequence[FeatureEdit],
    sign: str,
    contrast: tuple[Sequence[str], Sequence[str]],
) -> None:
    check_edits(saes, edits)
    for edit in edits:
        if edit.mode not in OTHER_MODE:
            raise _wrong("mode", edit.mode, [*OTHER_MODE], "has no strength to search for here")
        if edit.positions or edit.when_feature is not None:
            raise _wrong(
                "positions" if edit.positions else "when_feature",
                edit.positions or edit.when_feature,
                "edits at every position that counts",
                "belongs to one prompt or text, not to a search over many",
            )
    if not any(edit.strength for edit in edits):
        raise _wrong("strength", 0, "a share other than 0", "makes no mix")
    if sign not in SIGNS:
        raise _wrong("sign", sign, [*SIGNS], "is no direction")
    texts, against = contrast
    if bool(texts) != bool(against):
        raise ArgumentError(
            "A difference of means takes texts that have the concept and texts that lack it.",
            code="MISSING_ARGUMENT",
            field="against" if texts else "texts",
            hint="Give both texts and against, or neither.",
        )


def _wrong(field: str, got: object, allowed: object, why: str) -> ArgumentError:
    return ArgumentError(
        f"{field}={got!r} {why}.",
        code="INVALID_CHOICE",
        field=field,
        got=got,
        allowed=allowed,
    )


def _budget(max_kl: float, max_perplexity: float) -> DamageBudget:
    for field, value, least in (("max_kl", max_kl, 0.0), ("max_perplexity", max_perplexity, 1.0)):
        if not value > least:
            raise ArgumentError(
                f"{field}={value} leaves nothing to change.",
                code="OUT_OF_RANGE",
                field=field,
                got=value,
                allowed=f"> {least:g}",
                hint="Leave it out for the default.",
            )
    return DamageBudget(max_kl=max_kl, max_perplexity=max_perplexity)


def _sides(asked: _StrengthAsked, prompts: Sequence[str], held_out: Sequence[str]) -> _Sides:
    """Two lists of prompts without one in common."""
    given = [*prompts] or _neutral(asked.chat)
    shown = given
    if not held_out:
        order = torch.randperm(
            len(given), generator=torch.Generator().manual_seed(asked.seed)
        ).tolist()
        n = max(LEAST, round(CALIBRATING * len(given)))
        shown, held_out = [given[i] for i in order[:n]], [given[i] for i in order[n:]]
    tried, _ = distinct([read_as(asked.stack, text, chat=asked.chat) for text in shown])
    read = [read_as(asked.stack, text, chat=asked.chat) for text in held_out]
    once, places = distinct(read)
    seen = {tuple(tokens.ids.tolist()) for tokens in tried}
    kept = [n for n, tokens in enumerate(once) if tuple(tokens.ids.tolist()) not in seen]
    both = len(once) - len(kept)
    for side, n in (("prompts", len(tried)), ("held_out", len(kept))):
        if n < LEAST:
            raise ArgumentError(
                f"There are {n} {'calibration' if side == 'prompts' else 'held-out'} prompts.",
                code="TOO_FEW_PROMPTS",
                field=side,
                got=n,
                allowed=f"{LEAST} on each side; 5 and 10 tell more",
                hint="Give more prompts, or none: neutral ones are taken then.",
            )
    return _Sides(
        tried,
        [once[n] for n in kept],
        [held_out[places.index(n)] for n in kept],
        [
            *repeated(places),
            *([f"{both} held-out prompts are calibration prompts too: left out."] * (both > 0)),
        ],
    )


def _neutral(chat: bool) -> list[str]:
    return [*QUESTIONS] if chat else neutral_prompts()[: len(QUESTIONS)]


def _search(asked: _StrengthAsked, sides: _Sides, progress: Progress | None) -> StrengthSearch:
    n_cal, n_held = len(sides.calibration), len(sides.held_out)
    total = MOST_PASSES * n_cal + 2 * n_held
    advance = counting(progress, total)
    everything = [*sides.calibration, *sides.held_out]
    ready = _ready(asked, everything, advance)
    cal, held = ready[:n_cal], ready[n_cal:]
    on = Trying(
        stack=asked.stack,
        concept=asked.concept,
        sign=asked.sign,
        budget=asked.budget,
        max_new_tokens=asked.max_new_tokens,
        advance=advance,
    )
    strength, trials = calibrate(on, cal)
    measured = _HeldOut(on, asked, cal, held, sides.held_out_texts)
    found = measured.around(strength, trials)
    if progress is not None:
        progress(total, total)
    warnings = [*sides.warnings, *_few(n_held), *ready[0].ready.units.warnings]
    return replace(found, warnings=[*warnings, *found.warnings])


def _few(n_held: int) -> list[str]:
    if n_held >= 5:
        return []
    return [f"{n_held} held-out prompts: the intervals are wide; 10 or more tell more."]


def _ready(
    asked: _StrengthAsked, prompts: Sequence[Tokens], advance: Advance
) -> list[SearchPrompt]:
    """Each prompt with its unsteered text, and the edits with one unit and the same random features
    for all."""
    stack, made = asked.stack, list[SearchPrompt]()
    sampling = Sampling(max_new_tokens=asked.max_new_tokens, seeds=[0])
    units = units_over(stack, prompts, asked.unit)
    for tokens, unit in zip(prompts, units, strict=True):
        controls = Controls(ENOUGH, asked.seed)
        ready = prepare(stack, tokens, asked.edits, unit=unit, controls=controls)
        (written,) = write(stack, tokens.ids, [{}], sampling=sampling)
        made.append(SearchPrompt(tokens, written, ready))
        advance(1)
    return made


PlansOn = Callable[[SearchPrompt], Plans]


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to bring the concept about, and whether texts are written with it."""

    arm: str
    strength: float | None
    plans: PlansOn
    writes: bool = False


@dataclass(frozen=True, slots=True)
class _WayEffects:
    """What one way does on each held-out prompt."""

    readings: list[Reading]
    texts: list[list[int]]
    """Empty where none were written."""

    @property
    def changes(self) -> list[float]:
        return [reading.concept for reading in self.readings]


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """The prompts that no strength was chosen on."""

    on: Trying
    asked: _StrengthAsked
    calibration: list[SearchPrompt]
    prompts: list[SearchPrompt]
    texts: list[str]

    def around(self, strength: float | None, trials: Trials) -> StrengthSearch:
        """The strength beside the controls; the unsteered model alone where there is none."""
        ours = (
            [
                _Way(f"{factor:g} x", factor * strength, self._at(factor * strength), writes=True)
                for factor in (1.0, *CURVE)
            ]
            if strength is not None
            else []
        )
        others = self._others(strength, trials) if strength is not None else []
        left_out = self._left_out(strength) if strength is not None else []
        random = self._random(strength) if strength is not None else []
        ways = [*ours, *others, *left_out, *random]
        levels, found = self._measure(ways)
        return self._report(strength, trials, levels, dict(zip(ways, found, strict=True)))

    def _at(self, strength: float) -> PlansOn:
        return lambda prompt: times(prompt.ready.plans, strength)

    def _others(self, strength: float, trials: Trials) -> list[_Way]:
        """The other mode at the same KL on the calibration prompts, and the difference of means."""
        kl, at = trials.readings[strength].kl, self._at(strength)
        mode = OTHER_MODE[self.asked.edits[0].mode]
        other = self._as_strong(lambda prompt: in_mode(at(prompt), mode), kl)
        ways = [_Way(f"{mode}, same KL", strength * other[0], other[1])]
        if not self.asked.contrast[0]:
            return ways
        stack = self.asked.stack
        directions = mean_difference(stack, *self.asked.contrast)
        if self.asked.sign < 0:
            directions = {i: -each for i, each in directions.items()}

        def beside(prompt: SearchPrompt) -> Plans:
            return along(at(prompt), directions)

        same = self._as_strong(beside, kl)
        return [
            *ways,
            _Way(SAME_NORM, 1.0, beside),
            _Way(SAME_KL, same[0], same[1], writes=True),
        ]

    def _as_strong(self, plans: PlansOn, kl: float) -> tuple[float, PlansOn]:
        """The factor at which these plans have that KL on the calibration prompts."""

        def kl_of(factors: Sequence[float]) -> list[float]:
            found = self.on.means(
                self.calibration, lambda prompt: [times(plans(prompt), one) for one in factors]
            )
            return [reading.kl for reading in found]

        factor = match_kl(kl_of, kl)
        return factor, lambda prompt: times(plans(prompt), factor)

    def _left_out(self, strength: float) -> list[_Way]:
        stack, edits, at = self.asked.stack, self.asked.edits, self._at(strength)
        if len(edits) < 2:
            return []

        def all_but(n: int) -> PlansOn:
            return lambda prompt: without(stack, at(prompt), edits, n)

        return [_Way(f"without {n}", strength, all_but(n)) for n in range(len(edits))]

    def _random(self, strength: float) -> list[_Way]:
        def draw(n: int) -> PlansOn:
            return lambda prompt: of_equal_norm(
                self._at(strength)(prompt), times(prompt.ready.controls[n], strength)
            )

        n_drawn = min(len(prompt.ready.controls) for prompt in self.prompts)
        return [_Way(f"random {n}", strength, draw(n)) for n in range(n_drawn)]

    def _measure(self, ways: Sequence[_Way]) -> tuple[list[float], list[_WayEffects]]:
        """The concept's log-probability in the unsteered model on each prompt, and what each way
        does."""
        levels, readings, written = list[float](), list[list[Reading]](), list[list[list[int]]]()
        writing = [way for way in ways if way.writes]
        for prompt in self.prompts:
            plans = [way.plans(prompt) for way in ways] or [{}]
            read = read_runs(self.asked.stack, prompt, plans, self.asked.concept)
            levels.append(read.level)
            readings.append(read.runs)
            rows = [way.plans(prompt) for way in writing]
            written.append(self.on.write(prompt, rows) if rows else [])
            self.on.advance(1)
        return levels, [
            _WayEffects(
                [runs[n] for runs in readings],
                [rows[writing.index(way)] for rows in written] if way.writes else [],
            )
            for n, way in enumerate(ways)
        ]

    def _instructed(self) -> "tuple[_Way, _WayEffects] | None":
        """The unsteered model with the instruction before each prompt."""
        asked, told = self.asked, list[Reading]()
        if not asked.instruction:
            return None
        rows: list[list[int]] = []
        for prompt, text in zip(self.prompts, self.texts, strict=True):
            tokens = read_as(asked.stack, f"{asked.instruction}\n\n{text}", chat=asked.chat)
            told.append(read_instructed(asked.stack.model, prompt, tokens, asked.concept))
            sampling = Sampling(max_new_tokens=asked.max_new_tokens, seeds=[0])
            rows += write(asked.stack, tokens.ids, [{}], sampling=sampling)
        return _Way(INSTRUCTION, None, lambda prompt: {}), _WayEffects(told, rows)

    def _report(
        self,
        strength: float | None,
        trials: Trials,
        levels: Sequence[float],
        found: "dict[_Way, _WayEffects]",
    ) -> StrengthSearch:
        named = {way.arm: (way, done) for way, done in found.items()}
        told = self._instructed()
        shown = [*found.items(), *([told] if told else [])]
        ours = named["1 x"][1] if strength is not None else None
        rows = {way.arm: self._row(way, done, ours) for way, done in shown}
        random = _beside(ours, [done for way, done in shown if way.arm.startswith("random ")])
        steered = rows.get("1 x")
        controls = [
            row
            for arm, row in rows.items()
            if not arm.startswith(("random ", "without ")) and not arm.endswith(" x")
        ]
        baseline = self._baseline(levels)
        units: Units = self.prompts[0].ready.units
        return StrengthSearch(
            verdict=self._verdict(steered, ours, random, controls, baseline),
            strength=strength,
            steered=steered and replace(steered, arm="steered"),
            random=random,
            curve=tuple(
                sorted(
                    (row for arm, row in rows.items() if arm.endswith(" x") and row is not steered),
                    key=lambda row: row.strength or 0.0,
                )
            ),
            controls=tuple(controls),
            leave_one_out=tuple(self._lost(ours, named)) if ours else (),
            baseline=baseline,
            unit_values=tuple(units.values),
            unit_source=units.source,
            budget=self.asked.budget,
            trials=tuple(trials.rows()),
            n_trials=len(trials.readings),
            n_calibration=len(self.calibration),
            n_held_out=len(self.prompts),
            prompt=self.texts[0],
            baseline_text=self._text(self.prompts[0].written),
            steered_text=self._text(ours.texts[0]) if ours else "",
        )

    def _verdict(
        self,
        steered: HeldOutRow | None,
        ours: "_WayEffects | None",
        random: Comparison,
        controls: Sequence[HeldOutRow],
        baseline: HeldOutRow,
    ) -> Judgement[Steerability]:
        holds = bool(ours) and self.on.damage(self.prompts, ours.texts).holds
        return judge_strength(
            steered,
            random,
            [row for row in controls if row.arm in (SAME_KL, INSTRUCTION)],
            baseline.concept_logprob,
            sign=self.asked.sign,
            holds=holds and bool(steered) and steered.kl <= self.asked.budget.max_kl,
        )

    def _row(self, way: _Way, done: _WayEffects, ours: _WayEffects | None) -> HeldOutRow:
        ahead = None
        if ours is not None and done is not ours:
            pairs = zip(ours.changes, done.changes, strict=True)
            ahead = t_interval([self.asked.sign * (one - other) for one, other in pairs])
        return HeldOutRow(
            arm=way.arm,
            strength=way.strength,
            concept_logprob=mean(done.changes),
            interval=t_interval(done.changes),
            kl=mean(reading.kl for reading in done.readings),
            perplexity=self._perplexity(done.texts),
            repetition=mean(repetition_of(row) for row in done.texts) if done.texts else None,
            ahead=ahead,
        )

    def _baseline(self, levels: Sequence[float]) -> HeldOutRow:
        texts = [prompt.written for prompt in self.prompts]
        return HeldOutRow(
            arm="baseline",
            strength=None,
            concept_logprob=mean(levels),
            interval=t_interval(levels),
            kl=0.0,
            perplexity=self._perplexity(texts),
            repetition=mean(repetition_of(row) for row in texts),
            ahead=None,
        )

    def _perplexity(self, texts: Sequence[Sequence[int]]) -> float | None:
        """The geometric mean over prompts."""
        model = self.asked.stack.model
        logs = [
            log_perplexity(model, prompt.tokens, row)
            for prompt, row in zip(self.prompts, texts, strict=bool(texts))
        ]
        known = [each for each in logs if each is not None]
        return exp(mean(known)) if known else None

    def _lost(
        self, ours: _WayEffects, named: "dict[str, tuple[_Way, _WayEffects]]"
    ) -> list[LeftOut]:
        lost: list[LeftOut] = []
        for n, edit in enumerate(self.asked.edits):
            if (found := named.get(f"without {n}")) is None:
                continue
            others = found[1]
            apart = [a - b for a, b in zip(ours.changes, others.changes, strict=True)]
            lost.append(
                LeftOut(
                    sae=edit.sae,
                    feature=edit.feature,
                    without=mean(others.changes),
                    lost=mean(apart),
                    interval=t_interval(apart),
                    kl=mean(reading.kl for reading in others.readings),
                )
            )
        return lost

    def _text(self, row: Sequence[int]) -> str:
        return self.asked.stack.model.tokenizer.join(row)


def _beside(ours: _WayEffects | None, random: Sequence[_WayEffects]) -> Comparison:
    if ours is None:
        return compare_with(0.0, [])
    return compare_with(mean(ours.changes), [mean(each.changes) for each in random])
