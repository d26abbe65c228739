"""The layer at which an SAE fits best: one that was trained elsewhere explains more there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.metrics import LEAST_POSITIONS, RunningFit
from saescope.models import LanguageModel
from saescope.names import same_site, split_hook
from saescope.precision import wide
from saescope.records.evaluation import LayerFit
from saescope.saes import SAE, SAEConfig
from saescope.splice import read_hook, site_hooks, site_record, write_hook

MOST_POSITIONS = 128
MOST_FLOPS = 4e11
"""A wide SAE is tried on fewer positions: some seconds of two CPU cores."""
MARGIN = 1.25
"""How many times as much of the variance must be lost at an SAE's own layer as at the best one for
the two to be told apart. The embedded SAE, of layer 14 of SmolLM2-135M, loses 0.167 there, 1.24 and
1.50 times that one layer off, 1.40 and 1.92 times that two layers off."""
LEAST_GAIN = 0.02
"""The least explained variance that another layer, or another scale, must add to be named."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The factor that fits a reconstruction best, and the explained variance that it would add."""

    factor: float
    gain: float


def moved(sae: SAE, hook_name: str) -> SAE:
    """A new SAE with the same weights at the site of another layer; a transcoder's two sites stay
    as far apart."""
    meta = sae.cfg.metadata
    changed = {"hook_name": hook_name}
    if sae.cfg.transcoder:
        names = (meta.hook_name, hook_name, meta.hook_name_out)
        own, there, out = (split_hook(name)[0] or 0 for name in names)
        changed["hook_name_out"] = same_site(meta.hook_name_out, out + there - own)
    return sae.with_metadata(replace(meta, **changed))


def tried_at(model: LanguageModel, sae: SAE) -> list[SAE]:
    """The SAE at every layer whose site can be read, its own among them; empty where its site has
    no layer. Mixtures and hybrids lack some."""
    if any(split_hook(name)[0] is None for name in site_hooks(sae)):
        return []
    sites = model.fires.sites
    everywhere = (moved(sae, same_site(read_hook(sae), layer)) for layer in range(model.n_layers))
    return [each for each in everywhere if sites.issuperset(site_hooks(each))]


def n_positions(cfg: SAEConfig, n_layers: int) -> int:
    """The number of positions on which an SAE of this size is tried at so many layers."""
    affordable = MOST_FLOPS / (2 * cfg.d_in * cfg.d_sae * max(n_layers, 1))
    return int(min(MOST_POSITIONS, max(2 * LEAST_POSITIONS, affordable)))


def fit_layers(
    model: LanguageModel,
    tried: list[SAE],
    recorded: Mapping[str, Tensor],
    mask: Bool[Tensor, " n_pos"],
) -> list[LayerFit]:
    """How each reconstructs its site, on the positions that count everywhere; sites of another
    width, and those whose activations are not finite, are left out."""
    usable = [sae for sae in tried if _fits(sae, recorded)]
    for sae in usable:
        mask = mask & ~_out_of_proportion(model, recorded[read_hook(sae)], mask)
    fits = list[LayerFit]()
    for sae in usable:
        site = site_record(model, sae, recorded[read_hook(sae)], recorded[write_hook(sae)])
        target, out = site.target[mask], site.sae_out[mask]
        fit, scale = RunningFit(), best_scale(target, out)
        fit.add(target, out)
        if fit.explained_variance is not None and scale is not None:
            fits.append(LayerFit(read_hook(sae), fit.explained_variance, scale.factor))
    return fits


def best_elsewhere(fits: list[LayerFit], own: str) -> LayerFit | None:
    """The layer at which the SAE clearly fits better than at its own; None if there is none."""
    here = next((fit for fit in fits if fit.hook_name == own), None)
    best = peak(fits)
    if here is None or best is None:
        return None
    lost, least = 1 - here.explained_variance, 1 - best.explained_variance
    return best if lost > MARGIN * least and lost - least > LEAST_GAIN else None


def peak(fits: list[LayerFit]) -> LayerFit | None:
    """The layer that is explained best."""
    return max(fits, key=lambda fit: fit.explained_variance, default=None)


def best_scale(
    target: Float[Tensor, "n_pos d"], reconstruction: Float[Tensor, "n_pos d"]
) -> Scale | None:
    """Least squares of the target on the reconstruction, both about their means; None where the
    one or the other never varies."""
    if len(target) < LEAST_POSITIONS:
        return None
    target, made = wide(target), wide(reconstruction)
    target, made = target - target.mean(0), made - made.mean(0)
    size, total = float(made.square().sum()), float(target.square().sum())
    if not size or not total:
        return None
    factor = float((target * made).sum()) / size
    return Scale(factor, size * (1 - factor) ** 2 / total)


def _fits(sae: SAE, recorded: Mapping[str, Tensor]) -> bool:
    widths = ((read_hook(sae), sae.cfg.d_in), (write_hook(sae), sae.cfg.d_out))
    return all(
        name in recorded
        and recorded[name].flatten(2).shape[-1] == width
        and bool(recorded[name].isfinite().all())
        for name, width in widths
    )


def _out_of_proportion(
    model: LanguageModel, x: Tensor, mask: Bool[Tensor, " n_pos"]
) -> Bool[Tensor, " n_pos"]:
    """Sinks by the norms of this text: `find_sinks` would run the model once for each layer."""
    norms = x.flatten(2).float().norm(dim=-1)[0]
    typical = float(norms[mask].median()) if bool(mask.any()) else 0.0
    limit = model.sink_factor * typical if model.sink_factor else 0.0
    return norms > limit if limit > 0 else torch.zeros_like(mask)
