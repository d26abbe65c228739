"""The features that make a concept likelier: all of them by one gradient, the best by pushes."""

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

import torch

from saescope.controls import ENOUGH, LEVEL, at_least, compare_with
from saescope.errors import ArgumentError
from saescope.models import LanguageModel, Tokens
from saescope.ops import SparseActs
from saescope.progress import Progress
from saescope.records.controls import Comparison
from saescope.records.search import CausalSets, Cause, ControlScores, FoundCauses
from saescope.saes import SAE
from saescope.search.bench import KL, LEAST_PROMPTS, CausalBench, Curve
from saescope.search.concept import ConceptTexts
from saescope.steering.judge import is_beyond
from saescope.steering.units import IndexedActivations

N_MEASURED = 20
"""Features that are pushed: the best by gradient."""
SIGNS = {"raise": 1, "lower": -1}
SCORE_IS = (
    "effect on the concept's log-probability per nat of KL, at a push that changes predictions by "
    f"{KL:g} nats"
)


class Against(NamedTuple):
    """Scores of both kinds of controls, turned so that up is what is asked for."""

    features: list[float]
    directions: list[float]


class Tested(NamedTuple):
    """A curve beside its controls."""

    curve: Curve
    features: Comparison
    directions: Comparison
    causes: bool

    @property
    def p(self) -> float | None:
        known = [each.p for each in (self.features, self.directions) if each.p is not None]
        return max(known) if known else None


def tested(curve: Curve, beside: Against, sign: int) -> Tested:
    """Outside both kinds of controls, with an interval on one side of zero where there is one."""
    score = sign * curve.score
    features, directions = (compare_with(score, controls) for controls in beside)
    ends = curve.interval
    clear = ends is None or min(sign * ends[0], sign * ends[1]) > 0
    both = is_beyond(score, features) and is_beyond(score, directions)
    return Tested(curve, features, directions, both and clear and score > 0)


def find_causes(
    model: LanguageModel,
    sae: SAE,
    causes: Sequence[str] = (),
    *,
    prompts: Sequence[Tokens] = (),
    over: Sequence[str] = (),
    metric: str = "logprob",
    sign: str = "raise",
    reference: SparseActs | None = None,
    indexed: IndexedActivations | None = None,
    n_measured: int = N_MEASURED,
    k: int = 10,
    offset: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> FoundCauses:
    """The features that raise (or lower) the log of the summed probability of tokens or
    continuations after neutral prompts: all features by the gradient where the SAE writes, silent
    ones too, then the best by real pushes at three strengths, each compared at the same KL.

    A push is added at every position that counts, as in steering. `causes`, one token or several
    each, are teacher-forced; `over` are texts that they are to gain on. A feature "causes" if its
    score is outside those of 19 random features and of 19 random directions that are the best by
    gradient of as many as there are features, and its interval over the prompts does not hold 0.
    `metric="repetition"` asks which make the model say a prompt again.

    Raises:
        ArgumentError: nothing to search for, an unknown sign or metric, or a prompt without a
            token that counts.
    """
    turn = _turn(sign)
    concept = ConceptTexts.of(model, causes, over=over, metric=metric)
    bench = CausalBench.of(
        model, sae, concept, prompts, fired=(reference, indexed), draw=(turn, seed)
    )
    order, first = bench.screen.order, max(n_measured, offset + k)
    n_free = max(1, int((bench.along[1] > 0).sum()) - ENOUGH)
    best = order[: min(n_measured, n_free)]
    results, beside = measure(bench, best, progress)
    rows = [_row(bench, feature, results.get(feature)) for feature in order[:first]]
    rows.sort(key=lambda row: _rank(row, bench.sign))
    return FoundCauses(
        features=rows[offset : offset + k],
        total=len(order),
        score_is=SCORE_IS,
        search=sets_of(bench, concept, [*results.values()], beside),
        warnings=warnings_of(bench, best) + by_chance([each.causes for each in results.values()]),
    )


def by_chance(causes: Sequence[bool]) -> list[str]:
    """A warning where so few of the features pass that as many may do so if none does anything:
    each is compared by itself, and of twenty that do nothing one passes."""
    n = sum(causes)
    if not n or at_least(n, len(causes)) <= LEVEL:
        return []
    return [
        f"{n} of {len(causes)} may pass by chance, for each is tested at p = {LEVEL:g}: "
        "measure it on other prompts before you rely on it."
    ]


def _turn(sign: str) -> int:
    """What effects are multiplied with, so that up is what is asked for."""
    if sign not in SIGNS:
        raise ArgumentError(
            f"Sign {sign!r} is unknown.",
            code="INVALID_CHOICE",
            field="sign",
            got=sign,
            allowed=[*SIGNS],
        )
    return SIGNS[sign]


def measure(
    bench: CausalBench, features: Sequence[int], progress: Progress | None
) -> tuple[dict[int, Tested], Against]:
    """Push these features, and the controls, and compare."""
    if not features:
        return {}, Against([], [])
    parts = [bench.vectors(features), bench.random_features(features), bench.random_directions()]
    curves = bench.curves(torch.cat(parts), n_fine=len(features), progress=progress)
    n, n_random = len(features), len(parts[1])
    scores = [bench.sign * curve.score for curve in curves]
    beside = Against(scores[n : n + n_random], scores[n + n_random :])
    pairs = zip(features, curves, strict=False)
    return {i: tested(curve, beside, bench.sign) for i, curve in pairs}, beside


def _rank(row: Cause, sign: int) -> tuple[bool, bool, float]:
    """Causes first, then what was measured, the rest in the order of the screen."""
    return row.causes is None, not row.causes, -sign * row.score if row.causes is not None else 0.0


def _row(bench: CausalBench, feature: int, found: Tested | None) -> Cause:
    screen, equal = bench.screen.typical[feature], bench.screen.equal_norm[feature]
    curve = found and found.curve
    ends = curve.interval if curve else None
    return Cause(
        feature=feature,
        score=curve.score if curve else float(screen),
        why=_why(float(screen), found, bench.sign),
        screen=float(screen),
        equal_norm=float(equal),
        strengths=curve.strengths if curve else [],
        effects=curve.concept.mean(1).tolist() if curve else [],
        kl=curve.kl.mean(1).tolist() if curve else [],
        strength=curve.at.strength if curve else None,
        interval=ends,
        p=found and found.p,
        causes=found and found.causes,
        fires=bool(bench.fires[feature]),
    )


def _why(screen: float, found: Tested | None, sign: int) -> str:
    if found is None:
        return f"{screen:+.2g} nats to first order; not pushed, for others have more"
    score, ends = found.curve.score, found.curve.interval
    between = f" ({ends[0]:+.2g} to {ends[1]:+.2g})" if ends else ""
    said = f"{score:+.2g} nats per nat of KL{between}"
    beside = " and ".join(
        f"{sign * control.mean:+.2g} on average of {control.n} {name}"
        for name, control in (
            ("random features", found.features),
            ("best random directions", found.directions),
        )
        if control.mean is not None
    )
    if found.causes:
        return f"{said}, {beside}"
    return f"{said}: not clearly more than controls ({beside or 'there are none'})"


def sets_of(
    bench: CausalBench, concept: ConceptTexts, found: Sequence[Tested], beside: Against
) -> CausalSets:
    return CausalSets(
        concept=concept.words,
        n_prompts=bench.read.n_prompts,
        n_measured=len(found),
        n_causes=sum(each.causes for each in found),
        kl=KL,
        random_features=_control(beside.features, bench.sign),
        random_directions=_control(beside.directions, bench.sign),
    )


def _control(turned: Sequence[float], sign: int) -> ControlScores:
    """Scores that were turned so that up is what is asked for, as they are."""
    return ControlScores(
        n=len(turned),
        mean=sign * mean(turned) if turned else None,
        best=sign * max(turned) if turned else None,
    )


def warnings_of(bench: CausalBench, features: Sequence[int]) -> list[str]:
    """What is to be said of few prompts, and of features that nobody saw fire."""
    said: list[str] = []
    n = bench.read.n_prompts
    if n < LEAST_PROMPTS:
        said.append(
            f"{n} prompt{'s' * (n > 1)} only: there is no interval over prompts, and what holds "
            f"here may hold nowhere else. Give at least {LEAST_PROMPTS}, better 20."
        )
    silent = sum(not bench.fires[feature] for feature in features)
    if silent:
        known = bench.known
        where = f"{known.indexed.corpus} or {known.texts}" if known.indexed else known.texts
        said.append(
            f"{silent} of the {len(features)} features measured fired nowhere on {where}: their "
            "strength 1 is the median of those that did. ss.index_features gives their own."
        )
    return said
