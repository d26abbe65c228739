"""A measured answer to "does this set belong here?": how every layer reconstructs its site on a
probe text."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from jaxtyping import Bool
from torch import Tensor

from saescope.evals.check import PROBE_TEXT, judged, of_reconstruction
from saescope.evals.layers import best_scale
from saescope.hooks import record_activations
from saescope.metrics import RunningFit
from saescope.models import LanguageModel, counted
from saescope.ops import SparseActs
from saescope.records.evaluation import LayerFit, SetCheck
from saescope.sets import Member, SAESet
from saescope.sinks import find_sinks
from saescope.splice import prepare_input
from saescope.verdicts import Judgement


def check_set(model: LanguageModel, sae_set: SAESet, *, most_bytes: int | None = None) -> SetCheck:
    """Encode the probe text with the members of a settled set and compare what they reconstruct
    with the model's own activation, one layer after the other. Of a set with more than `most_bytes`
    on disk only the first, middle and last layer are read; of such a cross-layer transcoder, whose
    layers add up, only the first."""
    meta = sae_set.members[0].cfg.metadata
    limit = min(model.n_ctx, meta.context_size or model.n_ctx)
    tokens = model.tokenize(PROBE_TEXT, prepend_bos=meta.prepend_bos, limit=limit)
    members = _measured(sae_set, most_bytes)
    hooks = dict.fromkeys(name for each in members for name in _sites(each))
    recorded = record_activations(model, model.batch(tokens.ids), hooks)
    xs = {each.index: recorded[each.read_hook].flatten(2)[0] for each in members}
    acts: list[SparseActs] = []
    fits: list[_LayerOfSet] = []
    for member in members:
        acts.append(member.encode(xs[member.index]))
        here = {name: recorded[name] for name in _sites(member)}
        mask = counted(tokens, sinks=find_sinks(model, here).flatten()).to(model.device)
        made = _reconstructed(sae_set, member, acts, xs)
        target = recorded[_sites(member)[1]].flatten(2)[0]
        if sae_set.kind == "residual":
            target = prepare_input(model, member.sae, target)
        fits.append(_fit(member, acts[-1], mask, target.to(made), made))
    return _summed(fits)


class _LayerOfSet(NamedTuple):
    """What was measured of one layer."""

    hook_name: str
    n_tokens: int
    l0: float
    explained_variance: float | None
    scale: float | None


def _measured(sae_set: SAESet, most_bytes: int | None) -> list[Member]:
    members = sae_set.members
    if most_bytes is None or sae_set.memory.on_disk <= most_bytes or len(members) < 4:
        return [*members]
    if sae_set.kind == "cross_layer":
        return [members[0]]
    return [members[0], members[len(members) // 2], members[-1]]


def _sites(member: Member) -> tuple[str, str]:
    return member.read_hook, member.write_hooks[member.index]


def _reconstructed(
    sae_set: SAESet, member: Member, acts: Sequence[SparseActs], xs: Mapping[int, Tensor]
) -> Tensor:
    if sae_set.kind == "cross_layer":  # measured from the first layer on: what is added up is there
        return sae_set.reconstruction(member.index, acts, xs)
    return sae_set.reconstruction(member.index, {member.index: acts[-1]}, xs)


def _fit(
    member: Member, acts: SparseActs, mask: Bool[Tensor, " n_pos"], target: Tensor, made: Tensor
) -> _LayerOfSet:
    fit, scale = RunningFit(), best_scale(target[mask], made[mask])
    fit.add(target[mask], made[mask])
    l0 = float(acts.l0[mask].float().mean()) if bool(mask.any()) else 0.0
    n_tokens = int(mask.sum())
    return _LayerOfSet(
        member.read_hook, n_tokens, l0, fit.explained_variance, scale and scale.factor
    )


def _summed(fits: Sequence[_LayerOfSet]) -> SetCheck:
    layers = tuple(
        LayerFit(fit.hook_name, fit.explained_variance, fit.scale or 0.0)
        for fit in fits
        if fit.explained_variance is not None
    )
    worst = min(layers, key=lambda fit: fit.explained_variance, default=None)
    findings = [*of_reconstruction(worst and worst.explained_variance)]
    verdict = judged(findings)
    if findings and worst is not None:
        verdict = Judgement(verdict.level, f"{worst.hook_name}: {verdict.why}")
    return SetCheck(
        n_tokens=fits[0].n_tokens,
        n_layers=len(fits),
        l0=median(fit.l0 for fit in fits),
        explained_variance=median(fit.explained_variance for fit in layers) if layers else None,
        worst=worst,
        layers=layers,
        verdict=verdict,
    )
