"""A measured answer to "does this SAE belong here?": reconstruction and CE score on a short probe
text."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.hooks import edit_activations
from saescope.metrics import RunningFit, score_between
from saescope.models import LanguageModel, counted
from saescope.ops import SparseActs
from saescope.records.evaluation import ProbeCheck
from saescope.saes import SAE
from saescope.sinks import PROBE_TEXT
from saescope.splice import add_at_site, read_site, site_edits, splice
from saescope.verdicts import Judgement, Quality

L0_FACTOR = 2
"""Texts differ, and so does L0 on them: only beyond this factor does a difference say something."""


@dataclass(frozen=True, kw_only=True)
class Check(ProbeCheck):
    """Quality on the probe text, and what fires there."""

    acts: SparseActs
    """What fires at the positions that are measured: `acts.typical()` and `acts.maxima()` are what
    units are made of."""


def check_sae(model: LanguageModel, sae: SAE, *, published_l0: float | None = None) -> Check:
    """Encode the probe text and run the model with the SAE in place, clean and with the site
    zeroed; compare L0."""
    limit = min(model.n_ctx, sae.cfg.metadata.context_size or model.n_ctx)
    tokens = model.tokenize(PROBE_TEXT, prepend_bos=sae.cfg.metadata.prepend_bos, limit=limit)
    ids = model.batch(tokens.ids)
    site = read_site(model, sae, ids)
    mask = counted(tokens, sinks=site.sinks).to(model.device)
    fit = RunningFit()
    fit.add(site.target[mask], site.sae_out[mask])
    ev = fit.explained_variance
    l0 = float(site.acts.l0[mask].float().mean()) if bool(mask.any()) else 0.0
    ce = _ce_score(model, sae, ids, mask) if bool(mask[:-1].any()) else None
    verdict = _verdict(ev, ce)
    if published_l0 is not None and bool(mask.any()):
        verdict = _against_published(verdict, l0, published_l0)
    return Check(
        n_tokens=int(mask.sum()),
        n_sinks=int(counted(tokens).sum() - mask.sum()),
        l0=l0,
        explained_variance=ev,
        ce_score=ce,
        published_l0=published_l0,
        verdict=verdict,
        acts=site.acts.select(mask[site.acts.positions]),
    )


def _ce_score(
    model: LanguageModel, sae: SAE, ids: Int[Tensor, "1 n_pos"], mask: Bool[Tensor, " n_pos"]
) -> float | None:
    clean = _cross_entropy(model.forward(ids)[0], ids, mask)
    with splice(model, [sae], positions=mask[None]):
        with_sae = _cross_entropy(model.forward(ids)[0], ids, mask)

    def to_zero(read: Tensor, written: Tensor) -> Tensor:
        flat = written.reshape(len(mask), -1)
        return add_at_site(written, -flat * mask[:, None])

    with edit_activations(model, site_edits(sae, to_zero)):
        zeroed = _cross_entropy(model.forward(ids)[0], ids, mask)
    return score_between(zeroed, clean, with_sae)


def _cross_entropy(
    logits: Float[Tensor, "1 n_pos d_vocab"],
    ids: Int[Tensor, "1 n_pos"],
    mask: Bool[Tensor, " n_pos"],
) -> float:
    """Mean next-token cross-entropy in nats, of the predictions made at the positions of `mask`."""
    losses = torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="none")
    return float(losses[mask[:-1]].mean())


def _verdict(ev: float | None, ce: float | None) -> Judgement[Quality]:
    if ev is None:
        why = "too few positions to measure on, or the activation never varies there"
        return Judgement(Quality.UNKNOWN, why)
    if ev < 0:
        why = (
            "reconstructs worse than the mean; this is not the model, hook or preparation that "
            "the SAE was trained on"
        )
        return Judgement(Quality.WRONG, why)
    if ev < 0.5 or (ce is not None and ce < 0.7):
        why = "loses much of the activation; check model and hook, or use a better SAE"
        return Judgement(Quality.DOUBTFUL, why)
    if ev >= 0.75 and (ce is None or ce >= 0.9):
        return Judgement(Quality.GOOD, "reconstructs what the model does here")
    return Judgement(Quality.FAIR, "usable, with a noticeable error term")


def _against_published(
    verdict: Judgement[Quality], l0: float, published: float
) -> Judgement[Quality]:
    """A verdict is no better than doubtful where far more or far fewer features fire than when the
    SAE was published."""
    if published <= L0_FACTOR * l0 and l0 <= L0_FACTOR * published:
        return verdict
    off = (
        f"{l0:.3g} features fire at a position, {published:.3g} were published: "
        "the gate, the site or the model may be another"
    )
    if verdict.level in (Quality.GOOD, Quality.FAIR):
        return Judgement(Quality.DOUBTFUL, f"{off} (reconstruction alone: {verdict.level})")
    return Judgement(verdict.level, f"{verdict.why}; {off}")
