"""One prediction before and after an edit of features, beside the same edit along random
features."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TypedDict

from torch import Tensor

from saescope.controls import ENOUGH, compare_with
from saescope.metrics import kl_divergence
from saescope.models import (
    LanguageModel,
    NamedTarget,
    Target,
    Tokens,
    top_tokens,
)
from saescope.ops import SparseActs
from saescope.records.controls import Comparison
from saescope.records.prediction import Readout
from saescope.records.steering import Intervention
from saescope.saes import SAE
from saescope.sinks import many_sinks
from saescope.splice import SiteRecord
from saescope.stack import Stack, as_stack
from saescope.steering.edits import FeatureEdit, change_at_site, check_edits
from saescope.steering.prepare import Plans, prepare
from saescope.steering.units import Controls, IndexedActivations, OneOrEach, Unit
from saescope.variants import Variant, run_variants

N_TOP = 5


def intervene(
    model: LanguageModel,
    sae: SAE | Sequence[SAE],
    tokens: Tokens,
    edits: Sequence[FeatureEdit],
    *,
    unit: str = "typical",
    reference: OneOrEach[SparseActs] = None,
    indexed: OneOrEach[IndexedActivations] = None,
    target: int | str | None = None,
    against: int | str | None = None,
    measure: str = "logprob",
    n_controls: int = ENOUGH,
    seed: int = 0,
) -> Intervention:
    """Edit features of one SAE, or of several, and read the prediction at the last position: the
    effect is on the target's log-probability (`measure="logit"`: on its logit; with `against`: on
    its logit's difference to that token's).

    Edits act at the positions named, else at all that count. A control makes each edit's change, of
    the same norm, along another feature's row. Units are indexed, else of prompt and
    `reference` (`ss.check_sae(...).acts`). With several SAEs these are lists, an edit names its
    SAE, and an upper one sees the run that holds the edits below it.

    Raises:
        ArgumentError: an edit names no such SAE, feature, mode or position.
        MismatchError: two SAEs write the same site.
    """
    stack = as_stack(model, sae)
    check_edits(stack.as_given, edits)
    meant = Unit.of(unit, reference, indexed, len(stack.saes))
    sites, masks, n_sinks, units, plans, _, controls = prepare(
        stack, tokens, edits, unit=meant, controls=Controls(n_controls, seed)
    )
    named = NamedTarget.of(model, target, against, measure)
    variants = [_variant(stack, each) for each in (plans, *controls)]
    clean, changed = run_variants(stack, model.batch(tokens.ids), sites, variants, position=-1)
    return Intervention(
        **_change(model, named.on(clean[0]), clean, changed),
        touched=_touched(stack, sites, plans),
        unit_values=units.values,
        unit_source=units.source,
        n_tokens=(n_edited := int(masks.any(0).sum())),
        n_left_out=masks.shape[1] - n_edited,
        n_sinks=n_sinks,
        warnings=units.warnings
        + _silence(stack, sites, edits, masks)
        + many_sinks(n_sinks, n_edited),
    )


def _variant(stack: Stack, plans: Plans) -> Variant:
    return {i: partial(change_at_site, stack.saes[i], plan=plan) for i, plan in plans.items()}


class _Change(TypedDict):
    before: Readout
    after: Readout
    measure: str
    effect: float
    delta_logit: float
    delta_logprob: float
    kl: float
    control: Comparison


def _change(model: LanguageModel, target: Target, clean: Tensor, changed: Tensor) -> _Change:
    """What the first row says of the edit, and the others of its controls."""
    effect, *controlled = target.change(clean, changed)
    return {
        "before": _readout(model, clean[0], target),
        "after": _readout(model, changed[0], target),
        "measure": target.quantity,
        "effect": effect,
        "delta_logit": replace(target, measure="logit").change(clean, changed)[0],
        "delta_logprob": Target(target.token).change(clean, changed)[0],
        "kl": float(kl_divergence(clean[0], changed[0])),
        "control": compare_with(effect, controlled),
    }


def _touched(stack: Stack, sites: Sequence[SiteRecord], plans: Plans) -> bool:
    """The edits change something of the clean run."""
    changes = (change_at_site(stack.saes[i], sites[i], plan) for i, plan in plans.items())
    return any(bool(change.any()) for change in changes)


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
