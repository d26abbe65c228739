"""One feature or a few for a concept: what separates texts joined with what a push does, so that
neither alone decides."""

from collections.abc import Sequence
from dataclasses import replace
from math import exp, sqrt

import torch

from saescope.errors import ArgumentError
from saescope.features.contrast.sets import each_once
from saescope.models import LanguageModel, Tokens, counted
from saescope.ops import SparseActs
from saescope.progress import Progress
from saescope.records.search import FeatureGroup, SelectedFeature, Selection, SelectionFacts
from saescope.saes import SAE
from saescope.search.bench import CausalBench
from saescope.search.causes import (
    Against,
    Tested,
    by_chance,
    measure,
    sets_of,
    tested,
    warnings_of,
)
from saescope.search.choice_texts import faults_of
from saescope.search.concept import ConceptTexts, ForcedText
from saescope.search.pushes import push, read_texts
from saescope.search.text_bench import LEAST_AREA, N_CAUSAL, Separated, TextBench
from saescope.steering.units import IndexedActivations
from saescope.verdicts import Choice

N_POOLED, MOST_GROUPED = 6, 5
"""Features that groups are made of, and of one group."""
GAIN, ENOUGH_GAIN = 1.1, 1.25
"""By which a further feature has to raise a group's effect, and a group that of the best alone."""
N_NEUTRAL, LONGEST = 8, 48
"""Texts, and their tokens, on which damage is measured."""
N_DAMAGE = 5
SCORE_IS = (
    "effect per nat of KL as a share of the best one's, times the root of 2 AUC - 1; what both "
    "causes and separates comes first, of these what is clean, then what causes"
)


def select_features(
    model: LanguageModel,
    sae: SAE,
    texts: Sequence[Tokens],
    *,
    against: Sequence[Tokens],
    causes: Sequence[str],
    prompts: Sequence[Tokens] = (),
    reference: SparseActs | None = None,
    indexed: IndexedActivations | None = None,
    k: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Selection:
    """The feature that both fires on the texts of a concept and makes its tokens likelier, the
    others with the reason why not, a group where one is not enough, or none.

    `against` are hard negatives and neutral texts; a text scores the mean of its three largest
    activations. Candidates are the best of all features by gradient (as `ss.find_causes`) and the
    best by the texts; all are pushed. A feature has to cause *and* to separate to be chosen, nearly
    all texts and without firing on others as well: what separates best does not outvote what a push
    shows.

    Raises:
        ArgumentError: no text on a side, or as `ss.find_causes`.
    """
    texts, against, repeated = _different(texts, against)
    concept = ConceptTexts.of(model, causes, over=(), metric="logprob")
    fired = (reference, indexed)
    bench = CausalBench.of(model, sae, concept, prompts, fired=fired, draw=(1, seed))
    told = TextBench.of(model, sae, texts, against, seed=seed)
    by_gradient = bench.screen.order[:N_CAUSAL]
    candidates = [*dict.fromkeys([*by_gradient, *told.by_texts])]
    results, beside = measure(bench, candidates, progress)
    separated = {i: told.judged(i, by_texts=i not in by_gradient) for i in results}
    rows = _ranked(results, separated)
    group = _group(bench, told, _pool(rows, separated), beside, results)
    rows = _with_damage(bench, rows, against)
    level, why = _verdict(rows, group, separated)
    scores = told.scores.scores
    faults = faults_of(model, texts, against, design=told.design, scores=scores, seed=seed)
    return Selection(
        features=rows[:k],
        total=len(rows),
        score_is=SCORE_IS,
        why=why,
        choice=SelectionFacts(verdict=level.value, group=group, faults=faults),
        search=sets_of(bench, concept, [*results.values()], beside),
        warnings=[*repeated, *warnings_of(bench, candidates), *_by_chance(results, separated)],
    )


def _by_chance(results: dict[int, Tested], separated: dict[int, Separated]) -> list[str]:
    """A choice is made of what separates: only these may cause by chance and be chosen."""
    able = [each.causes for i, each in results.items() if separated[i].clear]
    return by_chance(able, " that separate")


def _different(
    texts: Sequence[Tokens], against: Sequence[Tokens]
) -> tuple[list[Tokens], list[Tokens], list[str]]:
    """Each text of a side once, and what is to be said of the others."""
    once = each_once(texts, against)
    n = min(len(once.texts), len(once.against))
    if n < 2:
        raise ArgumentError(
            "A choice needs at least two different texts on each side.",
            code="TOO_FEW_TEXTS",
            field="texts",
            got=n,
            allowed="2 or more; 8 to hold a half out, better 30",
            hint="Write texts with the concept and texts like them without it.",
        )
    return [texts[i] for i in once.texts], [against[i] for i in once.against], once.warnings


def _ranked(results: dict[int, Tested], separated: dict[int, Separated]) -> list[SelectedFeature]:
    """What causes and separates first, the clean ones at the top, then what causes, then the rest;
    within each by both."""
    best = max((each.curve.score for each in results.values()), default=0.0)
    rows = [_row(i, each, separated[i], best) for i, each in results.items()]
    rows.sort(key=lambda row: (not _is_good(row), not _does_both(row), not row.causes, -row.score))
    return [
        replace(row, lost=_lost(row, rows[0], separated[row.feature]) if n else None)
        for n, row in enumerate(rows)
    ]


def _does_both(row: SelectedFeature) -> bool:
    return row.causes and row.separates


def _is_good(row: SelectedFeature) -> bool:
    return row.causes and row.clean


def _row(feature: int, found: Tested, told: Separated, best: float) -> SelectedFeature:
    effect = found.curve.score
    share = max(0.0, effect) / best if best > 0 else 0.0
    ends = f" ({told.interval[0]:.2f} to {told.interval[1]:.2f})"
    does = "causes" if found.causes else "moves no further than controls:"
    return SelectedFeature(
        feature=feature,
        score=share * sqrt(max(0.0, 2 * told.auc - 1)),
        why=f"{does} {effect:+.2g} nats per nat of KL; AUC {told.auc:.2f}{ends}",
        auc=told.auc,
        auc_interval=told.interval,
        separates=told.clear,
        also_on=told.also_on,
        clean=told.clean,
        effect=effect,
        interval=found.curve.interval,
        causes=found.causes,
        strength=found.curve.at.strength,
        perplexity=None,
        lost=None,
    )


def _lost(row: SelectedFeature, first: SelectedFeature, told: Separated) -> str:
    """Why it is not the first."""
    if not row.causes and not row.separates:
        return "neither clearly makes the concept likelier nor clearly tells the texts apart"
    if not row.causes:
        return (
            "fires on the concept but does not clearly write it "
            f"({row.effect:+.2g} per nat of KL, no further than controls)"
        )
    if not row.separates:
        silent = "never fires on the texts" if not told.share else "hardly tells them from against"
        return f"writes the concept but {silent} (AUC {row.auc:.2f})"
    if not row.clean:
        return f"does both, but {_unclean(told)}"
    if row.effect < first.effect:
        return f"weaker: {row.effect:+.2g} per nat of KL against {first.effect:+.2g}"
    return f"tells the texts less well: AUC {row.auc:.2f} against {first.auc:.2f}"


def _unclean(told: Separated) -> str:
    """Why it does not stand for the concept alone, or for all of it."""
    if not told.keeps_off:
        return (
            f"fires at least half as strongly on {told.also_on} of {told.n_against} of against as "
            "well"
        )
    on = f": it fires on {told.share:.0%} of texts" if told.share < 1 else ""
    return (
        f"tells the texts from against with an AUC of {told.auc:.2f} only ({LEAST_AREA:g} is asked "
        f"for){on}"
    )


def _pool(
    rows: Sequence[SelectedFeature], separated: dict[int, Separated]
) -> list[SelectedFeature]:
    """The first features that a group may be made of: none that fires on other texts as well."""
    able = [row for row in rows if row.effect > 0 and row.separates]
    return [row for row in able if separated[row.feature].keeps_off][:N_POOLED]


def _group(
    bench: CausalBench,
    told: TextBench,
    pool: Sequence[SelectedFeature],
    beside: Against,
    results: dict[int, Tested],
) -> FeatureGroup | None:
    """Features of the pool added one by one while the effect at the same KL rises; None where the
    best alone does nearly as much."""
    if len(pool) < 2:
        return None
    pool = sorted(pool, key=lambda row: -row.effect)
    unit = {row.feature: row.strength * bench.vectors([row.feature])[0] for row in pool}
    members, alone = [pool[0].feature], pool[0].effect
    best, found = alone, results[pool[0].feature]
    while len(members) < MOST_GROUPED:
        others = [row.feature for row in pool if row.feature not in members]
        if not others:
            break
        together = torch.stack(
            [torch.stack([unit[i] for i in [*members, each]]).sum(0) for each in others]
        )
        curves = bench.curves(together, n_fine=len(others), progress=None)
        place = max(range(len(others)), key=lambda n: curves[n].score)
        if curves[place].score < GAIN * best:
            break
        members, best = [*members, others[place]], curves[place].score
        found = tested(curves[place], beside, bench.sign)
    if len(members) < 2 or best < ENOUGH_GAIN * alone:
        return None
    column = sum(
        (told.column(i) / float(bench.units[i]) for i in members), torch.zeros(()).double()
    )
    strength = {row.feature: row.strength for row in pool}
    together = told.separates(column, None, by_texts=True)
    return FeatureGroup(
        features=members,
        strengths=[found.curve.at.strength * strength[i] for i in members],
        effect=best,
        interval=found.curve.interval,
        auc=together.auc,
        clean=together.auc >= LEAST_AREA and together.keeps_off,
        causes=found.causes,
    )


def _with_damage(
    bench: CausalBench, rows: Sequence[SelectedFeature], against: Sequence[Tokens]
) -> list[SelectedFeature]:
    """The first few with what their push does to the perplexity of plain texts."""
    shown = rows[:N_DAMAGE]
    plain = [_whole(n, tokens) for n, tokens in enumerate(_neutral(against))]
    if not shown or not plain:
        return [*rows]
    read = read_texts(bench.read.stack, plain)
    strengths = torch.tensor([row.strength for row in shown])
    vectors = strengths[:, None] * bench.vectors([row.feature for row in shown])
    losses = -push(read, vectors, lambda n: None).concept.mean(1)
    known = [
        replace(row, perplexity=exp(float(loss))) for row, loss in zip(shown, losses, strict=True)
    ]
    return [*known, *rows[N_DAMAGE:]]


def _neutral(against: Sequence[Tokens]) -> list[Tokens]:
    return [tokens for tokens in against if len(tokens) > 2][:N_NEUTRAL]


def _whole(n: int, tokens: Tokens) -> ForcedText:
    """A plain text whose every token is predicted."""
    ids = tokens.ids[: LONGEST + 1]
    size = len(ids) - 1
    return ForcedText(
        prompt=n,
        ids=ids[:-1],
        usual=counted(tokens)[:size],
        n_prompt=size,
        n_out=size,
        at=torch.arange(size),
        tokens=ids[1:],
        weights=torch.full((size,), 1 / size, dtype=torch.float64),
    )


def _verdict(
    rows: Sequence[SelectedFeature],
    group: FeatureGroup | None,
    separated: dict[int, Separated],
) -> tuple[Choice, str]:
    """What to take, and why."""
    if group and group.causes and group.clean:
        return Choice.GROUP, (
            f"{len(group.features)} features together ({', '.join(map(str, group.features))}) do "
            f"clearly more than the best of them alone: {group.effect:+.2g} nats per nat of KL"
        )
    if rows and _is_good(rows[0]):
        first = rows[0]
        return Choice.ONE, (
            f"feature {first.feature} fires on the concept (AUC {first.auc:.2f}) and makes it "
            f"likelier ({first.effect:+.2g} nats per nat of KL, beyond controls)"
        )
    if rows and _does_both(rows[0]):
        told = separated[rows[0].feature]
        return Choice.NONE, (
            f"feature {rows[0].feature} makes the concept likelier, but {_unclean(told)}"
            f"{_perhaps(told)}"
        )
    return Choice.NONE, f"no feature both fires on the concept and makes it likelier{_halves(rows)}"


def _perhaps(told: Separated) -> str:
    """What that may mean, where the texts speak for one thing."""
    if not told.keeps_off:
        return "; it may stand for more than the concept, or a text is on the wrong side"
    if told.share < LEAST_AREA:
        return "; it may stand for a part of the concept, or a text is on the wrong side"
    return ""


def _halves(rows: Sequence[SelectedFeature]) -> str:
    """The best that does one of the two alone."""
    writer = next((row for row in rows if row.causes), None)
    reader = next((row for row in rows if row.separates), None)
    parts = [
        f"feature {row.feature} {what}"
        for row, what in (
            (writer, "writes the concept's tokens, but does not clearly fire on it"),
            (reader, "fires on it, but does not clearly write them"),
        )
        if row
    ]
    return f" ({'; '.join(parts)})" if parts else ""
