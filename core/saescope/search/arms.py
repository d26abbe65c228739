"""Other ways to change the model as much as a mix of features does: random mixes, a difference of
means, another mode, the mix without one of its features."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import exp, log

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.models import Tokens, counted
from saescope.stack import Stack
from saescope.steering.edits import EditPlan, FeatureEdit, scaled
from saescope.steering.prepare import Plans

Directions = Mapping[int, Float[Tensor, " d_out"]]
"""A direction where some SAEs of a stack write, by index."""
FIRST, ROUNDS, MOST = (0.25, 1.0, 4.0), 4, 64.0
"""Factors at which an equal KL is looked for at first, how often the next one is worked out, and
the largest."""


def times(plans: Plans, factor: float) -> Plans:
    """The same edits at a multiple of their strengths."""
    return {i: scaled(plan, factor) for i, plan in plans.items()}


def in_mode(plans: Plans, mode: str) -> Plans:
    """The same features and strengths in another mode."""
    return {
        i: replace(plan, edits=tuple(replace(edit, mode=mode) for edit in plan.edits))
        for i, plan in plans.items()
    }


def without(stack: Stack, plans: Plans, edits: Sequence[FeatureEdit], left_out: int) -> Plans:
    """The plans of all edits but one, which is given by its place among all."""
    kept: dict[int, EditPlan] = {}
    for i, plan in plans.items():
        own = [n for n, edit in enumerate(edits) if edit.sae == stack.given[i]]
        rows = [row for row, n in enumerate(own) if n != left_out]
        if rows:
            kept[i] = plan.only(rows)
    return kept


def of_equal_norm(plans: Plans, control: Plans) -> Plans:
    """A control whose mix of rows is as long as that of the plans, at each SAE: features that are
    as long one by one may add up to more or less."""
    made: dict[int, EditPlan] = {}
    for i, plan in control.items():
        norm = float(mix(plan).norm())
        factor = float(mix(plans[i]).norm()) / norm if norm > 0 else 0.0
        made[i] = replace(plan, rows=plan.rows * factor)
    return made


def along(plans: Plans, directions: Directions) -> Plans:
    """Where the plans act, a direction that is added in place of their mix, of the same norm."""
    made: dict[int, EditPlan] = {}
    for i, plan in plans.items():
        size = mix(plan).norm() / directions[i].norm().clamp(min=1e-30)
        row = (directions[i].to(plan.rows) * size)[None]
        edit = FeatureEdit(plan.edits[0].feature, sae=plan.edits[0].sae)
        made[i] = EditPlan((edit,), (1.0,), row, plan.masks.any(0, keepdim=True))
    return made


def mix(plan: EditPlan) -> Float[Tensor, " d_out"]:
    """What the plan adds at a position, in `add`."""
    sizes = [edit.strength * unit for edit, unit in zip(plan.edits, plan.units, strict=True)]
    return torch.tensor(sizes, dtype=plan.rows.dtype, device=plan.rows.device) @ plan.rows


def mean_difference(
    stack: Stack, texts: Sequence[Tokens], against: Sequence[Tokens]
) -> dict[int, Float[Tensor, " d_out"]]:
    """The mean activation of `texts` where each SAE writes, less that of `against`; of the counted
    positions of a text, each text weighing the same.

    Raises:
        ArgumentError: no position of one of the two counts.
    """
    ours, theirs = (
        _means(stack, each, field) for each, field in ((texts, "texts"), (against, "against"))
    )
    return {i: one - other for i, (one, other) in enumerate(zip(ours, theirs, strict=True))}


def _means(stack: Stack, texts: Sequence[Tokens], field: str) -> list[Tensor]:
    found: list[list[Tensor]] = [[] for _ in stack.saes]
    for tokens in texts:
        for i, site in enumerate(stack.read(stack.model.batch(tokens.ids))):
            here = site.written[counted(tokens, sinks=site.sinks).to(site.written.device)]
            if len(here):
                found[i].append(here.float().mean(0))
    if not all(found):
        raise ArgumentError(
            f"No position of {field} counts: position 0 and special tokens are left out.",
            code="TOO_FEW_TEXTS",
            field=field,
            got=len(texts),
            allowed="texts of at least two tokens",
            hint="Give longer texts.",
        )
    return [torch.stack(means).mean(0) for means in found]


def match_kl(kl_of: Callable[[Sequence[float]], Sequence[float]], target: float) -> float:
    """The factor whose KL is nearest to the target, between `1 / MOST` and `MOST`: KL grows about
    as a power of the factor, so lines through two points on logarithmic scales lead there."""
    known = dict(zip(FIRST, kl_of(FIRST), strict=True))
    for _ in range(ROUNDS):
        new = _next_factor(known, target)
        if new is None or new in known:
            break
        known[new] = kl_of([new])[0]
    return min(known, key=lambda factor: abs(known[factor] - target))


def _next_factor(known: Mapping[float, float], target: float) -> float | None:
    """Where the line through the two points nearest to the target, one on each side if there are
    such, meets it."""
    points = sorted((factor, kl) for factor, kl in known.items() if kl > 0)
    if len(points) < 2 or target <= 0:
        return None
    below = [n for n, (_, kl) in enumerate(points) if kl <= target]
    first = min(max(below[-1] if below else 0, 0), len(points) - 2)
    (low, low_kl), (high, high_kl) = points[first : first + 2]
    if high_kl <= low_kl:
        return (low * high) ** 0.5
    slope = log(high / low) / log(high_kl / low_kl)
    return min(max(low * exp(slope * log(target / low_kl)), 1 / MOST), MOST)


def between(low: float, high: float, n: int) -> list[float]:
    """Numbers between two, by equal ratios."""
    return [low * (high / low) ** (k / (n + 1)) for k in range(1, n + 1)]
