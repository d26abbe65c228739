"""One feature or a few for a concept: what separates texts joined with what a push does, so that
neither alone decides."""

from collections.abc import Sequence
from dataclasses import replace
from math import exp, sqrt
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.controls import LEVEL
from saescope.errors import ArgumentError
from saescope.features.contrast.sets import each_once
from saescope.models import LanguageModel, Tokens, counted
from saescope.ops import SparseActs
from saescope.progress import Progress
from saescope.records.search import FeatureGroup, SelectedFeature, Selection, SelectionFacts
from saescope.saes import SAE
from saescope.search.bench import CausalBench, Curve
from saescope.search.causes import Against, Tested, measure, sets_of, tested, warnings_of
from saescope.search.choice_texts import faults_of
from saescope.search.concept import ConceptTexts, ForcedText
from saescope.search.others import OtherWords
from saescope.search.pushes import push, read_texts
from saescope.search.standing import Standing, chance_of, shared_words, standings
from saescope.search.text_bench import LEAST_AREA, N_CAUSAL, TextBench
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
    all texts and without firing on others as well.

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
    others = OtherWords.of(model, texts, against, concept=concept.texts)
    found = {i: (results[i], told.judged(i, by_texts=i not in by_gradient)) for i in results}
    stand = standings(bench, told, others, found, beside)
    rows = _ranked(results, stand)
    group = _group(bench, told, others, _pool(rows, stand), (beside, results))
    rows = _with_damage(bench, rows, against)
    scores, (level, why) = told.scores.scores, _verdict(rows, group, stand)
    faults = faults_of(model, texts, against, design=told.design, scores=scores, seed=seed)
    return Selection(
        features=rows[:k],
        total=len(rows),
        score_is=SCORE_IS,
        why=why,
        choice=SelectionFacts(verdict=level.value, group=group, faults=faults),
        search=sets_of(bench, concept, [*results.values()], beside),
        warnings=repeated + warnings_of(bench, candidates),
    )


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


def _ranked(results: dict[int, Tested], stand: dict[int, Standing]) -> list[SelectedFeature]:
    """What causes and separates first, the clean ones at the top, then what causes, then the rest;
    within each by both."""
    best = max((each.curve.score for each in results.values()), default=0.0)
    rows = [_row(i, each, stand[i], best) for i, each in results.items()]
    rows.sort(key=lambda row: (not _is_good(row), not _does_both(row), not row.causes, -row.score))
    return [
        replace(row, lost=_lost(row, rows[0], stand[row.feature]) if n else None)
        for n, row in enumerate(rows)
    ]


def _does_both(row: SelectedFeature) -> bool:
    return row.causes and row.separates


def _is_good(row: SelectedFeature) -> bool:
    return row.causes and row.clean and not (row.chance or 0) > LEVEL


def _row(feature: int, found: Tested, stand: Standing, best: float) -> SelectedFeature:
    effect, told = found.curve.score, stand.told
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
        also_writes=stand.shared and stand.shared.share,
        clean=stand.clean,
        effect=effect,
        interval=found.curve.interval,
        causes=found.causes,
        chance=stand.chance,
        strength=found.curve.at.strength,
        perplexity=None,
        lost=None,
    )


def _lost(row: SelectedFeature, first: SelectedFeature, stand: Standing) -> str:
    """Why it is not the first."""
    if not row.causes and not row.separates:
        return "neither clearly makes the concept likelier nor clearly tells the texts apart"
    if not row.causes:
        return (
            "fires on the concept but does not clearly write it "
            f"({row.effect:+.2g} per nat of KL, no further than controls)"
        )
    if not row.separates:
        silent = (
            "never fires on the texts" if not stand.told.share else "hardly tells them from against"
        )
        return f"writes the concept but {silent} (AUC {row.auc:.2f})"
    if not _is_good(row):
        return f"does both, but {stand.flaw}"
    if row.effect < first.effect:
        return f"weaker: {row.effect:+.2g} per nat of KL against {first.effect:+.2g}"
    return f"tells the texts less well: AUC {row.auc:.2f} against {first.auc:.2f}"


def _pool(rows: Sequence[SelectedFeature], stand: dict[int, Standing]) -> list[SelectedFeature]:
    """The first features that a group may be made of: none that fires on other texts as well."""
    able = [row for row in rows if row.effect > 0 and row.separates]
    return [row for row in able if stand[row.feature].told.keeps_off][:N_POOLED]


class _Grown(NamedTuple):
    """Features added one by one, and what their sum does."""

    features: list[int]
    vector: Float[Tensor, " d_out"]
    """The sum of their pushes, each at its own strength."""
    found: Tested
    n_tried: int
    """Sums that were pushed on the way."""


def _grow(
    bench: CausalBench, pool: Sequence[SelectedFeature], beside: Against, first: Tested
) -> _Grown:
    """From the strongest of the pool on, as long as the effect at the same KL rises."""
    left = {row.feature: row.strength * bench.vectors([row.feature])[0] for row in pool}
    feature = pool[0].feature
    grown = _Grown([feature], left.pop(feature), first, 0)
    while left and len(grown.features) < MOST_GROUPED:
        together = torch.stack([grown.vector + each for each in left.values()])
        curves = bench.curves(together, n_fine=len(left), progress=None)
        n_tried, place = grown.n_tried + len(left), max(enumerate(curves), key=_score)[0]
        if curves[place].score < GAIN * grown.found.curve.score:
            return grown._replace(n_tried=n_tried)
        feature = [*left][place]
        left.pop(feature)
        found = tested(curves[place], beside, bench.sign)
        grown = _Grown([*grown.features, feature], together[place], found, n_tried)
    return grown


def _score(numbered: tuple[int, Curve]) -> float:
    return numbered[1].score


def _group(
    bench: CausalBench,
    told: TextBench,
    others: OtherWords | None,
    pool: Sequence[SelectedFeature],
    measured: tuple[Against, dict[int, Tested]],
) -> FeatureGroup | None:
    """Features of the pool that do clearly more together; None where the best alone does nearly as
    much."""
    if len(pool) < 2:
        return None
    pool = sorted(pool, key=lambda row: -row.effect)
    beside, results = measured
    grown = _grow(bench, pool, beside, results[pool[0].feature])
    members, curve = grown.features, grown.found.curve
    if len(members) < 2 or curve.score < ENOUGH_GAIN * pool[0].effect:
        return None
    column = sum(
        (told.column(i) / float(bench.units[i]) for i in members), torch.zeros(()).double()
    )
    strength = {row.feature: row.strength for row in pool}
    together = told.separates(column, None, by_texts=True)
    push_of_all = curve.at.strength * grown.vector[None]
    (shared,) = shared_words(bench, told, others, push_of_all, [column])
    chance = chance_of(grown.found, beside, bench.sign, len(pool) + grown.n_tried)
    stand = Standing(together, shared, chance)
    return FeatureGroup(
        features=members,
        strengths=[curve.at.strength * strength[i] for i in members],
        effect=curve.score,
        interval=curve.interval,
        auc=together.auc,
        also_writes=shared and shared.share,
        clean=together.auc >= LEAST_AREA and together.keeps_off and stand.writes_off,
        causes=grown.found.causes and not stand.is_chance,
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
    stand: dict[int, Standing],
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
        told = stand[rows[0].feature]
        return Choice.NONE, (
            f"feature {rows[0].feature} makes the concept likelier, but {told.flaw}{told.perhaps}"
        )
    return Choice.NONE, f"no feature both fires on the concept and makes it likelier{_halves(rows)}"


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
