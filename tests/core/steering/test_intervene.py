"""An edit of one prediction against NumPy at the site of a plain Hugging Face model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.oracle import (
    CASES,
    KINDS,
    Array,
    Family,
    NumpySAE,
    as_array,
    close,
    flat,
    kl,
    make_sae,
    shifted_by,
)
from tests.core.steering.reference import (
    change_by_hand,
    change_for,
    edited_positions,
    fires,
    steered_logits,
    tokens_of,
)

from saescope.errors import ArgumentError
from saescope.models import Tokens
from saescope.saes import SAE
from saescope.splice import read_hook, read_site, write_hook
from saescope.steering import FeatureEdit, intervene
from saescope.steering.edits import change_at_site, control_plan, make_plan

TARGET, AGAINST = 300, 41
EDITS = {
    "add": [FeatureEdit(5, 2.0)],
    "subtract": [FeatureEdit(5, -1.5)],
    "clamp": [FeatureEdit(7, 1.5, "clamp")],
    "scale": [FeatureEdit(7, 3.0, "scale")],
    "ablate": [FeatureEdit(7, mode="ablate")],
    "project out": [FeatureEdit(5, mode="project_out")],
    "several": [FeatureEdit(5, 1.0), FeatureEdit(7, 0.0, "scale"), FeatureEdit(9, 0.5, "clamp")],
    "one feature twice": [FeatureEdit(5, 1.0), FeatureEdit(5, 2.0, "scale")],
    "project out last": [
        FeatureEdit(6, mode="project_out"),
        FeatureEdit(5, 2.0),
        FeatureEdit(8, mode="project_out"),
    ],
    "named positions": [
        FeatureEdit(5, 2.0, positions=(0, -2)),
        FeatureEdit(6, mode="project_out", positions=(3,)),
    ],
}


def plan_for(
    family: Family, sae: SAE, edits: Sequence[FeatureEdit], units: Sequence[float]
) -> tuple[Any, Any]:
    tokens = tokens_of(family)
    masks = [edited_positions(as_array(tokens.ids), edit, len(tokens)) for edit in edits]
    return read_site(family.model, sae, tokens.ids[None]), make_plan(
        sae, edits, units, torch.tensor(np.array(masks))
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_changes_the_site_as_the_contract_says(gpt2: Family, kind: str, name: str) -> None:
    sae, edits = make_sae(gpt2, kind), EDITS[name]
    units = [0.7 + 0.2 * i for i in range(len(edits))]
    site, plan = plan_for(gpt2, sae, edits, units)
    tokens = tokens_of(gpt2)
    expected, _ = change_for(gpt2.hf, sae, tokens.ids[None], edits, units, len(tokens))
    found = as_array(change_at_site(sae, site, plan))
    assert np.abs(expected).max() > 1e-3
    close(found, expected)
    if name != "named positions":
        assert not found[[0, tokens.ids.tolist().index(3)]].any()


@pytest.mark.parametrize(("family_name", "kind"), CASES)
@pytest.mark.parametrize("name", ["add", "scale", "several", "project out last"])
def test_the_prediction_is_the_one_of_the_plain_model_with_that_change(
    family_of: Callable[[str], Family], family_name: str, kind: str, name: str
) -> None:
    family = family_of(family_name)
    sae, edits, tokens = make_sae(family, kind), EDITS[name], tokens_of(family)
    result = intervene(family.model, sae, tokens, edits, unit="raw", target=TARGET, against=AGAINST)
    clean = as_array(family.hf.logits(tokens.ids[None]))[0, -1]
    after = steered_logits(
        family.hf, sae, tokens.ids[None], edits, [1.0] * len(edits), len(tokens)
    )[-1]
    assert result.before.target.logit == pytest.approx(clean[TARGET], rel=1e-3, abs=1e-3)
    assert result.after.target.logit == pytest.approx(after[TARGET], rel=1e-3, abs=1e-3)
    assert [token.id for token in result.after.top] == np.argsort(-after)[:5].tolist()
    effect = (after[TARGET] - after[AGAINST]) - (clean[TARGET] - clean[AGAINST])
    assert result.delta_logit == pytest.approx(effect, rel=2e-3, abs=2e-3)
    assert result.effect == result.delta_logit and result.measure == "difference"
    logprob = logprob_of(after) - logprob_of(clean)
    assert result.delta_logprob == pytest.approx(logprob, rel=2e-3, abs=2e-3)
    assert result.kl == pytest.approx(kl(clean, after), rel=1e-2, abs=1e-5)
    assert result.touched or np.allclose(after, clean, atol=1e-6)


def logprob_of(logits: Array) -> float:
    return float(logits[TARGET] - np.logaddexp.reduce(logits))


@pytest.mark.parametrize("measure", ["logprob", "logit"])
def test_an_effect_is_on_the_measure_that_was_asked_for(gpt2: Family, measure: str) -> None:
    sae, tokens, edits = make_sae(gpt2, "standard"), tokens_of(gpt2), [FeatureEdit(5, 40.0)]
    asked: dict[str, Any] = {"target": TARGET, "measure": measure}
    result = intervene(gpt2.model, sae, tokens, edits, unit="raw", **asked)
    clean = as_array(gpt2.hf.logits(tokens.ids[None]))[0, -1]
    after = steered_logits(gpt2.hf, sae, tokens.ids[None], edits, [1.0], len(tokens))[-1]
    logprob = logprob_of(after) - logprob_of(clean)
    assert abs(logprob - (after - clean)[TARGET]) > 0.01, "the two are told apart"
    wanted = logprob if measure == "logprob" else (after - clean)[TARGET]
    assert result.effect == pytest.approx(wanted, rel=2e-3, abs=2e-3)
    assert result.delta_logit == pytest.approx((after - clean)[TARGET], rel=2e-3, abs=2e-3)
    assert result.control.n == 19 and result.control.p is not None


@pytest.mark.parametrize("edits", [[FeatureEdit(5, 0.0)], [FeatureEdit(7, 1.0, "scale")]])
def test_strength_0_of_add_and_1_of_scale_change_nothing(
    family: Family, edits: list[FeatureEdit]
) -> None:
    for kind in KINDS:
        if KINDS[kind].site in family.hf.sites:
            result = intervene(family.model, make_sae(family, kind), tokens_of(family), edits)
            assert result.delta_logit == 0 and result.kl == 0 and result.before == result.after, (
                kind
            )


def test_a_control_has_the_same_norm_at_the_same_positions(family: Family) -> None:
    for kind in KINDS:
        if KINDS[kind].site not in family.hf.sites:
            continue
        sae, edits = (
            make_sae(family, kind),
            [FeatureEdit(5, 2.0), FeatureEdit(7, 0.0, "scale", positions=(4, 5))],
        )
        site, plan = plan_for(family, sae, edits, [1.0, 1.0])
        for single in (0, 1):
            one = replace(
                plan,
                edits=plan.edits[single : single + 1],
                units=(1.0,),
                rows=plan.rows[[single]],
                masks=plan.masks[[single]],
            )
            ours, control = (
                as_array(change_at_site(sae, site, each))
                for each in (one, control_plan(sae, one, [20]))
            )
            close(np.linalg.norm(control, axis=1), np.linalg.norm(ours, axis=1))
            direction = NumpySAE(sae).rows()[20]
            along = control @ direction / np.linalg.norm(direction)
            close(np.abs(along), np.linalg.norm(control, axis=1))


def test_controls_are_measured_in_the_plain_model(gpt2: Family) -> None:
    from saescope.steering.units import Controls, draw_features

    sae, tokens, edits = make_sae(gpt2, "standard"), tokens_of(gpt2), [FeatureEdit(5, 2.0)]
    result = intervene(
        gpt2.model, sae, tokens, edits, unit="raw", target=TARGET, n_controls=3, seed=5
    )
    found = gpt2.hf.record(tokens.ids[None], [read_hook(sae)])
    x = flat(found[read_hook(sae)])
    acts, rows = NumpySAE(sae).encode(x), NumpySAE(sae).rows()
    mask = edited_positions(as_array(tokens.ids), edits[0], len(tokens))
    maxima = torch.tensor((acts * mask[:, None]).max(axis=0))
    clean = logprob_of(as_array(gpt2.hf.logits(tokens.ids[None]))[0, -1])
    effects: list[float] = []
    for (feature,) in draw_features(edits, maxima, writes=sae.writes, controls=Controls(3, 5)):
        change = (
            2
            * np.linalg.norm(rows[5])
            / np.linalg.norm(rows[feature])
            * mask[:, None]
            * rows[feature]
        )
        after = as_array(gpt2.hf.logits(tokens.ids[None], {write_hook(sae): shifted_by(change)}))
        effects.append(logprob_of(after[0, -1]) - clean)
    assert result.control.n == 3 and result.control.mean == pytest.approx(
        np.mean(effects), rel=1e-3, abs=1e-3
    )
    assert result.control.sd == pytest.approx(np.std(effects, ddof=1), rel=1e-3, abs=1e-3)


def acts_by_hand(gpt2: Family, sae: SAE, tokens: Tokens) -> Array:
    """Activations at the positions that count, 0 elsewhere."""
    x = flat(gpt2.hf.record(tokens.ids[None], [read_hook(sae)])[read_hook(sae)])
    mask = edited_positions(as_array(tokens.ids), FeatureEdit(0), len(tokens))
    return NumpySAE(sae).encode(x) * mask[:, None]


def test_the_default_unit_is_the_99th_percentile_on_the_prompt_and_the_reference(
    gpt2: Family,
) -> None:
    sae, tokens = make_sae(gpt2, "standard"), tokens_of(gpt2)
    acts = acts_by_hand(gpt2, sae, tokens)
    feature = int((acts > 0).sum(axis=0).argmax())
    firings = acts[acts[:, feature] > 0, feature]
    assert len(firings) > 3
    alone = intervene(gpt2.model, sae, tokens, [FeatureEdit(feature)], n_controls=0)
    close(alone.unit_values, [np.quantile(firings, 0.99)])
    assert alone.unit_source == "99th percentile on this prompt" and alone.warnings == []
    louder = fires(sae.cfg.d_sae, {feature: 100.0})
    both = intervene(gpt2.model, sae, tokens, [FeatureEdit(feature)], reference=louder)
    close(both.unit_values, [np.quantile([*firings, 100.0], 0.99)])
    assert both.unit_source == "99th percentile on the probe text and this prompt"


def test_unit_max_is_the_features_maximum_on_the_prompt_and_the_reference(gpt2: Family) -> None:
    sae, tokens = make_sae(gpt2, "standard"), tokens_of(gpt2)
    here = acts_by_hand(gpt2, sae, tokens).max(axis=0)
    fired = int(here.argmax())
    edit = FeatureEdit(fired)
    asked: dict[str, Any] = {"target": TARGET}
    alone = intervene(gpt2.model, sae, tokens, [edit], unit="max", n_controls=0)
    close(alone.unit_values, [here[fired]])
    assert alone.warnings == [] and alone.unit_source == "maximum on this prompt"
    louder = fires(sae.cfg.d_sae, {fired: 100.0})
    loud = intervene(gpt2.model, sae, tokens, [edit], unit="max", reference=louder)
    assert loud.unit_values == [100.0]
    strong = intervene(gpt2.model, sae, tokens, [FeatureEdit(fired, 2.0)], unit="max", **asked)
    double = FeatureEdit(fired, 2 * float(here[fired]))
    raw = intervene(gpt2.model, sae, tokens, [double], unit="raw", **asked)
    assert strong.delta_logit == pytest.approx(raw.delta_logit, rel=1e-3, abs=1e-3)


def test_project_out_removes_the_direction_from_the_site_itself_where_the_sae_sees_it_centred(
    gpt2: Family,
) -> None:
    sae = make_sae(gpt2, "standard", center_writing_weights=True)
    edits = [FeatureEdit(5, mode="project_out")]
    tokens = tokens_of(gpt2)
    written = flat(gpt2.hf.record(tokens.ids[None], [write_hook(sae)])[write_hook(sae)])
    masks = [edited_positions(as_array(tokens.ids), edits[0], len(tokens))]
    expected: Array = change_by_hand(
        sae, written - written.mean(axis=1, keepdims=True), written, edits, [1.0], masks
    )
    site, plan = plan_for(gpt2, sae, edits, [1.0])
    close(as_array(change_at_site(sae, site, plan)), expected)


def test_an_edit_of_a_feature_that_does_not_fire_says_that_it_changes_nothing(gpt2: Family) -> None:
    sae, tokens = make_sae(gpt2, "topk"), tokens_of(gpt2)
    site = read_site(gpt2.model, sae, tokens.ids[None])
    silent = int((site.acts.maxima() == 0).nonzero()[0])
    result = intervene(gpt2.model, sae, tokens, [FeatureEdit(silent, mode="ablate")])
    assert result.delta_logit == 0 and f"Feature {silent} does not fire" in result.warnings[0]
    assert not result.touched and not result.control.outside


def test_no_position_left_to_edit_is_said(gpt2: Family) -> None:
    result = intervene(
        gpt2.model,
        make_sae(gpt2, "standard"),
        gpt2.model.tokenize("<eos>", prepend_bos=True),
        [FeatureEdit(5, 3.0)],
    )
    assert (
        result.delta_logit == 0
        and (result.n_tokens, result.n_left_out) == (0, 2)
        and "No position" in " ".join(result.warnings)
    )


@pytest.mark.parametrize(
    ("edits", "options", "code"),
    [
        ([], {}, "MISSING_ARGUMENT"),
        ([FeatureEdit(48)], {}, "FEATURE_OUT_OF_RANGE"),
        ([FeatureEdit(-1)], {}, "FEATURE_OUT_OF_RANGE"),
        ([FeatureEdit(1, mode="boost")], {}, "INVALID_CHOICE"),
        ([FeatureEdit(1, float("nan"))], {}, "NON_FINITE_ARGUMENT"),
        ([FeatureEdit(1, float("inf"))], {}, "NON_FINITE_ARGUMENT"),
        ([FeatureEdit(1, positions=(99,))], {}, "POSITION_OUT_OF_RANGE"),
        ([FeatureEdit(1)], {"unit": "metre"}, "INVALID_CHOICE"),
    ],
)
def test_what_cannot_be_is_refused(
    gpt2: Family, edits: list[FeatureEdit], options: dict[str, Any], code: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        intervene(gpt2.model, make_sae(gpt2, "standard"), tokens_of(gpt2), edits, **options)
    assert caught.value.code == code and caught.value.field


@pytest.mark.parametrize(
    "twice",
    [
        [FeatureEdit(3, mode="ablate"), FeatureEdit(3, mode="ablate")],
        [FeatureEdit(3, mode="ablate", positions=(2,)), FeatureEdit(3, 2.0, positions=(2,))],
        [FeatureEdit(3, 1.0), FeatureEdit(3, 2.0, positions=(2,))],
    ],
)
def test_a_feature_edited_twice_at_one_place_is_refused(
    gpt2: Family, twice: list[FeatureEdit]
) -> None:
    with pytest.raises(ArgumentError) as refused:
        intervene(
            gpt2.model,
            make_sae(gpt2, "standard"),
            gpt2.model.tokenize("She said it was the best day"),
            twice,
        )
    assert refused.value.code == "DUPLICATE_FEATURE"


def test_two_names_of_one_position_are_one_place(gpt2: Family) -> None:
    tokens = gpt2.model.tokenize("She said it was the best day")
    last = len(tokens) - 1
    twice = [FeatureEdit(3, mode="clamp", positions=(pos,)) for pos in (-1, last)]
    with pytest.raises(ArgumentError, match=f"edited twice at position {last}") as refused:
        intervene(gpt2.model, make_sae(gpt2, "standard"), tokens, twice)
    assert refused.value.code == "DUPLICATE_FEATURE"


def test_a_feature_may_be_edited_differently_at_different_positions(gpt2: Family) -> None:
    edits = [FeatureEdit(3, mode="ablate", positions=(2,)), FeatureEdit(3, 2.0, positions=(3,))]
    assert (
        intervene(
            gpt2.model,
            make_sae(gpt2, "standard"),
            gpt2.model.tokenize("She said it was the best day"),
            edits,
        ).n_tokens
        == 2
    )


def test_a_target_may_be_named_by_its_text(gpt2: Family) -> None:
    tokens, sae, edit = (
        gpt2.model.tokenize("She said it was the best day"),
        make_sae(gpt2, "standard"),
        FeatureEdit(3, mode="ablate"),
    )
    by_text = intervene(gpt2.model, sae, tokens, [edit], target=gpt2.model.token_text(97))
    assert by_text == intervene(gpt2.model, sae, tokens, [edit], target=97)
