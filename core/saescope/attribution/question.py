"""A question about a prediction: the clean run, and what every active pair is attributed."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.attribution.gradients import Metric, direct_gradients, path_gradient, site_gradients
from saescope.models import NamedTarget, Tokens, counted
from saescope.ops import SparseActs
from saescope.precision import wide
from saescope.records.attribution import PositionError, SAEShare
from saescope.splice import SiteRecord
from saescope.spread import require_one_site
from saescope.stack import Stack

MOST_POSITIONS = 5
"""Positions of the error that a share names."""


@dataclass(frozen=True, slots=True)
class Question:
    """One prediction to explain, and everything that the clean run says about it; by SAE in the
    order of the stack."""

    stack: Stack
    tokens: Tokens
    ids: Int[Tensor, "1 n_pos"]
    usual: Bool[Tensor, " n_pos"]
    """Positions that count before sinks are left out."""
    masks: list[Bool[Tensor, " n_pos"]]
    sites: list[SiteRecord]
    logits: Float[Tensor, " d_vocab"]
    position: int
    metric: Metric
    method: str = "gradient"
    n_controls: int = 0
    """Draws that were asked for."""


@dataclass(frozen=True, slots=True)
class Part:
    """What every active pair of one SAE is attributed, and what that comes to; on the CPU, where
    pairs are chosen."""

    acts: SparseActs
    attributions: Float[Tensor, " n"]
    sizes: Float[Tensor, " n"]
    """|f| times the norm of the decoder row; 0 for features that write nothing."""
    share: SAEShare
    completeness: float | None


def ask(
    stack: Stack, tokens: Tokens, named: NamedTarget, *, position: int, include_special: bool
) -> Question:
    """The clean run, and what is asked of its prediction at `position`.

    Raises:
        ConfigError: CROSS_LAYER_FEATURE: a layer of a cross-layer transcoder.
    """
    require_one_site(stack.saes, "attribution")
    model = stack.model
    ids = model.batch(tokens.ids)
    logits = model.forward(ids)[0][0, position]
    sites = stack.read(ids)
    usual, *masks = (
        counted(tokens, include_special=include_special, sinks=sinks)
        for sinks in (None, *(site.sinks for site in sites))
    )
    metric = Metric(named.on(logits), position - ids.shape[1])
    return Question(stack, tokens, ids, usual, masks, sites, logits, position, metric)


def score(question: Question) -> list[Part]:
    """What every active pair, and the error, of each SAE is attributed."""
    q, parts = question, list[Part]()
    for i, (gradient, span) in enumerate(zip(*_gradients(question), strict=True)):
        sae, site, mask = q.stack.saes[i], q.sites[i], q.masks[i]
        counts = mask.to(site.acts.values.device)
        acts = site.acts.select(counts[site.acts.positions])
        nodes = (wide(site.error) * wide(gradient)).sum(-1)  # one a position
        errors = torch.where(counts.to(nodes.device), nodes, 0.0).cpu()
        # [3, n], in one copy: where the host waits for each, it waits as long for three.
        values, attributions, sizes = torch.stack(
            [
                wide(acts.values),
                wide(sae.contributions(acts, gradient, like=site.x)),
                wide(acts.values.abs() * sae.decoder.norm(dim=-1).to(acts.values)[acts.features]),
            ]
        ).cpu()
        acts = SparseActs(values, acts.features.cpu(), acts.offsets.cpu(), acts.d_sae)
        nodes, total = float(errors.abs().sum()), float(attributions.sum())
        whole = float(attributions.abs().sum()) + nodes
        share = SAEShare(
            sae=q.stack.given[i],
            total=len(attributions),
            error_attribution=float(errors.sum()),
            error_share=nodes / whole if whole else None,
            error_positions=_error_positions(q.tokens, errors, acts, attributions),
            features_attribution=total,
            error_effect=None,
            n_tokens=int(mask.sum()),
            n_left_out=int((~mask).sum()),
            n_sinks=int(q.usual.sum()) - int(mask.sum()),
        )
        # Where no position is counted, clean and baseline are one run: their difference is
        # rounding.
        explains = bool(span) and bool(mask.any())
        completeness = (total + share.error_attribution) / span if explains else None
        parts.append(Part(acts, attributions, sizes, share, completeness))
    return parts


def _error_positions(
    tokens: Tokens,
    errors: Float[Tensor, " n_pos"],
    acts: SparseActs,
    attributions: Float[Tensor, " n"],
) -> list[PositionError]:
    pairs = torch.zeros(len(errors), dtype=torch.float64)
    pairs.index_add_(0, acts.positions, attributions.abs())
    nodes = errors.abs()
    shares = nodes / (nodes + pairs).clamp(min=torch.finfo(torch.float64).tiny)
    strongest = nodes.argsort(descending=True, stable=True)[:MOST_POSITIONS].tolist()
    return [
        PositionError(
            pos=pos,
            token=tokens.strings[pos],
            attribution=float(errors[pos]),
            share=float(shares[pos]),
        )
        for pos in strongest
        if errors[pos]
    ]


def _gradients(
    question: Question,
) -> tuple[list[Float[Tensor, "n_pos d_out"]], list[float]]:
    q, stack = question, question.stack
    if q.method == "integrated_gradients":
        paths = [
            path_gradient(stack.alone(i), q.ids, q.metric, site, mask.to(site.x.device))
            for i, (site, mask) in enumerate(zip(q.sites, q.masks, strict=True))
        ]
        return [gradient for gradient, _ in paths], [span for _, span in paths]
    if q.method == "direct":
        gradients = direct_gradients(stack, q.ids, q.metric)
    else:
        gradients = [rows[0] for rows in site_gradients(stack, q.ids, q.metric)[0]]
    # No run without the features was made: there is no difference for them to add up to.
    rows = [g.to(site.x) for g, site in zip(gradients, q.sites, strict=True)]
    return rows, [0.0] * len(rows)
