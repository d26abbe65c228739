"""Attributions against autograd, finite differences and closed formulas on plain Hugging Face
models; effects against separate runs."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.oracle import (
    KINDS,
    LAYER,
    Array,
    Change,
    Family,
    NumpySAE,
    Reference,
    as_array,
    close,
    flat,
    make_sae,
    shifted_by,
)
from torch import Tensor

from saescope.attribution import Attribution, attribute
from saescope.attribution.ablation import (
    N_NEAREST,
    Pairs,
    draw_controls,
    removal,
)
from saescope.controls import compare_with
from saescope.errors import ArgumentError
from saescope.metrics import spearman
from saescope.models import Target, Tokens, load_model
from saescope.ops import from_dense
from saescope.records.controls import Comparison
from saescope.saes import SAE
from saescope.splice import read_hook, read_site, write_hook
from saescope.stack import as_stack
from saescope.variants import run_variants

TEXT = "The old man saw the little house<eos> by the"
TARGET, AGAINST = 300, 41


def tokens_of(family: Family) -> Tokens:
    return family.model.tokenize(TEXT, prepend_bos=True)


def counted_by_hand(tokens: Tokens) -> Array:
    return np.array([float(pos > 0 and int(token) > 3) for pos, token in enumerate(tokens.ids)])


def sae_for(family: Family, kind: str, **options: Any) -> SAE:
    if KINDS[kind].site not in family.hf.sites:
        pytest.skip("parallel blocks")
    return make_sae(family, kind, **options)


def metric_of(
    logits: Tensor, against: int | None, position: int = -1, measure: str = "logprob"
) -> Tensor:
    row = logits[0, position].double()
    if against is not None:
        return row[TARGET] - row[against]
    return row[TARGET] - (torch.logsumexp(row, 0) if measure == "logprob" else 0)


class Site:
    """An SAE's site in the plain model: what arrives, what the SAE makes of it, and the metric as a
    function of a change there."""

    def __init__(
        self,
        family: Family,
        sae: SAE,
        against: int | None,
        position: int = -1,
        hf: Reference | None = None,
        measure: str = "logprob",
    ) -> None:
        self.measure = measure
        self.hf, self.sae, self.against, self.position = (
            hf or family.hf,
            NumpySAE(sae),
            against,
            position,
        )
        self.tokens = tokens_of(family)
        self.ids, self.mask = self.tokens.ids[None], counted_by_hand(self.tokens)
        self.name = write_hook(sae)
        found = self.hf.record(self.ids, [read_hook(sae), self.name])
        self.x, self.written = flat(found[read_hook(sae)]), flat(found[self.name])
        self.acts = self.sae.encode(self.x)
        self.error = self.written - self.sae(self.x)
        self.directions = self.sae.directions(self.x)

    def metric(self, change: Array | None = None) -> float:
        changes: dict[str, Change] = {} if change is None else {self.name: shifted_by(change)}
        logits = self.hf.logits(self.ids, changes)
        return float(metric_of(logits, self.against, self.position, self.measure))

    def gradient(self, change: Array | None = None) -> Array:
        leaf: list[Tensor] = []

        def attach(x: Tensor) -> Tensor:
            leaf.append(
                (x if change is None else shifted_by(change)(x)).detach().clone().requires_grad_()
            )
            return leaf[0]

        logits = self.hf.logits(self.ids, {self.name: attach}, grad=True)
        value = metric_of(logits, self.against, self.position, self.measure)
        return flat(torch.autograd.grad(value, leaf[0])[0])

    def attributions(self, gradient: Array) -> Array:
        """f_i (W_dec_i . g) of every position and feature that counts."""
        return self.acts * np.einsum("pid,pd->pi", self.directions, gradient) * self.mask[:, None]

    def without(self, pairs: Sequence[tuple[int, int]]) -> Array:
        """The change that ablating these (feature, position) pairs makes."""
        change = np.zeros_like(self.written)
        for feature, pos in pairs:
            change[pos] -= self.acts[pos, feature] * self.directions[pos, feature]
        return change

    def effect(self, pairs: Sequence[tuple[int, int]]) -> float:
        return self.metric() - self.metric(self.without(pairs))


def pairs_of(result: Attribution) -> list[tuple[int, int]]:
    return [(feature.feature, feature.pos) for feature in result.features]


def assert_attributed(
    result: Attribution, site: Site, gradient: Array, tolerance: float = 1e-3
) -> None:
    """The strongest k in order, with their numbers, the error's share and the counts."""
    expected = site.attributions(gradient)
    values = [feature.attribution for feature in result.features]
    close(values, [expected[pos, feature] for feature, pos in pairs_of(result)], tolerance)
    close(np.abs(values), np.sort(np.abs(expected), axis=None)[::-1][: len(values)], tolerance)
    close(
        [feature.activation for feature in result.features],
        [site.acts[pos, feature] for feature, pos in pairs_of(result)],
    )
    assert [feature.token for feature in result.features] == [
        site.tokens.strings[feature.pos] for feature in result.features
    ]
    errors = (site.error * gradient * site.mask[:, None]).sum(1)  # one node a position
    total = np.abs(expected).sum() + np.abs(errors).sum()
    assert result.error_attribution == pytest.approx(errors.sum(), abs=tolerance * total)
    assert result.error_share == pytest.approx(np.abs(errors).sum() / total, abs=tolerance)
    named = [each.pos for each in result.error_positions]
    assert len(named) == min(5, int((errors != 0).sum()))
    close(np.abs(errors[named]), np.sort(np.abs(errors))[::-1][: len(named)], tolerance)
    close([each.attribution for each in result.error_positions], errors[named], tolerance)
    at = np.abs(errors[named]) + np.abs(expected[named]).sum(1)
    close([each.share for each in result.error_positions], np.abs(errors[named]) / at, tolerance)
    assert result.features_attribution == pytest.approx(expected.sum(), abs=tolerance * total)
    assert result.total == ((site.acts * site.mask[:, None]) > 0).sum()
    assert (result.n_tokens, result.n_left_out) == (site.mask.sum(), (1 - site.mask).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("against", [None, AGAINST])
def test_gradient_attribution_is_the_activation_times_autograds_gradient(
    family: Family, kind: str, against: int | None
) -> None:
    sae = sae_for(family, kind)
    site = Site(family, sae, against)
    result = attribute(
        family.model, sae, site.tokens, target=TARGET, against=against, validate=False
    )
    assert_attributed(result, site, site.gradient())
    assert result.joint is None and result.agreement.n == 0 and result.completeness is None
    assert all(feature.measured_effect is None for feature in result.features)


def test_the_target_is_read_off_the_clean_run(family: Family) -> None:
    tokens, sae = tokens_of(family), make_sae(family, "topk")
    logits = as_array(family.hf.logits(tokens.ids[None]))[0, 4]
    result = attribute(family.model, sae, tokens, position=4, against=AGAINST, validate=False)
    assert result.target.id == logits.argmax() and result.target.rank == 1 and result.position == 4
    assert result.target.logit == pytest.approx(logits.max(), rel=1e-4)
    assert result.against is not None and result.against.logit == pytest.approx(
        logits[AGAINST], rel=1e-3, abs=1e-3
    )


@pytest.mark.parametrize("position", [3, -4])
def test_another_position_explains_the_prediction_made_there(family: Family, position: int) -> None:
    sae = make_sae(family, "standard")
    site = Site(family, sae, None, position)
    result = attribute(
        family.model, sae, site.tokens, target=TARGET, position=position, validate=False
    )
    assert_attributed(result, site, site.gradient())
    assert all(feature.pos <= result.position for feature in result.features)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_central_finite_difference_in_float64(gpt2: Family, kind: str) -> None:
    exact = replace(gpt2, model=load_model(gpt2.folder, device="cpu", dtype="float64"))
    sae = make_sae(gpt2, kind).double()
    site = Site(exact, sae, AGAINST, hf=Reference(gpt2.folder, torch.float64))
    result = attribute(
        exact.model, sae, site.tokens, target=TARGET, against=AGAINST, validate=False
    )
    assert len(result.features) == 10
    for feature in result.features:
        step = np.zeros_like(site.written)
        step[feature.pos] = 1e-5 * site.directions[feature.pos, feature.feature]
        slope = (site.metric(step) - site.metric(-step)) / 2e-5
        assert feature.attribution == pytest.approx(feature.activation * slope, rel=1e-5)


def direct_gradient(family: Family, site: Site, position: int) -> Array:
    """d metric / d site at the position, through the residual stream and the final norm with its
    scale held fixed."""
    seen: list[Tensor] = []
    handle = family.hf.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    logits = as_array(family.hf.logits(site.ids))[0, position]
    handle.remove()
    r = as_array(seen[0])[0, position]
    numerator = r - r.mean() if family.hf.is_layer_norm else r
    scale = np.sqrt((numerator**2).mean() + family.hf.norm_eps())
    slope = (
        np.ones_like(logits)
        if family.hf.soft_cap is None
        else 1 - (logits / family.hf.soft_cap) ** 2
    )
    unembed = as_array(family.hf.unembed.weight) * slope[:, None]
    if site.against is not None:
        other = unembed[site.against]
    else:  # d log p = d logit - sum_v p_v d logit_v
        probs = np.exp(logits - logits.max())
        other = (probs / probs.sum()) @ unembed if site.measure == "logprob" else 0
    wanted = unembed[TARGET] - other
    at_residual = wanted * family.hf.gain() / scale
    at_residual = at_residual - at_residual.mean() if family.hf.is_layer_norm else at_residual
    gradient = np.zeros_like(site.written)
    if site.name.endswith("hook_z"):
        weight = as_array(family.hf.module(site.name).weight)
        gradient[position] = (weight if family.name == "gpt2" else weight.T) @ at_residual
    else:
        gradient[position] = at_residual
    return gradient


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("against", [None, AGAINST])
def test_direct_attribution_is_the_formula_with_the_final_norm_frozen(
    family: Family, kind: str, against: int | None
) -> None:
    sae = sae_for(family, kind)
    if kind == "hook_z" and family.name.startswith("gemma"):
        with pytest.raises(ArgumentError) as caught:
            attribute(family.model, sae, tokens_of(family), method="direct")
        assert caught.value.code == "METHOD_NOT_AVAILABLE" and "gradient" in caught.value.hint
        return
    site = Site(family, sae, against)
    result = attribute(
        family.model,
        sae,
        site.tokens,
        target=TARGET,
        against=against,
        method="direct",
        k=5,
        validate=False,
    )
    assert_attributed(result, site, direct_gradient(family, site, -1))
    assert {feature.pos for feature in result.features} == {
        len(site.tokens) - 1
    } and "norm's scale held fixed" in result.left_out


def test_direct_is_refused_where_nothing_is_written_to_the_residual_stream(gpt2: Family) -> None:
    sae = make_sae(gpt2, "skip_transcoder")
    inside = type(sae)(
        replace(sae.cfg, metadata=replace(sae.cfg.metadata, hook_name_out="blocks.1.mlp.hook_in")),
        sae.tensors(),
    )
    with pytest.raises(ArgumentError) as caught:
        attribute(gpt2.model, inside, tokens_of(gpt2), method="direct")
    assert caught.value.code == "METHOD_NOT_AVAILABLE" and caught.value.field == "method"


@pytest.mark.parametrize("kind", KINDS)
def test_measured_effects_are_the_differences_of_two_plain_runs(family: Family, kind: str) -> None:
    sae = sae_for(family, kind)
    site = Site(family, sae, AGAINST)
    result = attribute(
        family.model, sae, site.tokens, target=TARGET, against=AGAINST, k=5, n_controls=0
    )
    measured = [feature.measured_effect for feature in result.features]
    close(measured, [site.effect([pair]) for pair in pairs_of(result)], 2e-3)
    assert result.joint is not None
    assert result.joint.measured_effect == pytest.approx(
        site.effect(pairs_of(result)), rel=2e-3, abs=1e-3
    )
    assert result.joint.control == Comparison(None, None, 0, None, False)
    gone = -site.error * site.mask[:, None]
    lost = site.metric() - site.metric(gone)
    assert result.error_effect == pytest.approx(lost, rel=2e-3, abs=2e-3)
    expected = np.corrcoef(
        [feature.attribution for feature in result.features], np.array(measured, dtype=float)
    )[0, 1]
    assert result.agreement.pearson == pytest.approx(expected, abs=1e-6)
    assert (result.agreement.n, result.agreement.sample_n) == (5, min(20, result.total))


@pytest.mark.parametrize("measure", ["logprob", "logit"])
def test_effects_are_on_the_measure_that_was_asked_for(gpt2: Family, measure: str) -> None:
    sae = make_sae(gpt2, "standard")
    site = Site(gpt2, sae, None, measure=measure)
    result = attribute(
        gpt2.model, sae, site.tokens, target=TARGET, measure=measure, k=4, n_controls=0
    )
    assert_attributed(result, site, site.gradient())
    measured = [feature.measured_effect for feature in result.features]
    close(measured, [site.effect([pair]) for pair in pairs_of(result)], 2e-3)
    assert result.measure == measure


def listed_draws(
    site: Site, sae: SAE, listed: Sequence[tuple[int, int]], *, n: int, seed: int
) -> list[list[tuple[int, int]]]:
    sparse = from_dense(torch.tensor(site.acts * site.mask[:, None], dtype=torch.float32))
    entries = list(zip(sparse.features.tolist(), sparse.positions.tolist(), strict=True))
    chosen = torch.tensor([entries.index(pair) for pair in listed])
    sizes = sparse.values * sae.W_dec.norm(dim=-1)[sparse.features]
    draws = draw_controls(sparse, chosen, sizes=sizes, n_controls=n, seed=seed)
    return [[entries[i] for i in draw.tolist()] for draw in draws]


def test_controls_are_measured_as_the_listed_pairs_are(family: Family) -> None:
    sae = make_sae(family, "standard")
    site = Site(family, sae, None)
    result = attribute(
        family.model, sae, site.tokens, target=TARGET, k=4, n_controls=3, seed=7, sign="positive"
    )
    draws = listed_draws(site, sae, pairs_of(result), n=3, seed=7)
    effects = [site.effect(draw) for draw in draws]
    assert result.joint is not None and result.joint.control.n == 3 and not result.by_sign
    scale = max(abs(effect) for effect in effects)
    assert result.joint.control.mean == pytest.approx(np.mean(effects), abs=3e-3 * scale)
    assert result.joint.control.sd == pytest.approx(np.std(effects, ddof=1), abs=3e-3 * scale)


def test_pairs_of_both_signs_are_measured_apart(gpt2: Family) -> None:
    sae = make_sae(gpt2, "standard")
    site = Site(gpt2, sae, None)
    result = attribute(gpt2.model, sae, site.tokens, target=TARGET, k=8, n_controls=3, seed=7)
    signs = {
        "positive": [
            p
            for p, row in zip(pairs_of(result), result.features, strict=True)
            if row.attribution > 0
        ],
        "negative": [
            p
            for p, row in zip(pairs_of(result), result.features, strict=True)
            if row.attribution < 0
        ],
    }
    assert [part.sign for part in result.by_sign] == ["positive", "negative"]
    for part in result.by_sign:
        listed = signs[part.sign]
        assert part.n == len(listed) > 0
        assert part.measured_effect == pytest.approx(site.effect(listed), rel=3e-3, abs=1e-3)
        effects = [site.effect(draw) for draw in listed_draws(site, sae, listed, n=3, seed=7)]
        scale = max(abs(effect) for effect in effects)
        assert part.control.mean == pytest.approx(np.mean(effects), abs=3e-3 * scale)


def test_the_sample_is_of_all_pairs_and_its_rank_correlation_is_numpys(gpt2: Family) -> None:
    sae = make_sae(gpt2, "standard")
    site = Site(gpt2, sae, AGAINST)
    result = attribute(
        gpt2.model, sae, site.tokens, target=TARGET, against=AGAINST, k=1, n_controls=0, seed=5
    )
    expected = site.attributions(site.gradient())
    sparse = from_dense(torch.tensor(site.acts * site.mask[:, None], dtype=torch.float32))
    rng = torch.Generator().manual_seed(5)
    drawn = torch.randperm(len(sparse.values), generator=rng)[:20]
    pairs = [(int(sparse.features[i]), int(sparse.positions[i])) for i in drawn]
    estimates = [expected[pos, feature] for feature, pos in pairs]
    effects = [site.effect([pair]) for pair in pairs]
    correlation = spearman(torch.tensor(estimates), torch.tensor(effects))
    assert result.agreement.sample_spearman == pytest.approx(correlation, abs=0.02)


@pytest.mark.slow
def test_random_lists_are_outside_of_their_controls_as_rarely_as_the_rule_says(
    gpt2: Family,
) -> None:
    """At the last position too, where every change counts."""
    sae, outside, n_lists = make_sae(gpt2, "standard"), [0, 0], 40
    site = Site(gpt2, sae, AGAINST)
    sparse = from_dense(torch.tensor(site.acts * site.mask[:, None], dtype=torch.float32))
    entries = list(zip(sparse.features.tolist(), sparse.positions.tolist(), strict=True))
    last = [pair for pair in entries if pair[1] == len(site.acts) - 1]
    stack = as_stack(gpt2.model, sae)
    sites = stack.read(site.ids)
    target = Target(TARGET, AGAINST)
    rng = random.Random(0)
    for pool, seed in product((0, 1), range(n_lists)):
        listed = rng.sample(last if pool else entries, 5)
        groups = [listed, *listed_draws(site, sae, listed, n=19, seed=seed)]
        lost = [Pairs(*torch.tensor(each).T) for each in groups]
        variants = [{0: partial(removal, sae, pairs=pairs)} for pairs in lost]
        clean, ablated = run_variants(stack, site.ids, sites, variants, position=-1)
        effect, *controls = target.change(ablated, clean)
        outside[pool] += compare_with(effect, controls).outside
    allowed = 0.05 * n_lists + 2 * (0.05 * 0.95 * n_lists) ** 0.5
    assert outside[0] <= allowed and outside[1] <= allowed, outside


@pytest.mark.parametrize("kind", KINDS)
def test_an_ablation_takes_exactly_the_activation_times_the_decoder_row(
    family: Family, kind: str
) -> None:
    sae = sae_for(family, kind)
    site, ours = Site(family, sae, None), read_site(family.model, sae, tokens_of(family).ids[None])
    pairs = [
        (int(feature), pos) for pos in (6, 3) for feature in np.flatnonzero(site.acts[pos] > 0)[:2]
    ]
    change = as_array(removal(sae, ours, pairs=Pairs(*torch.tensor(pairs).T)))
    close(change, site.without(pairs))
    untouched = [pos for pos in range(len(site.acts)) if pos not in (3, 6)]
    assert not change[untouched].any()


@pytest.mark.parametrize("kind", ["topk", "rescaled", "skip_transcoder"])
def test_the_site_itself_moves_by_minus_the_activation_times_the_decoder_row(
    family: Family, kind: str
) -> None:
    sae, seen = make_sae(family, kind), list[Tensor]()
    # What the site writes is added to the stream as it is, and the next block reads the stream: a
    # hook on its plain module sees it.
    block = family.model.bridge.original_model.get_submodule(module_path(family, LAYER + 1))
    handle = block.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].detach()) if args[0].shape[0] > 1 else None
    )
    try:
        result = attribute(family.model, sae, tokens_of(family), target=TARGET, k=3, n_controls=0)
    finally:
        handle.remove()
    site, rows = Site(family, sae, None), as_array(seen[-1])
    for row, pairs in zip(
        rows[1:5], [*([pair] for pair in pairs_of(result)), pairs_of(result)], strict=True
    ):
        change = site.without(pairs)
        np.testing.assert_allclose(
            row - rows[0], change, atol=1e-4 * np.abs(change).max() + 1e-6 * np.abs(rows[0]).max()
        )


def module_path(family: Family, layer: int) -> str:
    (path,) = [
        name for name, module in family.hf.hf.named_modules() if module is family.hf.blocks[layer]
    ]
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients_are_complete(family: Family, kind: str) -> None:
    sae = sae_for(family, kind)
    site = Site(family, sae, None)
    result = attribute(
        family.model,
        sae,
        site.tokens,
        target=TARGET,
        method="integrated_gradients",
        k=10_000,
        validate=False,
    )
    whole = (np.einsum("pi,pid->pd", site.acts, site.directions) + site.error) * site.mask[:, None]
    span = site.metric() - site.metric(-whole)
    assert result.error_attribution is not None
    summed = sum(feature.attribution for feature in result.features) + result.error_attribution
    assert result.completeness == pytest.approx(summed / span, rel=1e-2, abs=1e-2)
    assert result.completeness == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", ["glass", "gpt2", "gemma2", "neox"])
def test_integrated_gradients_are_the_mean_gradient_along_the_path(
    family_of: Callable[[str], Family], name: str
) -> None:
    family = family_of(name)
    sae = make_sae(family, "standard")
    site = Site(family, sae, None)
    whole = (np.einsum("pi,pid->pd", site.acts, site.directions) + site.error) * site.mask[:, None]
    nodes, weights = np.polynomial.legendre.leggauss(32)
    gradient = sum(
        weight / 2 * site.gradient(((node + 1) / 2 - 1) * whole)
        for node, weight in zip(nodes, weights, strict=True)
    )
    result = attribute(
        family.model, sae, site.tokens, target=TARGET, method="integrated_gradients", validate=False
    )
    assert_attributed(result, site, np.asarray(gradient), 5e-3)


@pytest.mark.parametrize("sign", ["positive", "negative"])
def test_a_sign_keeps_only_what_speaks_for_or_against(gpt2: Family, sign: str) -> None:
    sae = make_sae(gpt2, "standard")
    site = Site(gpt2, sae, None)
    result = attribute(
        gpt2.model, sae, site.tokens, target=TARGET, sign=sign, k=10_000, validate=False
    )
    expected = site.attributions(site.gradient())
    wanted = (
        np.sort(expected[expected > 0])[::-1]
        if sign == "positive"
        else np.sort(expected[expected < 0])
    )
    close([feature.attribution for feature in result.features], wanted, 1e-3)
    everything = attribute(gpt2.model, sae, site.tokens, target=TARGET, validate=False)
    assert (result.total, result.error_share) == (everything.total, everything.error_share)


def test_special_positions_are_attributed_when_asked(gpt2: Family) -> None:
    sae = make_sae(gpt2, "standard")
    site = Site(gpt2, sae, None)
    site.mask[:] = 1
    result = attribute(
        gpt2.model, sae, site.tokens, target=TARGET, include_special=True, k=10_000, validate=False
    )
    assert_attributed(result, site, site.gradient())
    assert 0 in {feature.pos for feature in result.features} and result.n_left_out == 0


@pytest.mark.parametrize("method", ["gradient", "direct", "integrated_gradients"])
def test_no_position_left_gives_an_empty_list_and_a_warning(family: Family, method: str) -> None:
    tokens = family.model.tokenize("<eos>", prepend_bos=True)
    result = attribute(family.model, make_sae(family, "standard"), tokens, method=method)
    assert (
        result.features == []
        and result.joint is None
        and (result.n_tokens, result.n_left_out, result.total) == (0, 2, 0)
    )
    assert (
        result.error_share is None
        and result.completeness is None
        and "include_special=True" in result.warnings[0]
    )


def test_an_sae_of_which_nothing_fires_gives_an_empty_list_and_a_warning(gpt2: Family) -> None:
    sae = make_sae(gpt2, "standard")
    silent = type(sae)(
        sae.cfg, sae.tensors() | {"b_enc": torch.full_like(sae.tensors()["b_enc"], -1e6)}
    )
    result = attribute(gpt2.model, silent, tokens_of(gpt2))
    assert (
        result.features == []
        and result.error_share == 1
        and "No feature fires" in result.warnings[0]
    )


def test_too_few_features_for_controls_are_said(gpt2: Family) -> None:
    result = attribute(
        gpt2.model, make_sae(gpt2, "standard"), tokens_of(gpt2), k=10_000, n_controls=2
    )
    assert result.joint is not None and "draws are much alike" in result.warnings[0]
    assert result.joint.control.mean == pytest.approx(result.joint.measured_effect, abs=1e-4)
    assert not result.joint.control.outside


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"method": "guess"}, "INVALID_CHOICE"),
        ({"measure": "probability"}, "INVALID_CHOICE"),
        ({"sign": "both"}, "INVALID_CHOICE"),
        ({"position": 99}, "POSITION_OUT_OF_RANGE"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(
    gpt2: Family, options: dict[str, Any], code: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        attribute(gpt2.model, make_sae(gpt2, "standard"), tokens_of(gpt2), **options)
    assert caught.value.code == code and caught.value.field == next(iter(options))


def test_attribution_leaves_the_model_as_before(family: Family, ids: Tensor) -> None:
    clean = family.model.forward(ids)[0]
    for method in ("gradient", "direct", "integrated_gradients"):
        attribute(
            family.model, make_sae(family, "skip_transcoder"), tokens_of(family), method=method
        )
    assert torch.equal(family.model.forward(ids)[0], clean)
    assert not any(point.fwd_hooks for point in family.model.bridge.hook_dict.values())
    assert all(
        parameter.grad is None for parameter in family.model.bridge.original_model.parameters()
    )


def test_the_same_question_has_the_same_answer(gpt2: Family) -> None:
    sae, tokens = make_sae(gpt2, "standard"), tokens_of(gpt2)
    first, second, other = (
        attribute(gpt2.model, sae, tokens, target=TARGET, seed=seed) for seed in (3, 3, 4)
    )
    assert first == second
    assert (
        first.joint is not None
        and other.joint is not None
        and first.joint.control.mean != other.joint.control.mean
    )


class TestControls:
    acts = from_dense(
        torch.rand(6, 20, generator=torch.Generator().manual_seed(0)) * (torch.arange(20) % 2)
    )
    sizes = acts.values * (1 + torch.arange(len(acts.values)) % 3)
    chosen = torch.tensor([4, 17, 30])

    def draws(self, n: int = 20, seed: int = 0, sizes: Tensor | None = None) -> list[list[int]]:
        sizes = self.sizes if sizes is None else sizes
        drawn = draw_controls(self.acts, self.chosen, sizes=sizes, n_controls=n, seed=seed)
        return [draw.tolist() for draw in drawn]

    def test_are_as_many_pairs_none_of_them_twice(self) -> None:
        assert all(len(set(draw)) == 3 for draw in self.draws())

    def test_stand_at_the_position_of_the_listed_pair_where_it_has_enough(self) -> None:
        here = self.acts.positions
        for draw in self.draws():
            assert here[draw].tolist() == here[self.chosen].tolist()

    def test_are_nearest_in_size_the_listed_pair_among_them(self) -> None:
        sizes, here = self.sizes.numpy(), self.acts.positions.numpy()
        for draw in self.draws():
            used: list[int] = []
            for entry, pick in zip(self.chosen.tolist(), draw, strict=True):
                free = [i for i in np.flatnonzero(here == here[entry]) if i not in used]
                nearest = sorted(free, key=lambda i: abs(np.log(sizes[i] / sizes[entry])))
                assert pick in nearest[:N_NEAREST]
                used.append(pick)
        first = [draw[0] for draw in self.draws(400)]
        share = first.count(int(self.chosen[0])) / 400
        assert share == pytest.approx(1 / N_NEAREST, abs=0.06), "a draw may be the pair itself"

    def test_come_from_neighbouring_positions_where_few_fire(self) -> None:
        acts = from_dense(torch.eye(12) + 0.1)
        acts = acts.select(acts.values > 1)  # one feature a position
        sizes = torch.ones(12)
        drawn = draw_controls(acts, torch.tensor([6]), sizes=sizes, n_controls=60, seed=0)
        assert {int(draw[0]) for draw in drawn} == {*range(2, 10)}

    def test_never_have_a_feature_that_writes_nothing(self) -> None:
        silent = torch.where(self.acts.features == 3, 0.0, self.sizes)
        drawn = {pick for draw in self.draws(100, sizes=silent) for pick in draw}
        assert not bool((self.acts.features[[*drawn]] == 3).any())

    def test_come_from_the_seed(self) -> None:
        draws = [self.draws(4, seed) for seed in (1, 1, 2)]
        assert draws[0] == draws[1] != draws[2] and len({tuple(draw) for draw in draws[0]}) > 1
