"""A measured answer to "does this SAE belong here?": reconstruction and CE score on a short probe
text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.errors import HookError
from saescope.evals.layers import (
    LEAST_GAIN,
    Scale,
    best_elsewhere,
    best_scale,
    fit_layers,
    n_positions,
    peak,
    tried_at,
)
from saescope.evals.verdict import FAIR_CE, FAIR_EV, GOOD_CE, GOOD_EV, LITTLE_COST
from saescope.hooks import edit_activations
from saescope.metrics import LEAST_POSITIONS, RunningFit, score_between
from saescope.models import LanguageModel, counted
from saescope.ops import SparseActs
from saescope.records.evaluation import LayerFit, ProbeCheck
from saescope.saes import SAE
from saescope.sinks import PROBE_TEXT
from saescope.splice import add_at_site, read_hook, read_site, site_edits, site_hooks, splice
from saescope.verdicts import Judgement, Quality

L0_FACTOR = 2
"""Texts differ, and so does L0 on them: only beyond this factor does a difference say something."""
_RANK = (Quality.UNKNOWN, Quality.WRONG, Quality.DOUBTFUL, Quality.FAIR, Quality.GOOD)
"""From the level that decides against all others."""


@dataclass(frozen=True, kw_only=True)
class Check(ProbeCheck):
    """Quality on the probe text, and what fires there."""

    acts: SparseActs
    """What fires at the positions that are measured: `acts.typical()` and `acts.maxima()` are what
    units are made of."""


def check_sae(
    model: LanguageModel, sae: SAE, *, published_l0: float | None = None, scan: bool = False
) -> Check:
    """Encode the probe text and run the model with the SAE in place, clean and with the site
    zeroed; compare L0, and how the SAE fits at other layers. `scan` measures the CE score at every
    layer as well. On a model whose later layers are not loaded nothing is known of predictions."""
    limit = min(model.n_ctx, sae.cfg.metadata.context_size or model.n_ctx)
    tokens = model.tokenize(PROBE_TEXT, prepend_bos=sae.cfg.metadata.prepend_bos, limit=limit)
    ids = model.batch(tokens.ids)
    site = read_site(model, sae, ids)
    mask = counted(tokens, sinks=site.sinks).to(model.device)
    fit, scale = RunningFit(), best_scale(site.target[mask], site.sae_out[mask])
    fit.add(site.target[mask], site.sae_out[mask])
    l0 = float(site.acts.l0[mask].float().mean()) if bool(mask.any()) else 0.0
    known = model.whole and bool(mask[:-1].any())
    ce, layers = _predictions(_ReadText(model, ids, mask), sae, scan=scan) if known else (None, ())
    findings = [
        *of_reconstruction(fit.explained_variance),
        *_of_predictions(ce),
        *_elsewhere(layers, read_hook(sae)),
        *_scaled(scale),
        *_published(l0, published_l0 if bool(mask.any()) else None),
    ]
    return Check(
        n_tokens=int(mask.sum()),
        n_sinks=int(counted(tokens).sum() - mask.sum()),
        l0=l0,
        explained_variance=fit.explained_variance,
        ce_score=ce and ce.score,
        clean_loss=ce and ce.clean,
        ablation_cost=ce and ce.zeroed - ce.clean,
        scale=scale and scale.factor,
        peak=peak([*layers]),
        layers=layers,
        published_l0=published_l0,
        verdict=judged(findings),
        acts=site.acts.select(mask[site.acts.positions]),
    )


@dataclass(frozen=True, slots=True)
class ProbeLoss:
    """Next-token cross-entropy in nats, by what stands at the site."""

    clean: float
    with_sae: float
    zeroed: float

    @property
    def score(self) -> float | None:
        return score_between(self.zeroed, self.clean, self.with_sae)


class _ReadText(NamedTuple):
    """A text as the model reads it, and the positions that count."""

    model: LanguageModel
    ids: Int[Tensor, "1 n_pos"]
    mask: Bool[Tensor, " n_pos"]

    def cross_entropy(self) -> float:
        """Mean next-token cross-entropy in nats at these positions, in the model as it is now."""
        logits = self.model.forward(self.ids)[0][0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, self.ids[0, 1:], reduction="none")
        return float(losses[self.mask[:-1]].mean())


def _predictions(
    text: _ReadText, sae: SAE, *, scan: bool
) -> tuple[ProbeLoss, tuple[LayerFit, ...]]:
    """The losses, and the fit at every layer, whose activations come from the clean pass."""
    model, tried = text.model, tried_at(text.model, sae)
    n = min(n_positions(sae.cfg, len(tried)), len(text.mask))
    recorded: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor, hook: object) -> None:
        recorded[name] = x[:, :n].detach().clone()

    hooks = {name: partial(keep, name) for each in tried for name in site_hooks(each)}
    with model.lock, model.hooked([*hooks.items()]):
        clean = text.cross_entropy()
    layers = fit_layers(model, tried, recorded, text.mask[:n])
    if scan:
        of_hook = {read_hook(each): each for each in tried}
        start = _ReadText(model, text.ids[:, :n], text.mask[:n])
        layers = [replace(fit, ce_score=_score(start, of_hook[fit.hook_name])) for fit in layers]
    return _losses(text, sae, clean), tuple(layers)


def _score(text: _ReadText, sae: SAE) -> float | None:
    """None where the site can be read and not edited."""
    clean = text.cross_entropy()
    try:
        return _losses(text, sae, clean).score
    except HookError:
        return None


def _losses(text: _ReadText, sae: SAE, clean: float) -> ProbeLoss:
    with splice(text.model, [sae], positions=text.mask[None]):
        with_sae = text.cross_entropy()

    def to_zero(read: Tensor, written: Tensor) -> Tensor:
        flat = written.reshape(len(text.mask), -1)
        return add_at_site(written, -flat * text.mask[:, None])

    with edit_activations(text.model, site_edits(sae, to_zero)):
        return ProbeLoss(clean, with_sae, text.cross_entropy())


def judged(findings: Sequence[Judgement[Quality]]) -> Judgement[Quality]:
    """The worst finding decides and says why; what was measured well beside it is named."""
    level = min((finding.level for finding in findings), key=_RANK.index, default=Quality.GOOD)
    if level is Quality.GOOD:
        return Judgement(level, "reconstructs what the model does here")
    return Judgement(level, "; ".join(each.why for each in findings if each.level is level))


def of_reconstruction(ev: float | None) -> list[Judgement[Quality]]:
    """What an explained variance says; nothing where it is good."""
    if ev is None:
        why = (
            f"fewer than {LEAST_POSITIONS} positions are too few to measure on, or the activation "
            "never varies there"
        )
        return [Judgement(Quality.UNKNOWN, why)]
    if ev < 0:
        why = (
            "reconstructs worse than the mean; this is not the model, hook or preparation that "
            "the SAE was trained on"
        )
        return [Judgement(Quality.WRONG, why)]
    if ev < FAIR_EV:
        why = "loses more than half of the activation; check model and hook, or use a better SAE"
        return [Judgement(Quality.DOUBTFUL, why)]
    if ev < GOOD_EV:
        return [Judgement(Quality.FAIR, f"usable, with {1 - ev:.0%} of the activation unexplained")]
    return []


def _of_predictions(loss: ProbeLoss | None) -> list[Judgement[Quality]]:
    """None where the site is worth so little that a score says nothing."""
    score = None if loss is None else loss.score
    if loss is None or score is None or loss.zeroed - loss.clean < LITTLE_COST or score >= GOOD_CE:
        return []
    level = Quality.FAIR if score >= FAIR_CE else Quality.DOUBTFUL
    why = f"the model's predictions keep {score:.0%} of what the site is worth to them"
    return [Judgement(level, why)]


def _elsewhere(layers: Sequence[LayerFit], own: str) -> list[Judgement[Quality]]:
    best = best_elsewhere([*layers], own)
    here = next((fit for fit in layers if fit.hook_name == own), None)
    if best is None or here is None or best.explained_variance < FAIR_EV:
        return []
    why = (
        f"explains {best.explained_variance:.2f} at {best.hook_name} and "
        f"{here.explained_variance:.2f} at its own {own}: it may have been trained there"
    )
    return [Judgement(Quality.DOUBTFUL, why)]


def _scaled(scale: Scale | None) -> list[Judgement[Quality]]:
    """An L1 penalty makes reconstructions too short; none makes them too long."""
    if scale is None or scale.gain < LEAST_GAIN or scale.factor <= 0:
        return []
    fits = f"multiplied by {scale.factor:.2f} it would explain {scale.gain:.2f} more"
    if scale.factor < 1:
        why = (
            f"reconstructions are {1 / scale.factor:.2g} times as large as fits ({fits}): the "
            "encoder, or the activations that it was trained on, have another scale"
        )
        return [Judgement(Quality.DOUBTFUL, why)]
    why = f"reconstructions are too small ({fits}), by an L1 penalty or another scale"
    return [Judgement(Quality.FAIR, why)]


def _published(l0: float, published: float | None) -> list[Judgement[Quality]]:
    """Far more or far fewer features fire than when the SAE was published."""
    if published is None or (published <= L0_FACTOR * l0 and l0 <= L0_FACTOR * published):
        return []
    why = (
        f"{l0:.3g} features fire at a position, {published:.3g} were published: "
        "the gate, the site or the model may be another"
    )
    return [Judgement(Quality.DOUBTFUL, why)]
