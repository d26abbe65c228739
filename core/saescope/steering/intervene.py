"""Predictions before and after an edit of features, beside the same edit along random features."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from saescope.controls import ENOUGH, compare_with
from saescope.errors import ArgumentError
from saescope.metrics import kl_divergence
from saescope.models import (
    LanguageModel,
    NamedTarget,
    Target,
    Tokens,
    top_tokens,
)
from saescope.ops import SparseActs
from saescope.precision import wide
from saescope.progress import Progress
from saescope.records.prediction import Readout
from saescope.records.steering import EditShare, Intervention, Interventions, PromptEffect
from saescope.saes import SAE
from saescope.sinks import many_sinks
from saescope.splice import SiteRecord
from saescope.spread import Spread
from saescope.stack import Stack, as_stack
from saescope.steering.conditions import narrowed_to
from saescope.steering.edits import EditPlan, FeatureEdit, check_edits, written_by
from saescope.steering.means import sign_test, t_interval
from saescope.steering.prepare import (
    Plans,
    Prepared,
    distinct,
    prepare,
    repeated,
    units_over,
)
from saescope.steering.units import Controls, IndexedActivations, OneOrEach, Unit
from saescope.variants import Variant, run_variants

N_TOP = 5
LEAST_PROMPTS = 5
"""Prompts that the interval of a mean needs."""


class Measuring(TypedDict, total=False):
    """How an intervention measures."""

    unit: str
    """What strength 1 is: "typical" unless it is given."""
    reference: OneOrEach[SparseActs]
    indexed: OneOrEach[IndexedActivations]
    target: int | str | None
    """Each prediction's most likely token unless it is given."""
    against: int | str | None
    measure: str
    """"logprob" unless it is given."""
    n_controls: int
    """19 unless it is given."""
    seed: int
    """0 unless it is given."""


def intervene(
    model: LanguageModel,
    sae: SAE | Sequence[SAE],
    tokens: Tokens,
    edits: Sequence[FeatureEdit],
    **asked: Unpack[Measuring],
) -> Intervention:
    """Edit features of one SAE, or of several, and read the prediction at the last position: the
    effect is on the target's log-probability (`measure="logit"`: on its logit; with `against`: on
    its logit's difference to that token's).

    Edits act at the positions named, else at all that count. Of several edits each is also measured
    alone and left out (`shares`). A control makes each edit's change, of the same norm, along
    another feature's row. Units are indexed, else of prompt and `reference`
    (`ss.check_sae(...).acts`). With several SAEs these are lists, an edit names its SAE, and an
    upper one sees the run that holds the edits below it.

    Raises:
        ArgumentError: an edit names no such SAE, feature, mode or position.
        MismatchError: two SAEs write the same site.
    """
    question = _Intervening.of(model, sae, edits, asked)
    ready, run = question.put(tokens, question.unit)
    units, stack = ready.units, question.stack
    n_edited = int(ready.masks.any(0).sum())
    return Intervention(
        **_change(model, run),
        control=compare_with(run.effects[0], run.controls),
        shares=question.shares([run]),
        touched=run.touched,
        unit_values=units.values,
        unit_source=units.source,
        n_tokens=n_edited,
        n_left_out=ready.masks.shape[1] - n_edited,
        n_sinks=ready.n_sinks,
        warnings=units.warnings
        + _silence(stack, ready.sites, edits, ready.masks)
        + many_sinks(ready.n_sinks, n_edited),
    )


def intervene_all(
    model: LanguageModel,
    sae: SAE | Sequence[SAE],
    prompts: Sequence[Tokens],
    edits: Sequence[FeatureEdit],
    *,
    progress: Progress | None = None,
    **asked: Unpack[Measuring],
) -> Interventions:
    """The same edits on several prompts: `ss.intervene` on each, with one unit and the same random
    features for all, and the mean over the prompts that the edits touch.

    The controls are means too, over the same prompts. Where an edit touches nothing (a feature that
    does not fire is ablated), the effect is none whatever the feature does: such prompts are
    counted, not averaged. A prompt that is given again has a row and no further weight.

    Raises:
        ArgumentError: as `ss.intervene`, or there is no prompt.
    """
    if not prompts:
        raise ArgumentError(
            "There is no prompt.",
            code="MISSING_ARGUMENT",
            field="prompts",
            hint="Give at least one prompt.",
        )
    question = _Intervening.of(model, sae, edits, asked)
    once, places = distinct(prompts)
    found: list[tuple[Prepared, _EditedRun]] = []
    for tokens, unit in zip(once, units_over(question.stack, once, question.unit), strict=True):
        found.append(question.put(tokens, unit))
        if progress is not None:
            progress(len(found), len(once))
    return _over_prompts(question, found, places)


def _over_prompts(
    question: "_Intervening",
    found: Sequence[tuple[Prepared, "_EditedRun"]],
    places: Sequence[int],
) -> Interventions:
    model, readies, runs = question.stack.model, [each for each, _ in found], [r for _, r in found]
    touched = [run for run in runs if run.touched]
    effects = [run.effects[0] for run in touched]
    # [n_prompts][n_controls] -> each control's mean: they are the same features on all prompts
    controls = [mean(draw) for draw in zip(*(run.controls for run in touched), strict=True)]
    effect = mean(effects) if effects else 0.0
    n_edited = sum(int(ready.masks.any(0).sum()) for ready in readies)
    n_sinks = sum(ready.n_sinks for ready in readies)
    return Interventions(
        measure=runs[0].target.quantity,
        effect=effect,
        control=compare_with(effect, controls),
        shares=question.shares(touched),
        touched=bool(touched),
        on_prompts=[_on_prompt(model, runs[place]) for place in places],
        n_distinct=len(runs),
        n_touched=len(touched),
        interval=t_interval(effects, least=LEAST_PROMPTS),
        sign_test=sign_test(effects),
        unit_values=readies[0].units.values,
        unit_source=readies[0].units.source,
        n_tokens=n_edited,
        n_left_out=sum(ready.masks.shape[1] for ready in readies) - n_edited,
        n_sinks=n_sinks,
        warnings=[
            *repeated(places),
            *readies[0].units.warnings,
            *_silence_everywhere(question, readies),
            *many_sinks(n_sinks, n_edited),
        ],
    )


def _silence_everywhere(question: "_Intervening", readies: Sequence[Prepared]) -> list[str]:
    """What is to be said of every prompt; what is said of some is counted."""
    first, *others = (
        _silence(question.stack, ready.sites, question.edits, ready.masks) for ready in readies
    )
    return [warning for warning in first if all(warning in other for other in others)]


def _on_prompt(model: LanguageModel, run: "_EditedRun") -> PromptEffect:
    token = Target(run.target.token)
    before, after = (float(token.of(wide(rows[:1]))[0]) for rows in (run.clean, run.changed))
    return PromptEffect(
        target=model.token_text(run.target.token),
        logprob_before=before,
        logprob_after=after,
        effect=run.effects[0],
        touched=run.touched,
    )


@dataclass(frozen=True, slots=True)
class _EditedRun:
    """One prompt: all edits together, each alone, all but each, then the controls."""

    target: Target
    clean: Tensor
    changed: Tensor
    effects: list[float]
    """By row of `changed`."""
    n_edits: int
    touched: bool

    @property
    def n_apart(self) -> int:
        """Rows that take the edits apart, which one edit alone has none of."""
        return 2 * self.n_edits if self.n_edits > 1 else 0

    @property
    def controls(self) -> list[float]:
        return self.effects[1 + self.n_apart :]

    @property
    def apart(self) -> list[tuple[float, float]]:
        """The effect of each edit alone, and that of all others."""
        alone = self.effects[1 : 1 + self.n_apart // 2]
        return [*zip(alone, self.effects[1 + len(alone) : 1 + self.n_apart], strict=True)]


@dataclass(frozen=True, slots=True)
class _Intervening:
    """What is done to every prompt, and what is read."""

    stack: Stack
    edits: Sequence[FeatureEdit]
    unit: Unit
    controls: Controls
    named: NamedTarget

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        sae: SAE | Sequence[SAE],
        edits: Sequence[FeatureEdit],
        asked: Measuring,
    ) -> "_Intervening":
        stack = as_stack(model, sae)
        check_edits(stack.as_given, edits)
        unit = Unit.of(
            asked.get("unit", "typical"),
            asked.get("reference"),
            asked.get("indexed"),
            len(stack.saes),
        )
        controls = Controls(asked.get("n_controls", ENOUGH), asked.get("seed", 0))
        measure = asked.get("measure", "logprob")
        named = NamedTarget.of(model, asked.get("target"), asked.get("against"), measure)
        return cls(stack, edits, unit, controls, named)

    def put(self, tokens: Tokens, unit: Unit) -> tuple[Prepared, _EditedRun]:
        """Ask it of one prompt, in one batch of runs."""
        ready = prepare(self.stack, tokens, self.edits, unit=unit, controls=self.controls)
        ready = ready._replace(
            plans=self._where(ready.plans, ready.sites),
            controls=[self._where(each, ready.sites) for each in ready.controls],
        )
        plans = [ready.plans, *self._apart(ready.plans), *ready.controls]
        variants = [_variant(self.stack, each) for each in plans]
        ids = self.stack.model.batch(tokens.ids)
        clean, changed = run_variants(self.stack, ids, ready.sites, variants, position=-1)
        target = self.named.on(clean[0])
        effects = target.change(clean, changed)
        touched = _touched(self.stack, ready.sites, ready.plans)
        return ready, _EditedRun(target, clean, changed, effects, len(self.edits), touched)

    def _where(self, plans: Plans, sites: Sequence[SiteRecord]) -> Plans:
        """The plans where their conditions hold in the clean run."""
        return {i: narrowed_to(self.stack, plan, sites) for i, plan in plans.items()}

    def _apart(self, plans: Plans) -> list[Plans]:
        """Each of several edits alone, then all but each."""
        places = range(len(self.edits))
        if len(self.edits) < 2:
            return []
        sets = [[{n} for n in places], [{*places} - {n} for n in places]]
        return [self._only(plans, kept) for each in sets for kept in each]

    def _only(self, plans: Plans, kept: set[int]) -> Plans:
        """The plans of these edits."""
        chosen: dict[int, EditPlan] = {}
        for i, plan in plans.items():
            own = [n for n, edit in enumerate(self.edits) if edit.sae == self.stack.given[i]]
            rows = [row for row, n in enumerate(own) if n in kept]
            if rows:
                chosen[i] = plan.only(rows)
        return chosen

    def shares(self, runs: Sequence[_EditedRun]) -> list[EditShare]:
        """Means over these runs."""
        found = torch.tensor([run.apart for run in runs if run.apart], dtype=torch.float64)
        return (
            [
                EditShare(edit.feature, alone, others)
                for edit, (alone, others) in zip(self.edits, found.mean(0).tolist(), strict=True)
            ]
            if len(found)
            else []
        )


def _variant(stack: Stack, plans: Plans) -> Variant:
    return {i: partial(written_by, stack.saes[i], plan=plan) for i, plan in plans.items()}


class _Change(TypedDict):
    before: Readout
    after: Readout
    measure: str
    effect: float
    delta_logit: float
    delta_logprob: float
    kl: float


def _change(model: LanguageModel, run: _EditedRun) -> _Change:
    """What all edits together do."""
    target, clean, changed = run.target, run.clean[:1], run.changed[:1]
    return {
        "before": _readout(model, clean[0], target),
        "after": _readout(model, changed[0], target),
        "measure": target.quantity,
        "effect": run.effects[0],
        "delta_logit": replace(target, measure="logit").change(clean, changed)[0],
        "delta_logprob": Target(target.token).change(clean, changed)[0],
        "kl": float(kl_divergence(clean[0], changed[0])),
    }


def _touched(stack: Stack, sites: Sequence[SiteRecord], plans: Plans) -> bool:
    """The edits change something of the clean run."""
    changes = (written_by(stack.saes[i], sites[i], plan) for i, plan in plans.items())
    return any(
        change.is_change if isinstance(change, Spread) else bool(change.any()) for change in changes
    )


def _readout(model: LanguageModel, logits: Tensor, target: Target) -> Readout:
    return Readout(*target.read(model, logits), top_tokens(model, logits, N_TOP))


def _silence(
    stack: Stack, sites: Sequence[SiteRecord], edits: Sequence[FeatureEdit], masks: Tensor
) -> list[str]:
    if not bool(masks.any()):
        return [
            "No position is left to edit: position 0 and special tokens are left out unless named."
        ]
    # Above another SAE that is edited, what fires is not what fired in the clean run.
    lowest = min(stack.given.index(edit.sae) for edit in edits)
    silent = [
        edit.feature
        for edit, mask in zip(edits, masks, strict=True)
        if edit.mode in ("scale", "ablate")
        and stack.given[lowest] == edit.sae
        and not bool((sites[lowest].acts.of_feature(edit.feature)[mask] > 0).any())
    ]
    whose = f"{stack.name(lowest)}: " if len(stack.saes) > 1 else ""
    return [
        f"{whose}Feature {feature} does not fire at the edited positions: scaling or "
        "ablating it changes nothing."
        for feature in silent
    ]
