"""The gradient of a logit at an SAE's site: on the clean run, along a path, or through the final
norm alone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.hooks import edit_activations, record_activations
from saescope.models import LanguageModel, Target
from saescope.splice import SiteRecord, write_hook
from saescope.stack import Stack
from saescope.variants import MAX_TOKENS, Variants, forward_variants

N_STEPS = 32


@dataclass(frozen=True, slots=True)
class Metric:
    """A target at one position."""

    target: Target
    position: int
    """Counted from the end: -1 is the last."""

    def __call__(self, logits: Float[Tensor, "n n_out d_vocab"]) -> Float[Tensor, " n"]:
        assert self.position < 0, "logits may be those of the last positions only"
        return self.target.of(logits[:, self.position])


def site_gradients(
    stack: Stack,
    ids: Int[Tensor, "1 n_pos"],
    metric: Metric,
    changes: Float[Tensor, "n n_pos d_out"] | None = None,
) -> tuple[list[Float[Tensor, "n n_pos d_out"]], Float[Tensor, " n"]]:
    """d metric / d site for each SAE, and the metric; with each of `changes` added at the site of a
    stack of one.

    A gradient is total: it holds every path from the site to the metric, those through the sites of
    other SAEs too.
    """
    leaves: dict[int, Tensor] = {}

    def attach(i: int, read: Tensor, written: Tensor) -> Tensor:
        rows = (
            written
            if changes is None
            else written.expand(len(changes), *written.shape[1:])
            + changes.reshape(-1, *written.shape[1:]).to(written)
        )
        # What depends on a site below stays tied to it; cut off, that site's gradient would miss
        # the paths through here.
        leaves[i] = rows.clone() if rows.requires_grad else rows.detach().clone().requires_grad_()
        return leaves[i].clone()  # some families add in place to what is given here

    with torch.enable_grad():
        # The sum over rows: each row depends on its own leaf alone, so one backward pass gives
        # every row's gradient.
        variants = Variants(1 if changes is None else len(changes), attach)
        # Of no position before the metric's are logits needed.
        value = metric(forward_variants(stack, ids, variants, last=-metric.position, grad=True))
        gradients = torch.autograd.grad(value.sum(), [leaves[i] for i in range(len(stack.saes))])
    return [g.reshape(*g.shape[:2], -1).detach() for g in gradients], value.detach()


def path_gradient(
    stack: Stack,
    ids: Int[Tensor, "1 n_pos"],
    metric: Metric,
    site: SiteRecord,
    mask: Bool[Tensor, " n_pos"],
) -> tuple[Float[Tensor, "n_pos d_out"], float]:
    """Integrate for a stack of one: the mean gradient from the zero baseline (no features, no error
    at `mask`) to the clean run, and clean minus baseline.

    Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) by Gauss-Legendre quadrature
    with 32 points.
    """
    whole = (stack.saes[0].decode_change(site.acts, like=site.x) + site.error) * mask[:, None]
    nodes, weights = (
        torch.tensor(a, dtype=whole.dtype, device=whole.device)
        for a in np.polynomial.legendre.leggauss(N_STEPS)
    )
    total = torch.zeros_like(whole)
    # From [-1, 1], where the quadrature lives, to [0, 1].
    steps, share = (nodes + 1) / 2, weights / 2
    size = max(1, MAX_TOKENS // ids.shape[1])
    for alpha, weight in zip(steps.split(size), share.split(size), strict=True):
        # The run at alpha holds alpha * whole at the site: the clean run less (1 - alpha) of it.
        # [n, n_pos, d_out]
        (gradient,), _ = site_gradients(stack, ids, metric, (alpha - 1)[:, None, None] * whole)
        total += (weight[:, None, None] * gradient).sum(0)
    _, ends = site_gradients(stack, ids, metric, torch.stack([-whole, torch.zeros_like(whole)]))
    return total, float(ends[1] - ends[0])


def direct_gradients(
    stack: Stack, ids: Int[Tensor, "1 n_pos"], metric: Metric
) -> list[Float[Tensor, "n_pos d_out"]]:
    """d metric / d site for each SAE through the residual stream and the final norm with its scale
    held fixed; zero but at the metric's position.

    Raises:
        ArgumentError: what is written at a site reaches the logits by no linear map.
    """
    maps = [_require_map(stack.model, write_hook(sae)) for sae in stack.saes]
    at_residual = _residual_gradient(stack.model, ids, metric)
    gradients: list[Tensor] = []
    for sae, to_residual in zip(stack.saes, maps, strict=True):
        with torch.enable_grad():
            # The map is linear, so its transpose is its gradient at any point: zero will do.
            change = at_residual.new_zeros(1, sae.cfg.d_out).requires_grad_()
            (at_site,) = torch.autograd.grad(to_residual(change)[0] @ at_residual, change)
        gradient = at_residual.new_zeros(ids.shape[1], sae.cfg.d_out)
        gradient[metric.position] = at_site[0]
        gradients.append(gradient)
    return gradients


def _require_map(model: LanguageModel, hook_name: str) -> Callable[[Tensor], Tensor]:
    to_residual = model.residual_map(hook_name)
    if to_residual is None:
        raise ArgumentError(
            f"What is written at {hook_name} does not reach the logits by a linear "
            "map, so nothing is direct there.",
            code="METHOD_NOT_AVAILABLE",
            field="method",
            got="direct",
            allowed=["gradient", "integrated_gradients"],
            hint='Call again with method="gradient".',
        )
    return to_residual


def _residual_gradient(
    model: LanguageModel, ids: Int[Tensor, "1 n_pos"], metric: Metric
) -> Float[Tensor, " d_model"]:
    """The gradient at the end of the residual stream, the final norm's scale held fixed."""
    leaf: list[Tensor] = []

    def attach(normed: Tensor) -> Tensor:
        leaf[:] = [normed.detach().clone().requires_grad_()]
        return leaf[0].clone()

    with edit_activations(model, {"unembed.hook_in": attach}), torch.enable_grad():
        (gradient,) = torch.autograd.grad(metric(model.forward(ids, grad=True)[0]).sum(), leaf[0])
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    resid = record_activations(model, ids, [last])[last][0, metric.position]
    readout = model.readout
    # normed = gain * (r - mean) / scale: the gain and the fixed scale first, then the mean, which
    # takes the mean off the gradient.
    at_residual = gradient[0, metric.position] * readout.gain / model.final_scale(resid)
    return at_residual - at_residual.mean() if readout.centred else at_residual
