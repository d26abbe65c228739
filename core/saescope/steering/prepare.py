"""What intervening and steering share: edits with their units, the plan, and the same plan along
random features."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from saescope.models import Tokens, counted, first_of_each
from saescope.ops import SparseActs, joined
from saescope.records.features import FeatureRef
from saescope.splice import SiteRecord
from saescope.stack import Stack
from saescope.steering.conditions import check_in_time
from saescope.steering.edits import (
    EditPlan,
    FeatureEdit,
    check_apart,
    control_plan,
    make_plan,
)
from saescope.steering.units import (
    Controls,
    Known,
    Unit,
    Units,
    draw_features,
    resolve_units,
)

T = TypeVar("T")
Plans = Mapping[int, EditPlan]
"""What is done in one run: a plan for each SAE of the stack that is edited, by index. Empty:
nothing."""


class Prepared(NamedTuple):
    """Edits ready to run."""

    sites: list[SiteRecord]
    """The prompt's clean run at the site of each SAE of the stack."""
    masks: Bool[Tensor, "n_edits n_pos"]
    n_sinks: int
    """Positions of the prompt that no edit touches for their norm at the site alone."""
    units: Units
    plans: Plans
    drawn: list[list[FeatureRef]]
    """Features of each control, one for every edit."""
    controls: list[Plans]


class _SAEEdits(NamedTuple):
    """The edits of one SAE."""

    own: list[int]
    """Which of all edits they are."""
    units: Units
    plan: EditPlan
    drawn: list[list[int]]
    """Features of each control, one for every edit of this SAE."""


def prepare(
    stack: Stack, tokens: Tokens, edits: Sequence[FeatureEdit], *, unit: Unit, controls: Controls
) -> Prepared:
    """Resolve units and positions, and draw controls.

    Raises:
        ArgumentError: an edit names no such position, two edits of a feature meet at one, the
            unit is unknown, or a condition is read too late.
    """
    sites = stack.read(stack.model.batch(tokens.ids))
    sinks = {given: site.sinks for given, site in zip(stack.given, sites, strict=True)}
    usual = torch.stack([counted(tokens, edit.positions) for edit in edits])
    check_apart(edits, usual)
    check_in_time(stack, edits)
    masks = torch.stack(
        [counted(tokens, edit.positions, sinks=sinks[edit.sae]) for edit in edits]
    ).to(stack.model.device)
    parts: dict[int, _SAEEdits] = {}
    for i, given in enumerate(stack.given):
        own = [n for n, edit in enumerate(edits) if edit.sae == given]
        if not own:
            continue
        here = counted(tokens, sinks=sinks[given]).to(stack.model.device)
        known = _known(sites[i], here, unit, given)
        mine = [edits[n] for n in own]
        units = resolve_units(mine, known, unit.name)
        plan = make_plan(stack.saes[i], mine, units.values, masks[own])
        drawn = draw_features(mine, known.maxima, writes=stack.saes[i].writes, controls=controls)
        parts[i] = _SAEEdits(own, units, plan, drawn)
    n_sinks = int(usual.any(0).sum() - masks.any(0).sum())
    return Prepared(
        sites,
        masks,
        n_sinks,
        _joint_units(stack, parts),
        {i: part.plan for i, part in parts.items()},
        *_controls(stack, parts),
    )


def distinct(prompts: Sequence[Tokens]) -> tuple[list[Tokens], list[int]]:
    """Each prompt once, in order, and the place of every one that was given among these: the same
    prompt again is no new evidence."""
    once = [prompts[i] for i in first_of_each(prompts)]
    keys = [tuple(tokens.ids.tolist()) for tokens in once]
    return once, [keys.index(tuple(tokens.ids.tolist())) for tokens in prompts]


def repeated(places: Sequence[int]) -> list[str]:
    """What is to be said of prompts that were given more than once."""
    n = len(places) - len(set(places))
    if not n:
        return []
    return [f"{n} of the {len(places)} prompts repeat{'s' * (n == 1)} another: each counts once."]


def units_over(stack: Stack, prompts: Sequence[Tokens], unit: Unit) -> list[Unit]:
    """What fires on all the other prompts, for each one, so that a unit is the same for all."""
    if len(prompts) == 1:
        return [unit]
    acts: list[list[SparseActs]] = []
    for tokens in prompts:
        sites = stack.read(stack.model.batch(tokens.ids))
        by_given = sorted(zip(stack.given, sites, strict=True), key=lambda pair: pair[0])
        acts.append(
            [
                site.acts.select(
                    counted(tokens, sinks=site.sinks).to(stack.model.device)[site.acts.positions]
                )
                for _, site in by_given
            ]
        )
    probe = "the probe text and " if any(each is not None for each in unit.references) else ""
    return [
        unit._replace(
            references=[
                joined(
                    [own[n] for k, own in enumerate(acts) if k != i]
                    + ([given] if given is not None else [])
                )
                for n, given in enumerate(unit.references)
            ],
            texts=f"{probe}these prompts",
        )
        for i in range(len(prompts))
    ]


def _known(site: SiteRecord, mask: Tensor, unit: Unit, given: int) -> Known:
    """How strongly an SAE's features fire at the prompt's counted positions, on the reference
    texts, and over the index."""
    here = site.acts.select(mask[site.acts.positions])
    reference, indexed = unit.references[given], unit.indexed[given]
    texts = "this prompt"
    if reference is not None:
        here, texts = joined([here, reference]), unit.texts
    return Known(here, indexed and indexed.on(here.values.device), texts)


def _joint_units(stack: Stack, parts: Mapping[int, _SAEEdits]) -> Units:
    """All edits' units; what is said of them names the SAE where there are several."""
    whose = {i: f"{stack.name(i)}: " if len(stack.saes) > 1 else "" for i in parts}
    return Units(
        _in_order([(part.own, part.units.values) for part in parts.values()]),
        "; ".join(f"{whose[i]}{part.units.source}" for i, part in parts.items()),
        [f"{whose[i]}{warning}" for i, part in parts.items() for warning in part.units.warnings],
    )


def _controls(
    stack: Stack, parts: Mapping[int, _SAEEdits]
) -> tuple[list[list[FeatureRef]], list[Plans]]:
    """Each control's features, one for every edit, and its plans: as many as can be drawn for every
    SAE."""
    drawn: list[list[FeatureRef]] = []
    plans: list[Plans] = []
    for n in range(min(len(part.drawn) for part in parts.values())):
        named = [
            (part.own, [FeatureRef(stack.given[i], feature) for feature in part.drawn[n]])
            for i, part in parts.items()
        ]
        drawn.append(_in_order(named))
        plans.append(
            {i: control_plan(stack.saes[i], part.plan, part.drawn[n]) for i, part in parts.items()}
        )
    return drawn, plans


def _in_order(parts: Sequence[tuple[list[int], Sequence[T]]]) -> list[T]:
    """What stands in parts, one value for each edit, in the order of all edits."""
    values = {n: value for own, of_part in parts for n, value in zip(own, of_part, strict=True)}
    return [values[n] for n in sorted(values)]
