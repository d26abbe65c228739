"""Scaling of activations before they reach the SAE, estimated on the first batches and folded into the weights at the end."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from saescope.errors import NumericError
from saescope.saes import SAE
from saescope.training.config import TrainConfig
from saescope.training.objective import Batch

EIGENVALUE_FLOOR = 1e-3


@dataclass(frozen=True, slots=True)
class Scaling:
    """x -> x * factor_in (or whitened), y -> y * factor_out."""

    factor_in: float = 1.0
    factor_out: float = 1.0
    whitening: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """mean, matrix and inverse in float64; empty without whitening."""

    def __call__(self, batch: Batch) -> Batch:
        if self.whitening:
            x = (batch.x - self.whitening["mean"].to(batch.x)) @ self.whitening["matrix"].to(
                batch.x
            )
            return Batch(x, x)
        if self.factor_in == self.factor_out == 1:
            return batch
        x = batch.x * self.factor_in
        return Batch(x, x if batch.y is batch.x else batch.y * self.factor_out)

    def to(self, device: torch.device) -> "Scaling":
        return replace(
            self, whitening={name: tensor.to(device) for name, tensor in self.whitening.items()}
        )


def estimate(cfg: TrainConfig, batches: Sequence[Batch]) -> Scaling:
    """Mean norm sqrt(d) (Conerly et al. 2024), or zero mean and unit covariance (arXiv:2511.13981), as sae-lens does."""
    if cfg.normalize_activations == "none":
        return Scaling()
    if cfg.normalize_activations == "covariance_whitening":
        return Scaling(whitening=_whitening(torch.cat([batch.x for batch in batches]).double()))
    factor_in = _factor([batch.x for batch in batches])
    return Scaling(
        factor_in, _factor([batch.y for batch in batches]) if cfg.transcoder else factor_in
    )


def _factor(parts: list[Tensor]) -> float:
    mean = float(torch.cat([part.norm(dim=-1) for part in parts]).mean())
    if not 0 < mean < float("inf"):
        raise NumericError(
            f"The activations' mean norm is {mean}: nothing can be trained on them.",
            hint="Check hook_name, dtype and the text.",
        )
    return parts[0].shape[-1] ** 0.5 / mean


def _whitening(x: Tensor) -> dict[str, Tensor]:
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    values = values.clamp(min=0) + EIGENVALUE_FLOOR
    return {
        "mean": mean,
        "matrix": vectors * values.rsqrt(),
        "inverse": values.sqrt()[:, None] * vectors.T,
    }


def fold(sae: SAE, scaling: Scaling) -> SAE:
    """An SAE for raw activations from one trained on scaled ones."""
    if scaling.whitening:
        return sae.fold_activation_whitening(
            *(scaling.whitening[name].to(sae.W_enc) for name in ("mean", "matrix", "inverse"))
        )
    folded, ratio = (
        sae.fold_activation_norm_scaling_factor(scaling.factor_in),
        scaling.factor_in / scaling.factor_out,
    )
    if ratio == 1:
        return folded
    tensors = folded.tensors()
    scaled = {
        name: tensors[name] * ratio for name in ("W_dec", "b_dec", "W_skip") if name in tensors
    }
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) and "threshold" in tensors:
        scaled["threshold"] = tensors["threshold"] * ratio
    return type(folded)(folded.cfg, tensors | scaled)
