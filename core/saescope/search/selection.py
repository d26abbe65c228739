"""One feature or a few for a concept: what separates texts joined with what a push does, so that
neither alone decides."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, sqrt
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.features.contrast.contrast import tell_apart
from saescope.features.contrast.designs import Groups
from saescope.features.contrast.sets import each_once, groups_of
from saescope.features.reading.text_scores import TextScores, score_texts
from saescope.models import LanguageModel, Tokens, counted
from saescope.ops import SparseActs
from saescope.progress import Progress
from saescope.records.search import FeatureGroup, SelectedFeature, Selection, SelectionFacts
from saescope.saes import SAE
from saescope.search.bench import CausalBench
from saescope.search.causes import Against, Tested, measure, sets_of, tested, warnings_of
from saescope.search.choice_texts import faults_of
from saescope.search.concept import ConceptTexts, ForcedText
from saescope.search.pushes import push, read_texts
from saescope.steering.units import IndexedActivations
from saescope.verdicts import Choice

N_CAUSAL, N_SEPARATING = 20, 10
"""Candidates by gradient, and by texts."""
LEVEL = 0.05
N_POOLED, MOST_GROUPED = 6, 5
"""Features that groups are made of, and of one group."""
GAIN, ENOUGH_GAIN = 1.1, 1.25
"""By which a further feature has to raise a group's effect, and a group that of the best alone."""
N_NEUTRAL, LONGEST = 8, 48
"""Texts, and their tokens, on which damage is measured."""
N_DAMAGE = 5
SCORE_IS = (
    "effect per nat of KL as a share of the best one's, times the root of 2 AUC - 1; what both "
    "causes and separates comes first, then what causes"
)


class Separated(NamedTuple):
    """How a feature tells the texts."""

    auc: float
    interval: tuple[float, float]
    clear: bool
    share: float
    """How many of `texts` it fires on, as a share."""


@dataclass(frozen=True)
class TextBench:
    """Scores of the texts, and what separates them."""

    design: Groups
    scores: TextScores
    by_texts: list[int]
    """Features that halves of the texts like best, whether or not they are confirmed."""
    told: dict[int, tuple[float, bool]]
    """What is known of features that enough halves chose: held-out area, and whether they are
    confirmed."""
    n_others: int
    """Candidates that were chosen without the texts."""

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        sae: SAE,
        texts: Sequence[Tokens],
        against: Sequence[Tokens],
        *,
        seed: int,
    ) -> "TextBench":
        both = [*texts, *against]
        scores = score_texts(model, sae, both, by="top3")
        design = groups_of(texts, against, scores.lengths)
        if not len(scores.features):
            return cls(design, scores, [], {}, N_CAUSAL)
        told = tell_apart(design, scores, seed)
        columns = told.best(True, unconfirmed=True).tolist()
        known = {
            int(scores.features[i]): (float(told.effects.auc[i]), bool(told.confirmed[i]))
            for i in columns
        }
        return cls(design, scores, [*known][:N_SEPARATING], known, N_CAUSAL)

    def column(self, feature: int) -> Float[Tensor, " n_texts"]:
        """A feature's score in each text."""
        i = int(torch.searchsorted(self.scores.features, feature))
        known = i < len(self.scores.features) and int(self.scores.features[i]) == feature
        n = len(self.scores.lengths)
        return self.scores.scores[:, i].double() if known else torch.zeros(n).double()

    def judged(self, feature: int, *, by_texts: bool) -> Separated:
        return self.separates(self.column(feature), feature, by_texts=by_texts)

    def separates(
        self, column: Float[Tensor, " n_texts"], feature: int | None, *, by_texts: bool
    ) -> Separated:
        """A feature that halves chose is judged by those that did not; one that the texts had no
        part in choosing (not `by_texts`) by all of them, corrected for the number of such."""
        every = torch.arange(len(column))
        whole = self.design.compare(column[:, None], every)
        auc, clear = float(whole.auc), not by_texts and float(whole.p) * self.n_others <= LEVEL
        if feature in self.told:
            auc, confirmed = self.told[feature]
            clear = clear or confirmed
        low, high = self.design.interval(auc)
        share = float((column[self.design.first] > 0).double().mean())
        return Separated(auc, (low, high), clear and low > 0.5, share)


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
    best by the texts; all are pushed. A feature has to cause *and* to separate to be chosen: what
    separates best does not outvote what a push shows.

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
    rows = _ranked(results, {i: told.judged(i, by_texts=i not in by_gradient) for i in results})
    group = _group(bench, told, rows, beside, results)
    rows = _with_damage(bench, rows, against)
    level, why = _verdict(rows, group)
    faults = faults_of(
        model, texts, against, design=told.design, scores=told.scores.scores, seed=seed
    )
    return Selection(
        features=rows[:k],
        total=len(rows),
        score_is=SCORE_IS,
        why=why,
        choice=SelectionFacts(verdict=level.value, group=group, faults=faults),
        search=sets_of(bench, concept, [*results.values()], beside),
        warnings=[*repeated, *warnings_of(bench, candidates)],
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


def _ranked(results: dict[int, Tested], separated: dict[int, Separated]) -> list[SelectedFeature]:
    """What causes and separates first, then what causes, then the rest; within each by both."""
    best = max((each.curve.score for each in results.values()), default=0.0)
    rows = [_row(i, each, separated[i], best) for i, each in results.items()]
    rows.sort(key=lambda row: (not (row.causes and row.separates), not row.causes, -row.score))
    return [
        replace(row, lost=_lost(row, rows[0], separated[row.feature]) if n else None)
        for n, row in enumerate(rows)
    ]


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
    if row.effect < first.effect:
        return f"weaker: {row.effect:+.2g} per nat of KL against {first.effect:+.2g}"
    return f"tells the texts less well: AUC {row.auc:.2f} against {first.auc:.2f}"


def _group(
    bench: CausalBench,
    told: TextBench,
    rows: Sequence[SelectedFeature],
    beside: Against,
    results: dict[int, Tested],
) -> FeatureGroup | None:
    """Features added one by one while the effect at the same KL rises; None where the best alone
    does nearly as much."""
    pool = [row for row in rows if row.effect > 0 and row.separates][:N_POOLED]
    if len(pool) < 2:
        return None
    pool.sort(key=lambda row: -row.effect)
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
    return FeatureGroup(
        features=members,
        strengths=[found.curve.at.strength * strength[i] for i in members],
        effect=best,
        interval=found.curve.interval,
        auc=told.separates(column, None, by_texts=True).auc,
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


def _verdict(rows: Sequence[SelectedFeature], group: FeatureGroup | None) -> tuple[Choice, str]:
    """What to take, and why."""
    good = [row for row in rows if row.causes and row.separates]
    if group and group.causes:
        return Choice.GROUP, (
            f"{len(group.features)} features together ({', '.join(map(str, group.features))}) do "
            f"clearly more than the best alone: {group.effect:+.2g} nats per nat of KL"
        )
    if good:
        first = good[0]
        return Choice.ONE, (
            f"feature {first.feature} fires on the concept (AUC {first.auc:.2f}) and makes it "
            f"likelier ({first.effect:+.2g} nats per nat of KL, beyond controls)"
        )
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
    rest = f" ({'; '.join(parts)})" if parts else ""
    return Choice.NONE, f"no feature both fires on the concept and makes it likelier{rest}"
