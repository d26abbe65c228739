"""Scaling of activations before they reach the SAE, estimated on the first batches and folded into
the weights at the end."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from saescope.errors import NumericError
from saescope.precision import wide
from saescope.saes import SAE
from saescope.training.config import TrainConfig
from saescope.training.objective import Batch
from saescope.training.start import geometric_median

EIGENVALUE_FLOOR = 1e-3
DOMINATED = 4.0
"""Times the mean distance from the centre beyond which a mean norm says nothing of how far
activations vary."""
CENTRES = ("centre_in", "centre_out")


@dataclass(frozen=True, slots=True)
class Scaling:
    """x -> (x - centre_in) * factor_in (or whitened), y -> (y - centre_out) * factor_out."""

    factor_in: float = 1.0
    factor_out: float = 1.0
    whitening: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """mean, matrix and inverse in float64; empty without whitening."""
    centres: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """`CENTRES`; a site whose activations are not dominated by their centre has none."""

    def __call__(self, batch: Batch) -> Batch:
        if self.whitening:
            x = (batch.x - self.whitening["mean"].to(batch.x)) @ self.whitening["matrix"].to(
                batch.x
            )
            return Batch(x, x)
        if self.factor_in == self.factor_out == 1 and not self.centres:
            return batch
        x = self.centred(batch.x, "centre_in") * self.factor_in
        return Batch(
            x, x if batch.y is batch.x else self.centred(batch.y, "centre_out") * self.factor_out
        )

    def to(self, device: torch.device) -> "Scaling":
        whitening, centres = (
            {name: tensor.to(device) for name, tensor in tensors.items()}
            for tensors in (self.whitening, self.centres)
        )
        return replace(self, whitening=whitening, centres=centres)

    def centred(self, x: Tensor, name: str) -> Tensor:
        """`x` without the centre of that name, if there is one."""
        return x - self.centres[name] if name in self.centres else x


def estimate(cfg: TrainConfig, batches: Sequence[Batch]) -> Scaling:
    """Mean norm sqrt(d) (Conerly et al. 2024), or zero mean and unit covariance (arXiv:2511.13981),
    as sae-lens does.

    Where one dimension or all have a mean far beyond what varies, the norm is the mean's: scaled by
    it, activations would vary by less than a JumpReLU's bandwidth. There the centre is taken out
    first, and put back into the biases at the end.
    """
    if cfg.normalize_activations == "none":
        return Scaling()
    if cfg.normalize_activations == "covariance_whitening":
        return Scaling(whitening=_whitening(wide(torch.cat([batch.x for batch in batches]))))
    x = [batch.x for batch in batches]
    y = [batch.y for batch in batches] if cfg.transcoder else x
    dominating = dict(zip(CENTRES, (_dominating_centre(x), _dominating_centre(y)), strict=True))
    centres = {name: centre for name, centre in dominating.items() if centre is not None}
    centred = Scaling(centres=centres)
    x, y = (
        [centred.centred(part, name) for part in parts]
        for name, parts in zip(CENTRES, (x, y), strict=True)
    )
    return Scaling(_factor(x), _factor(y), centres=centres)


def _dominating_centre(parts: list[Tensor]) -> Tensor | None:
    """The geometric median, where activations are far from zero but near to it."""
    x = torch.cat(parts)
    centre = geometric_median(x)
    spread = float((x - centre).norm(dim=-1).mean())
    return centre if 0 < DOMINATED * spread < float(x.norm(dim=-1).mean()) else None


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
        return folded.fold_centres(*map(scaling.centres.get, CENTRES))
    tensors = folded.tensors()
    scaled = {
        name: tensors[name] * ratio for name in ("W_dec", "b_dec", "W_skip") if name in tensors
    }
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) and "threshold" in tensors:
        scaled["threshold"] = tensors["threshold"] * ratio
    rescaled = type(folded)(folded.cfg, tensors | scaled)
    return rescaled.fold_centres(*map(scaling.centres.get, CENTRES))
