"""Edits of features, and the change that they make where the SAE writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import isfinite

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.saes import SAE
from saescope.splice import SiteRecord
from saescope.spread import Spread, later_rows, own_rows, require_decoders

MODES = ("add", "clamp", "scale", "ablate", "project_out")


@dataclass(frozen=True, slots=True)
class FeatureEdit:
    """One feature and what is done to it: add, clamp, scale, ablate (set to 0), or project_out (its
    direction is removed from the site)."""

    feature: int
    strength: float = 1.0
    mode: str = "add"
    positions: tuple[int, ...] = ()
    """Positions of the prompt, negative from the end; empty: all but position 0 and special
    tokens."""
    sae: int = 0
    """Its SAE, by its place in the list that is given; 0 for one SAE alone."""
    when_feature: int | None = None
    """Edit only where this feature fires above `when_above`, as it is read in the same forward
    pass before anything is changed at its site; None: wherever edits act."""
    when_sae: int | None = None
    """The SAE of `when_feature`, by its place in the list; None: that of the edit. It reads no
    later than the edited SAE writes."""
    when_above: float = 0.0
    """An activation of `when_feature`, in the SAE's own unit."""

    @property
    def read_from(self) -> int:
        """The SAE whose feature decides where it acts, by its place in the list."""
        return self.sae if self.when_sae is None else self.when_sae


@dataclass(frozen=True, slots=True)
class EditPlan:
    """Edits with everything resolved: units, rows to write (a control's differ from the feature's
    own), and where."""

    edits: tuple[FeatureEdit, ...]
    units: tuple[float, ...]
    rows: Float[Tensor, "n_edits d_out"]
    masks: Bool[Tensor, "n_edits n_pos"]
    later: Mapping[str, Float[Tensor, "n_edits d_out"]] = field(default_factory=dict[str, Tensor])
    """The rows of a cross-layer transcoder's features at later layers, by hook."""

    def only(self, places: Sequence[int]) -> "EditPlan":
        """Some of the edits, by their places."""
        return EditPlan(
            tuple(self.edits[n] for n in places),
            tuple(self.units[n] for n in places),
            self.rows[[*places]],
            self.masks[[*places]],
            {hook_name: rows[[*places]] for hook_name, rows in self.later.items()},
        )


def check_edits(saes: Sequence[SAE], edits: Sequence[FeatureEdit]) -> None:
    """Raises ArgumentError for an SAE, feature, mode or strength that cannot be, ConfigError
    CROSS_LAYER_FEATURE for a layer of a cross-layer transcoder without its decoders."""
    if not edits:
        raise ArgumentError(
            "No feature is named.",
            code="MISSING_ARGUMENT",
            field="features",
            hint="Name at least one feature.",
        )
    for edit in edits:
        _check_edit(saes, edit)
    _check_twice(edits)


def _check_edit(saes: Sequence[SAE], edit: FeatureEdit) -> None:
    if not 0 <= edit.sae < len(saes):
        raise ArgumentError(
            f"There is no SAE {edit.sae} in the list.",
            code="OUT_OF_RANGE",
            field="sae",
            got=edit.sae,
            allowed=f"0..{len(saes) - 1}",
        )
    if not 0 <= edit.feature < saes[edit.sae].cfg.d_sae:
        raise ArgumentError(
            f"Feature {edit.feature} does not exist.",
            code="FEATURE_OUT_OF_RANGE",
            field="feature",
            got=edit.feature,
            allowed=f"0..{saes[edit.sae].cfg.d_sae - 1}",
            hint="An index belongs to one SAE: name the SAE that it was found with, or find "
            "features of this one with ss.rank_features.",
        )
    _check_layers(saes[edit.sae], edit)
    if edit.mode not in MODES:
        raise ArgumentError(
            f"Mode {edit.mode!r} is unknown.",
            code="INVALID_CHOICE",
            field="mode",
            got=edit.mode,
            allowed=MODES,
        )
    if not isfinite(edit.strength):
        raise ArgumentError(
            "A strength must be finite.",
            code="NON_FINITE_ARGUMENT",
            field="strength",
            got=edit.strength,
        )
    _check_condition(saes, edit)


def _check_layers(sae: SAE, edit: FeatureEdit) -> None:
    """A feature of a cross-layer transcoder writes along another direction at each layer."""
    require_decoders(sae)
    if sae.decoders is not None and edit.mode == "project_out":
        raise ArgumentError(
            f"Feature {edit.feature} of a cross-layer transcoder has no direction to project out: "
            f"it writes along another one at each of {sae.decoders.n} layers.",
            code="INVALID_CHOICE",
            field="mode",
            got=edit.mode,
            allowed=[mode for mode in MODES if mode != "project_out"],
            hint='Take mode "ablate": what the feature writes is then gone from all of them.',
        )


def _check_condition(saes: Sequence[SAE], edit: FeatureEdit) -> None:
    if edit.when_feature is None:
        if edit.when_sae is not None or edit.when_above != 0:
            raise ArgumentError(
                "A condition names no feature.",
                code="MISSING_ARGUMENT",
                field="when_feature",
                hint="Name when_feature, the feature that decides where the edit acts.",
            )
        return
    if not 0 <= edit.read_from < len(saes):
        raise ArgumentError(
            f"There is no SAE {edit.read_from} in the list.",
            code="OUT_OF_RANGE",
            field="when_sae",
            got=edit.read_from,
            allowed=f"0..{len(saes) - 1}",
        )
    last = saes[edit.read_from].cfg.d_sae - 1
    if not 0 <= edit.when_feature <= last:
        raise ArgumentError(
            f"Feature {edit.when_feature} does not exist.",
            code="FEATURE_OUT_OF_RANGE",
            field="when_feature",
            got=edit.when_feature,
            allowed=f"0..{last}",
            hint="An index belongs to one SAE: name that of when_feature as when_sae.",
        )
    if not (isfinite(edit.when_above) and edit.when_above >= 0):
        raise ArgumentError(
            f"No activation is compared with {edit.when_above}.",
            code="OUT_OF_RANGE",
            field="when_above",
            got=edit.when_above,
            allowed="0 (wherever it fires) or more, finite",
        )


def _check_twice(edits: Sequence[FeatureEdit]) -> None:
    named = [(edit.sae, edit.feature) for edit in edits]
    for edit, name in zip(edits, named, strict=True):
        if named.count(name) > 1 and not edit.positions:
            raise _twice(f"Feature {edit.feature} is edited twice.", edits)


def check_apart(edits: Sequence[FeatureEdit], masks: Bool[Tensor, "n_edits n_pos"]) -> None:
    """Raises ArgumentError: two edits of a feature meet at a position of the prompt, whose names
    may differ (-1 and the last)."""
    for (one, its), (other, others) in combinations(zip(edits, masks, strict=True), 2):
        same = (one.sae, one.feature) == (other.sae, other.feature)
        if same and bool((its & others).any()):
            pos = int((its & others).nonzero()[0])
            raise _twice(f"Feature {one.feature} is edited twice at position {pos}.", edits)


def _twice(message: str, edits: Sequence[FeatureEdit]) -> ArgumentError:
    return ArgumentError(
        message,
        code="DUPLICATE_FEATURE",
        field="feature",
        got=[edit.feature for edit in edits],
        hint="Give one edit for each feature and position.",
    )


def make_plan(
    sae: SAE,
    edits: Sequence[FeatureEdit],
    units: Sequence[float],
    masks: Bool[Tensor, "n_edits n_pos"],
) -> EditPlan:
    features = torch.tensor([edit.feature for edit in edits], device=sae.device)
    rows, later = own_rows(sae, features), later_rows(sae, features)
    return EditPlan(tuple(edits), tuple(units), rows, masks, later)


def control_plan(sae: SAE, plan: EditPlan, features: Sequence[int]) -> EditPlan:
    """Each edit's change, position by position and of the same norm, along another feature's
    decoder row (project_out removes that row); of a cross-layer transcoder at each layer."""
    drawn = torch.tensor(list(features), device=sae.device)
    later = {
        hook_name: _as_long(rows, plan.later[hook_name])
        for hook_name, rows in later_rows(sae, drawn).items()
    }
    return replace(plan, rows=_as_long(own_rows(sae, drawn), plan.rows), later=later)


def _as_long(rows: Float[Tensor, "n d_out"], model: Float[Tensor, "n d_out"]) -> Tensor:
    """Rows as long as those of `model`; one of zeros, which a feature may have at a later layer,
    stays as it is."""
    longer = model.norm(dim=-1) / rows.norm(dim=-1)
    return rows * torch.where(longer.isfinite(), longer, 0)[:, None]


def scaled(plan: EditPlan, factor: float) -> EditPlan:
    """A plan of the same edits at a multiple of their strengths."""
    edits = [replace(edit, strength=factor * edit.strength) for edit in plan.edits]
    return replace(plan, edits=tuple(edits))


def written_by(sae: SAE, site: SiteRecord, plan: EditPlan) -> Tensor | Spread:
    """What the plan adds where the SAE writes, and at the later layers that it writes too."""
    here = change_at_site(sae, site, plan)
    if not plan.later:
        return here
    pairs = zip(plan.edits, plan.units, plan.masks, strict=True)
    amounts = [_difference(site, edit, unit) * mask for edit, unit, mask in pairs]
    return Spread(here, torch.stack(amounts), plan.later)


def change_at_site(sae: SAE, site: SiteRecord, plan: EditPlan) -> Float[Tensor, "n_pos d_out"]:
    """What the plan adds where the SAE writes: `decode(f') - decode(f)` for the edited features,
    then the projection of what is there."""
    change = torch.zeros_like(site.sae_out)
    for index, (edit, unit) in enumerate(zip(plan.edits, plan.units, strict=True)):
        if edit.mode != "project_out":
            change = (
                change
                + (_difference(site, edit, unit) * plan.masks[index])[:, None] * plan.rows[index]
            )
    scale = sae.scale(site.x)
    change = change if scale is None else change * scale.outer
    return _project_out(site.written.to(change.dtype), change, plan)


def _difference(site: SiteRecord, edit: FeatureEdit, unit: float) -> Tensor:
    """f' - f of one feature at every position."""
    if edit.mode == "add":
        return site.x.new_full((len(site.x),), edit.strength * unit)
    activation = site.acts.of_feature(edit.feature)
    return {
        "clamp": edit.strength * unit - activation,
        "scale": (edit.strength - 1) * activation,
        "ablate": -activation,
    }[edit.mode]


def _project_out(written: Tensor, change: Tensor, plan: EditPlan) -> Tensor:
    indices = [i for i, edit in enumerate(plan.edits) if edit.mode == "project_out"]
    for mask in plan.masks[indices].unique(dim=0) if indices else ():
        together = [i for i in indices if torch.equal(plan.masks[i], mask)]
        rows = plan.rows[together]
        # Of a row of zeros QR makes some direction or other: it has none to remove.
        basis = torch.linalg.qr(rows[rows.any(dim=1)].T).Q
        removed = ((written + change) @ basis) @ basis.T
        change = change - removed * mask[:, None]
    return change
