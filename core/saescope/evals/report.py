"""Turns the sums of both passes into the numbers that are reported."""

from collections.abc import Mapping
from dataclasses import fields
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.evals.baselines import Fitted
from saescope.evals.reconstruction import Reconstruction
from saescope.evals.sums import GroupedSums, interval, once, resampled
from saescope.evals.text import EvalText
from saescope.evals.verdict import DENSE, Measured, judge
from saescope.metrics import LEAST_POSITIONS
from saescope.records.evaluation import (
    Baseline,
    Baselines,
    CrossEntropy,
    DensityBin,
    Evaluation,
    Interval,
    KLDivergence,
    PositionBin,
    Shrinkage,
)
from saescope.saes import SAE
from saescope.splice import read_hook, write_hook

Metrics = dict[str, Float[Tensor, " n_draws"]]
BINS_A_DECADE = 2
_NO_INTERVAL = (
    *("zero_everywhere", "_legacy", "l2_norm_in", "l2_norm_out", "l1"),
    *("ce.random_sae", "ce.pca", "kl.random_sae", "kl.pca", "kl.mean_ablation"),
)
"""Metrics of which no interval is reported: those of sae-lens alone, and parts of a score."""


def report(
    sae: SAE,
    text: EvalText,
    fit: Reconstruction,
    fitted: Fitted | None,
    *,
    warnings: tuple[str, ...],
) -> Evaluation:
    """The evaluation that the sums of both passes make."""
    value = {
        name: _number(float(values))
        for name, values in metrics(fit.by_group, once(fit.by_group.n_groups)).items()
    }
    intervals = _intervals(fit.by_group, text.seed)
    density = fit.n_fired.cpu().double() / fit.n_tokens
    made, ce, kl = _baselines(value, fitted), _cross_entropy(value), _kl(value)
    return Evaluation(
        dataset=text.name,
        hook_name=read_hook(sae),
        hook_name_out=write_hook(sae),
        n_tokens=fit.n_tokens,
        n_sinks=text.n_sinks,
        n_contexts=len(text),
        n_documents=text.n_documents,
        context_size=text.ids.shape[1],
        seed=text.seed,
        l0=value["l0"] or 0.0,
        explained_variance=value["explained_variance"],
        mse=value["mse"] or 0.0,
        cosine=value["cosine"] or 0.0,
        ce=ce,
        ce_score=value["ce_score"],
        kl=kl,
        kl_score=value["kl_score"],
        dead_share=float((density == 0).double().mean()),
        dense_share=float((density > DENSE).double().mean()),
        shrinkage=Shrinkage(value["l2_ratio"] or 0.0, value["relative_reconstruction_bias"]),
        density=density_histogram(density),
        positions=_positions(fit),
        baselines=made,
        intervals=intervals,
        saelens=_saelens(value),
        verdict=judge(_measured(sae, fit, value, density, made, intervals)),
        warnings=warnings,
        n_fired=tuple(fit.n_fired.tolist()),
    )


def metrics(sums: GroupedSums, weights: Float[Tensor, "n_draws n_groups"]) -> Metrics:
    """Each metric for each draw of the text; NaN where it is undefined. Variances are about the
    mean of the whole text in every draw. "over_<name>" is the explained variance beyond that of a
    baseline, of the same draw."""
    total = sums.totals(weights)
    n, n_all = total["n"], sums.total("n")
    mean = sums.total("target") / n_all
    variance = total["target2"] - 2 * total["target"] @ mean + n * mean.square().sum()
    if n_all < LEAST_POSITIONS:
        variance = torch.full_like(variance, torch.nan)
    made = {
        "l0": total["l0"] / n,
        "l1": total["l1"] / n,
        "mse": total["sse"] / n,
        "cosine": total["cosine"] / n,
        "l2_norm_in": total["norm_in"] / n,
        "l2_norm_out": total["norm_out"] / n,
        "l2_ratio": total["norm_ratio"] / n,
        "relative_reconstruction_bias": total["out2"] / total["target_out"],
        "explained_variance": 1 - total["sse"] / variance,
        "explained_variance_legacy": total["legacy"] / n,
    }
    made |= {
        f"{name}.explained_variance": 1 - total[f"sse.{name}"] / variance
        for name in ("random_sae", "pca")
        if f"sse.{name}" in total
    }
    made |= {name: total[name] / total["n_ce"] for name in total if name.startswith("ce.")}
    made |= {name: total[name] / total["n_kl"] for name in total if name.startswith("kl.")}
    zero, clean = made["ce.zero_ablation"], made["ce.clean"]
    made["ablation_cost"] = zero - clean
    made["ce_score"] = (zero - made["ce.with_sae"]) / (zero - clean)
    made |= {
        f"{name}.ce_score": (zero - made[f"ce.{name}"]) / (zero - clean)
        for name in ("random_sae", "pca")
        if f"ce.{name}" in made
    }
    made["kl_score"] = 1 - made["kl.with_sae"] / made["kl.zero_ablation"]
    made |= {
        f"over_{name}": made["explained_variance"] - made[f"{name}.explained_variance"]
        for name in ("random_sae", "pca")
        if f"{name}.explained_variance" in made
    }
    return made


def _number(value: float) -> float | None:
    return value if isfinite(value) else None


def _intervals(sums: GroupedSums, seed: int) -> dict[str, Interval]:
    drawn = metrics(sums, resampled(sums.n_groups, seed))
    made = {
        name: interval(values, sums.n_groups)
        for name, values in drawn.items()
        if not name.endswith(_NO_INTERVAL)
    }
    return {name: each for name, each in made.items() if each is not None}


def _cross_entropy(value: Mapping[str, float | None]) -> CrossEntropy | None:
    values = [value[f"ce.{each.name}"] for each in fields(CrossEntropy)]
    known = [number for number in values if number is not None]
    return CrossEntropy(*known) if len(known) == len(values) else None


def _kl(value: Mapping[str, float | None]) -> KLDivergence | None:
    with_sae, zero = value["kl.with_sae"], value["kl.zero_ablation"]
    return None if with_sae is None or zero is None else KLDivergence(with_sae, zero)


def _baselines(value: Mapping[str, float | None], fitted: Fitted | None) -> Baselines | None:
    if fitted is None:
        return None

    def baseline(name: str, size: int) -> Baseline:
        return Baseline(size, value[f"{name}.explained_variance"], value[f"{name}.ce_score"])

    random_sae, pca = baseline("random_sae", fitted.random_sae.sae.cfg.k), fitted.pca
    if pca is None:
        return Baselines(random_sae, None, None)
    rank_to_match = pca.rank_to_match(value["explained_variance"])
    return Baselines(random_sae, baseline("pca", pca.rank), rank_to_match)


def density_histogram(density: Float[Tensor, " d_sae"]) -> tuple[DensityBin, ...]:
    """Features by how often they fire, in half decades from the rarest that fired up to 1; those
    that never fired are not in it."""
    fired = density[density > 0]
    if not len(fired):
        return ()
    number = (fired.log10() * BINS_A_DECADE).floor().clamp(max=-1).long()
    lowest = int(number.min())
    counts = torch.bincount(number - lowest, minlength=-lowest).tolist()
    edges = [10 ** ((lowest + i) / BINS_A_DECADE) for i in range(len(counts) + 1)]
    return tuple(
        DensityBin(low, high, n) for low, high, n in zip(edges, edges[1:], counts, strict=False)
    )


def _positions(fit: Reconstruction) -> tuple[PositionBin, ...]:
    """Explained variance by range of positions; the variance is about the mean of all, so that the
    ranges add up to the whole."""
    table, offset = fit.by_position.table, (fit.mean - fit.shift).cpu()
    n = table["n"]
    variance = table["target2"] - 2 * table["target"] @ offset + n * offset.square().sum()
    explained = (1 - table["sse"] / variance).tolist()
    lasts = [edge - 1 for edge in (*fit.edges[1:], fit.context_size)]
    rows = zip(fit.edges, lasts, n.int().tolist(), explained, strict=True)
    return tuple(
        PositionBin(first, last, count, _number(ev)) for first, last, count, ev in rows if count
    )


def _saelens(value: Mapping[str, float | None]) -> dict[str, float]:
    same = (
        "explained_variance",
        "explained_variance_legacy",
        "mse",
        "l2_norm_in",
        "l2_norm_out",
        "l2_ratio",
        "relative_reconstruction_bias",
        "l0",
        "l1",
    )
    named = {name: value[name] for name in same} | {
        "cossim": value["cosine"],
        "ce_loss_without_sae": value["ce.clean"],
        "ce_loss_with_sae": value["ce.with_sae"],
        "ce_loss_with_ablation": value["ce.zero_everywhere"],
        "kl_div_with_sae": value["kl.with_sae"],
        "kl_div_with_ablation": value["kl.zero_everywhere"],
    }
    known = {name: number for name, number in named.items() if number is not None}
    clean, with_sae, zero = (
        known.get(f"ce_loss_{name}") for name in ("without_sae", "with_sae", "with_ablation")
    )
    if clean is not None and with_sae is not None and zero is not None and zero != clean:
        known["ce_loss_score"] = (zero - with_sae) / (zero - clean)
    if known.get("kl_div_with_ablation"):
        known["kl_div_score"] = 1 - known["kl_div_with_sae"] / known["kl_div_with_ablation"]
    return known


def _measured(
    sae: SAE,
    fit: Reconstruction,
    value: Mapping[str, float | None],
    density: Float[Tensor, " d_sae"],
    baselines: Baselines | None,
    intervals: dict[str, Interval],
) -> Measured:
    return Measured(
        n_tokens=fit.n_tokens,
        n_documents=fit.by_group.n_groups,
        l0=value["l0"] or 0.0,
        explained_variance=value["explained_variance"],
        ce_score=value["ce_score"],
        clean_loss=value["ce.clean"],
        ablation_cost=value["ablation_cost"],
        dead_share=float((density == 0).double().mean()),
        dense_share=float((density > DENSE).double().mean()),
        l2_ratio=value["l2_ratio"] or 0.0,
        baselines=baselines,
        intervals=intervals,
        transcoder=sae.cfg.transcoder,
    )
