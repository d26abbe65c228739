"""Edits that act only where another feature fires, as it is read in the pass that they change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.hooks import Edit
from saescope.ops import SparseActs
from saescope.splice import SiteRecord, encode_site, read_hook, write_hook
from saescope.stack import Stack
from saescope.steering.edits import EditPlan, FeatureEdit

_MID = ".hook_resid_mid"


@dataclass(slots=True)
class Conditions:
    """What the SAEs of conditions read in the forward pass under way, before anything is changed
    at that hook."""

    stack: Stack
    read: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    """Activations by the SAE's index in the stack."""

    def watched(
        self, plans: Sequence[Mapping[int, EditPlan]], edits: Mapping[str, Edit]
    ) -> dict[str, Edit]:
        """The hooks of the edits, and before each the one that keeps what a condition reads."""
        asked = {
            self.stack.given.index(edit.read_from)
            for of_row in plans
            for plan in of_row.values()
            for edit in plan.edits
            if edit.when_feature is not None
        }
        readers: dict[str, list[int]] = {}
        for i in sorted(asked):
            readers.setdefault(read_hook(self.stack.saes[i]), []).append(i)
        hooks: dict[str, Edit] = {}
        # hook_resid_mid acts where attention writes: after the edits there, as it does for them.
        early = [name for name in readers if not name.endswith(_MID)]
        for name in dict.fromkeys([*early, *edits, *readers]):
            hooks[name] = self._kept(readers.get(name, []), edits.get(name))
        return hooks

    def _kept(self, places: Sequence[int], edit: Edit | None) -> Edit:
        if not places and edit is not None:
            return edit

        def keep(x: Tensor) -> Tensor:
            self.read |= dict.fromkeys(places, x.detach().clone())  # some families write into it
            return x if edit is None else edit(x)

        return keep

    def narrowed(self, plan: EditPlan, row: int) -> EditPlan:
        """The plan where its conditions hold, in one row of the batch."""
        own = slice(row, row + 1)
        acts = {
            i: encode_site(self.stack.model, self.stack.saes[i], self.read[i][own])[1]
            for i in _asked(self.stack, plan)
        }
        return _narrowed(self.stack, plan, acts)


def narrowed_to(stack: Stack, plan: EditPlan, sites: Sequence[SiteRecord]) -> EditPlan:
    """The plan where its conditions hold in a run that is recorded."""
    return _narrowed(stack, plan, {i: sites[i].acts for i in _asked(stack, plan)})


def check_in_time(stack: Stack, edits: Sequence[FeatureEdit]) -> None:
    """Raises ArgumentError: the SAE of a condition reads only after the edit is made."""
    for edit in edits:
        if edit.when_feature is None:
            continue
        i, j = stack.given.index(edit.read_from), stack.given.index(edit.sae)
        if not stack.reads_in_time(i, j):
            raise ArgumentError(
                f"The condition of feature {edit.feature} is read too late: at "
                f"{read_hook(stack.saes[i])}, after {write_hook(stack.saes[j])} is written.",
                code="CONDITION_TOO_LATE",
                field="when_sae",
                got=read_hook(stack.saes[i]),
                allowed=f"an SAE that reads at {write_hook(stack.saes[j])} or before",
                hint="Take the condition from an SAE at the same site or an earlier one.",
            )


def silent_conditions(
    stack: Stack, sites: Sequence[SiteRecord], plans: Mapping[int, EditPlan]
) -> list[str]:
    """What is to be said of edits whose condition holds nowhere in the prompt."""
    said: list[str] = []
    for plan in plans.values():
        holds = narrowed_to(stack, plan, sites).masks.any(1)
        said += [
            f"Feature {edit.feature} is changed nowhere in the prompt: feature {edit.when_feature} "
            f"does not fire above {edit.when_above:g} at the positions that count."
            for edit, there in zip(plan.edits, holds.tolist(), strict=True)
            if edit.when_feature is not None and not there
        ]
    return said


def _asked(stack: Stack, plan: EditPlan) -> set[int]:
    """The SAEs, by their index in the stack, whose features decide where the plan acts."""
    return {
        stack.given.index(edit.read_from) for edit in plan.edits if edit.when_feature is not None
    }


def _narrowed(stack: Stack, plan: EditPlan, acts: Mapping[int, SparseActs]) -> EditPlan:
    if not acts:
        return plan
    masks = [
        mask
        if edit.when_feature is None
        else mask & _fires(acts[stack.given.index(edit.read_from)], edit).to(mask.device)
        for edit, mask in zip(plan.edits, plan.masks, strict=True)
    ]
    return replace(plan, masks=torch.stack(masks))


def _fires(acts: SparseActs, edit: FeatureEdit) -> Tensor:
    assert edit.when_feature is not None, "the edit has a condition"
    return acts.of_feature(edit.when_feature) > edit.when_above
