"""What intervening and steering share: edits with their units, the plan, and the same plan along random features."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.models import LanguageModel, Tokens, counted
from saescope.saes import SAE
from saescope.splice import SiteRecord, read_site
from saescope.steering.edits import FeatureEdit, Plan, check_edits, control_plan, make_plan
from saescope.steering.units import IndexedMaxima, Units, draw_features, resolve_units


class Prepared(NamedTuple):
    """Edits ready to run."""

    site: SiteRecord
    """The prompt's clean run at the site."""
    masks: Bool[Tensor, "n_edits n_pos"]
    n_sinks: int
    """Positions of the prompt that no edit touches for their norm at the site alone."""
    units: Units
    plan: Plan
    drawn: list[list[int]]
    """Features of each control, one for every edit."""
    controls: list[Plan]


def prepare(
    model: LanguageModel,
    sae: SAE,
    tokens: Tokens,
    edits: Sequence[FeatureEdit],
    *,
    unit: str,
    reference: Float[Tensor, " d_sae"] | None,
    indexed: IndexedMaxima | None,
    n_controls: int,
    seed: int,
) -> Prepared:
    """Resolve units and positions, and draw controls.

    Raises:
        ArgumentError: an edit names no such feature, mode or position, or the unit is unknown.
    """
    check_edits(sae, edits)
    site = read_site(model, sae, model.batch(tokens.ids))
    usual, masks = (
        torch.stack([counted(tokens, edit.positions, sinks=sinks) for edit in edits])
        for sinks in (None, site.sinks)
    )
    masks = masks.to(model.device)
    maxima = _known_maxima(site, counted(tokens, sinks=site.sinks).to(model.device), reference)
    if indexed is not None:
        indexed = indexed._replace(values=indexed.values.to(maxima))
    units = resolve_units(edits, maxima, unit, indexed=indexed)
    plan = make_plan(sae, edits, units.values, masks)
    drawn = draw_features(
        edits,
        maxima if indexed is None else maxima.maximum(indexed.values),
        writes=sae.writes,
        n_draws=n_controls,
        seed=seed,
    )
    controls = [control_plan(sae, plan, features) for features in drawn]
    n_sinks = int(usual.any(0).sum() - masks.any(0).sum())
    return Prepared(site, masks, n_sinks, units, plan, drawn, controls)


def _known_maxima(
    site: SiteRecord, mask: Tensor, reference: Float[Tensor, " d_sae"] | None
) -> Float[Tensor, " d_sae"]:
    """Each feature's largest activation on the reference text and at the prompt's counted positions."""
    here = site.acts.select(mask[site.acts.positions]).maxima()
    return here if reference is None else here.maximum(reference.to(here))
