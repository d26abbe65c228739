"""Every term of every training loss, written plainly for autograd: what the fast steps in `steps/`
are checked against.

The formulas are sae-lens 6.54's, term by term and name by name; a transcoder predicts `y` and may
add `x @ W_skip.T`. Ghost gradients are sae-lens 5's (Jermyn & Templeton 2024), with one scale a
position.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.training.objective import Batch, Coefficients, Objective, Params

Losses = dict[str, Tensor]


class LossInputs(NamedTuple):
    """What a loss is computed of."""

    objective: Objective
    params: Params
    batch: Batch
    coefficients: Coefficients
    dead: Bool[Tensor, " d_sae"] | None
    """The dead features, where the objective revives any."""

    @property
    def centred(self) -> Tensor:
        """The input as the encoder takes it."""
        x = self.batch.x
        return x - self.params["b_dec"] if self.objective.apply_b_dec_to_input else x

    @property
    def hidden_pre(self) -> Tensor:
        return self.centred @ self.params["encoder"].T + self.params["b_enc"]


Loss = Callable[[LossInputs], Losses]


def squared_error(out: Float[Tensor, "n d"], target: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """The squared error, summed over the vector and averaged over positions."""
    return (out - target).square().sum(-1).mean()


def output(params: Params, acts: Tensor, x: Tensor) -> Tensor:
    out = acts @ params["decoder"] + params["b_dec"]
    return out + x @ params["W_skip"].T if "W_skip" in params else out


def standard_loss(given: LossInputs) -> Losses:
    objective, params, batch, coefficients, dead = given
    hidden_pre = given.hidden_pre
    acts = hidden_pre.relu()
    out = output(params, acts, batch.x)
    sparsity = (acts * params["decoder"].norm(dim=1)).norm(p=objective.lp_norm, dim=-1)
    terms = {
        "mse_loss": squared_error(out, batch.y),
        "l1_loss": (coefficients.sparsity * sparsity).mean(),
    }
    if objective.revival == "ghost" and dead is not None and bool(dead.any()):
        terms["ghost_loss"] = coefficients.revival * ghost_loss(
            hidden_pre[:, dead], (batch.y - out).detach(), params["decoder"][dead]
        )
    return terms


def ghost_loss(
    hidden_pre: Float[Tensor, "n n_dead"],
    residual: Float[Tensor, "n d"],
    rows: Float[Tensor, "n_dead d"],
) -> Tensor:
    """Dead features, through exp, predict half of the residual's norm; each position weighs as much
    as its own error."""
    ghost = hidden_pre.exp() @ rows
    ghost = ghost * (residual.norm(dim=-1) / (1e-6 + 2 * ghost.norm(dim=-1))).detach()[:, None]
    error = (ghost - residual).square().sum(-1)
    return (error * (residual.square().sum(-1) / (error + 1e-6)).detach()).mean()


def gated_loss(given: LossInputs) -> Losses:
    params, batch = given.params, given.batch
    x, rows = given.centred, params["decoder"]
    shared = x @ params["encoder"].T
    gate = shared + params["b_gate"]
    magnitude = (shared * params["r_mag"].exp() + params["b_mag"]).relu()
    via_gate = gate.relu()
    return {
        "mse_loss": squared_error(
            output(params, (gate > 0).to(magnitude) * magnitude, batch.x), batch.y
        ),
        "l1_loss": given.coefficients.sparsity * (via_gate * rows.norm(dim=1)).sum(-1).mean(),
        # sae-lens trains decoder and b_dec through this term too; the paper stops their gradient.
        "auxiliary_reconstruction_loss": squared_error(output(params, via_gate, batch.x), batch.y),
    }


def topk_loss(given: LossInputs) -> Losses:
    objective, params, batch, coefficients, dead = given
    norm = (
        params["decoder"].norm(dim=-1)
        if objective.rescale_acts_by_decoder_norm
        else params["decoder"].new_ones(objective.d_sae)
    )
    ranked = given.hidden_pre * norm
    acts = (
        topk(ranked, int(objective.k))
        if objective.recipe.whole_k
        else batch_topk(ranked, objective.k)
    )
    acts = acts * (1 / norm)
    widths = objective.matryoshka_widths or (objective.d_sae,)
    prefixes = [
        output({**params, "decoder": params["decoder"][:width]}, acts[:, :width], batch.x)
        for width in widths
    ]
    terms = {"mse_loss": squared_error(prefixes[-1], batch.y)}
    if objective.revival == "auxk" and dead is not None:
        residuals = [(batch.y - out).detach() for out in prefixes]
        per_prefix = objective.use_matryoshka_aux_loss
        groups = (
            zip((0, *widths), widths, residuals, strict=False)
            if per_prefix
            else [(0, objective.d_sae, residuals[-1])]
        )
        rows = params["decoder"] / norm[:, None]
        parts = [
            auxk_loss(ranked[:, a:b], residual, rows[a:b], dead[a:b]) for a, b, residual in groups
        ]
        terms["auxiliary_reconstruction_loss"] = coefficients.revival * torch.stack(parts).sum()
    inner = {
        f"inner_mse_loss_{width}": squared_error(out, batch.y)
        for width, out in zip(widths[:-1], prefixes[:-1], strict=True)
    }
    return terms | inner


def topk(ranked: Float[Tensor, "n d_sae"], k: int) -> Float[Tensor, "n d_sae"]:
    """The k largest of each position, then relu (Gao et al. 2024)."""
    top = ranked.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(ranked).scatter(-1, top.indices, top.values.relu())


def batch_topk(ranked: Float[Tensor, "n d_sae"], k: float) -> Float[Tensor, "n d_sae"]:
    """The k * n largest of the whole batch after relu (Bussmann et al. 2024)."""
    acts = ranked.relu().flatten()
    top = acts.topk(int(k * len(ranked)), sorted=False)
    return torch.zeros_like(acts).scatter(-1, top.indices, top.values).reshape(ranked.shape)


def auxk_loss(
    ranked: Float[Tensor, "n w"],
    residual: Float[Tensor, "n d"],
    rows: Float[Tensor, "w d"],
    dead: Bool[Tensor, " w"],
) -> Float[Tensor, ""]:
    """The largest d/2 dead features, without relu, predict the residual; scaled down when fewer are
    dead (Gao et al. 2024, A.2)."""
    n_dead, k_aux = int(dead.sum()), residual.shape[-1] // 2
    if n_dead == 0:
        return residual.new_zeros(())
    top = torch.where(dead, ranked, -torch.inf).topk(min(k_aux, n_dead), sorted=False)
    acts = torch.zeros_like(ranked).scatter(-1, top.indices, top.values)
    return min(n_dead / k_aux, 1.0) * squared_error(acts @ rows, residual)


def jumprelu_loss(given: LossInputs) -> Losses:
    objective, params, batch, coefficients, dead = given
    hidden_pre, threshold = given.hidden_pre, params["threshold"]
    bandwidth, to_input = objective.jumprelu_bandwidth, objective.jumprelu_ste_to_input
    acts = cast(Tensor, JumpReLU.apply(hidden_pre, threshold, bandwidth, to_input))
    norm = params["decoder"].norm(dim=1)
    if objective.jumprelu_sparsity_loss_mode == "tanh":
        sparsity = torch.tanh(objective.jumprelu_tanh_scale * acts * norm).sum(-1)
    else:
        fires = cast(Tensor, Heaviside.apply(hidden_pre, threshold, bandwidth, to_input))
        sparsity = fires.sum(-1)
        if objective.jumprelu_sparsity_loss_mode == "quadratic":
            sparsity = 2 / objective.target_l0 * (sparsity - objective.target_l0).square()
    terms = {
        "mse_loss": squared_error(output(params, acts, batch.x), batch.y),
        "l0_loss": (coefficients.sparsity * sparsity).mean(),
    }
    if objective.revival == "pre_act" and dead is not None:
        terms["pre_act_loss"] = (
            coefficients.revival * ((threshold - hidden_pre).relu() * dead * norm).sum(-1).mean()
        )
    return terms


def rectangle(x: Tensor) -> Tensor:
    return ((x > -0.5) & (x < 0.5)).to(x)


class Heaviside(torch.autograd.Function):
    """1[x > threshold] with a straight-through gradient of width `bandwidth` (Rajamanoharan et al.
    2024, arXiv:2407.14435)."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, threshold, ctx.bandwidth, ctx.to_input = args
        ctx.save_for_backward(x, threshold)
        return (x > threshold).to(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, threshold = ctx.saved_tensors
        through = rectangle((x - threshold) / ctx.bandwidth) / ctx.bandwidth * grads[0]
        return through if ctx.to_input else None, -through.sum(0), None, None


class JumpReLU(torch.autograd.Function):
    """x * 1[x > threshold] with the same straight-through gradient for the threshold."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, threshold, ctx.bandwidth, ctx.to_input = args
        ctx.save_for_backward(x, threshold)
        return x * (x > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, threshold = ctx.saved_tensors
        through = threshold / ctx.bandwidth * rectangle((x - threshold) / ctx.bandwidth) * grads[0]
        direct = (x > threshold) * grads[0]
        return direct + through if ctx.to_input else direct, -through.sum(0), None, None
