"""Adam in one fused pass, with gradient clipping folded in as its gradient scale; decoder rows may
be held at norm 1."""

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.ranks import ALONE, Ranks
from saescope.training.objective import Params
from saescope.training.split import OF_ALL

EPS = 1e-8


class Adam:
    """Adam (Kingma & Ba 2015) over named parameters, changed in place; every tensor of its state is
    plain."""

    def __init__(
        self,
        params: Params,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        ranks: Ranks = ALONE,
    ) -> None:
        """`ranks` have other features: the norm of the gradients is that of all of them."""
        self.params, self.ranks = params, ranks
        self.betas = (beta1, beta2)
        self.mean = {name: torch.zeros_like(param) for name, param in params.items()}
        self.square = {name: torch.zeros_like(param) for name, param in params.items()}
        self.steps = {name: torch.zeros((), device=param.device) for name, param in params.items()}

    def step(self, grads: Params, *, lr: float, max_grad_norm: float) -> Float[Tensor, ""]:
        """One update; returns the gradients' total norm before clipping. 0 = no clipping.
        Overwrites `grads`."""
        names = list(self.params)
        total = self._norm(grads)
        scale = ((total + 1e-6) / max_grad_norm).clamp(min=1.0) if max_grad_norm else None
        torch._fused_adam_(  # type: ignore[reportPrivateUsage]  # the only way to its grad_scale
            [self.params[name] for name in names],
            [grads[name] for name in names],
            [self.mean[name] for name in names],
            [self.square[name] for name in names],
            [],
            self._count(names),
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=EPS,
            amsgrad=False,
            maximize=False,
            grad_scale=scale,
            found_inf=None,
        )
        return total

    def _norm(self, grads: Params) -> Float[Tensor, ""]:
        norms = {name: torch.linalg.vector_norm(grads[name]) for name in self.params}
        if not self.ranks.alone:
            own = torch.stack([norm for name, norm in norms.items() if name not in OF_ALL])
            whole = {name: norm for name, norm in norms.items() if name in OF_ALL}
            norms = whole | {"features": self.ranks.total(own.square().sum()).sqrt()}
        return torch.linalg.vector_norm(torch.stack([*norms.values()]))

    def _count(self, names: list[str]) -> list[Tensor]:
        counts = [self.steps[name] for name in names]
        for count in counts:
            count += 1
        return counts

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the state under one name."""
        parts = {"mean": self.mean, "square": self.square, "steps": self.steps}
        return {
            f"{part}.{name}": tensor
            for part, tensors in parts.items()
            for name, tensor in tensors.items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def forget(self, name: str, rows: Tensor) -> None:
        """Restart some rows of a parameter, as resampling needs it."""
        self.mean[name][rows] = 0
        self.square[name][rows] = 0


def remove_parallel(grad: Float[Tensor, "d_sae d"], rows: Float[Tensor, "d_sae d"]) -> None:
    """Take out of each row's gradient what would only change its (unit) norm (Bricken et al.
    2023)."""
    grad.addcmul_(rows, (grad * rows).sum(1, keepdim=True), value=-1)


def normalize_rows(rows: Float[Tensor, "d_sae d"]) -> None:
    rows /= rows.norm(dim=1, keepdim=True).clamp(min=EPS)
