"""One edit set on several prompts, and each edit of a set by itself and left out, against single
runs of a plain Hugging Face model."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.core.oracle import Array, Family, NumpySAE, as_array, close, flat, make_sae, shifted_by
from tests.core.steering.reference import edited_positions, steered_logits

from saescope.cancel import cancellable
from saescope.controls import compare_with
from saescope.errors import ArgumentError, Cancelled
from saescope.models import Tokens
from saescope.saes import SAE
from saescope.splice import read_hook, write_hook
from saescope.stack import as_stack
from saescope.steering import FeatureEdit, intervene, intervene_all
from saescope.steering.means import sign_test, t_interval
from saescope.steering.prepare import prepare, units_over
from saescope.steering.units import Controls, Unit

TARGET = 300
TEXTS = [
    "The old man saw the little house",
    "She went to the door and",
    "A king said to him:",
    "We had been on the road for a long time when",
    "It was late, and",
    "The little boy",
]
EDITS = [FeatureEdit(5, 2.0), FeatureEdit(7, mode="ablate")]
ASKED: dict[str, Any] = {"unit": "raw", "target": TARGET}


def prompts_of(gpt2: Family, texts: Sequence[str] = TEXTS) -> list[Tokens]:
    return [gpt2.model.tokenize(text, prepend_bos=True) for text in texts]


def logprob(logits: Array) -> float:
    return float(logits[TARGET] - np.logaddexp.reduce(logits))


def by_hand(
    gpt2: Family, sae: SAE, tokens: Tokens, edits: Sequence[FeatureEdit]
) -> tuple[float, float]:
    """The target's log-probability before and after, each in a run of its own."""
    ids = tokens.ids[None]
    after = steered_logits(gpt2.hf, sae, ids, edits, [1.0] * len(edits), len(tokens))
    return logprob(as_array(gpt2.hf.logits(ids))[0, -1]), logprob(after[-1])


def test_rows_mean_interval_and_signs_are_those_of_single_runs_of_the_plain_model(
    gpt2: Family,
) -> None:
    sae, prompts = make_sae(gpt2, "standard"), prompts_of(gpt2)
    done = intervene_all(gpt2.model, sae, prompts, EDITS, **ASKED)
    pairs = [by_hand(gpt2, sae, tokens, EDITS) for tokens in prompts]
    close([row.logprob_before for row in done.on_prompts], [before for before, _ in pairs])
    close([row.logprob_after for row in done.on_prompts], [after for _, after in pairs])
    effects = [after - before for before, after in pairs]
    assert [row.effect for row in done.on_prompts] == pytest.approx(effects, rel=2e-3, abs=2e-3)
    assert done.effect == pytest.approx(np.mean(effects), rel=2e-3, abs=2e-3)
    half = 2.571 * np.std(effects, ddof=1) / np.sqrt(6)  # t of 5 degrees of freedom at 97.5 %
    assert done.interval == pytest.approx(
        (np.mean(effects) - half, np.mean(effects) + half), rel=5e-3, abs=5e-3
    )
    test = done.sign_test
    assert (test.n_up, test.n_down) == (sum(e > 0 for e in effects), sum(e < 0 for e in effects))
    assert done.n_touched == 6 and done.measure == "logprob"


def test_a_control_of_the_mean_is_one_feature_pair_on_all_prompts(gpt2: Family) -> None:
    sae, prompts, edits = make_sae(gpt2, "standard"), prompts_of(gpt2), [FeatureEdit(5, 2.0)]
    done = intervene_all(gpt2.model, sae, prompts, edits, **ASKED, n_controls=3, seed=5)
    stack = as_stack(gpt2.model, sae)
    units = units_over(stack, prompts, Unit.of("raw", None, None, 1))
    drawn = [
        prepare(stack, tokens, edits, unit=unit, controls=Controls(3, 5)).drawn
        for tokens, unit in zip(prompts, units, strict=True)
    ]
    assert all(each == drawn[0] for each in drawn)
    rows = NumpySAE(sae).rows()
    means: list[float] = []
    for (ref,) in drawn[0]:
        effects: list[float] = []
        for tokens in prompts:
            ids = tokens.ids[None]
            mask = edited_positions(as_array(tokens.ids), edits[0], len(tokens))
            row = rows[ref.feature] * np.linalg.norm(rows[5]) / np.linalg.norm(rows[ref.feature])
            after = gpt2.hf.logits(ids, {write_hook(sae): shifted_by(2 * mask[:, None] * row)})
            before = as_array(gpt2.hf.logits(ids))[0, -1]
            effects.append(logprob(as_array(after)[0, -1]) - logprob(before))
        means.append(float(np.mean(effects)))
    expected = compare_with(done.effect, means)
    assert (done.control.n, done.control.p) == (3, expected.p)
    assert done.control.mean == pytest.approx(expected.mean, rel=2e-3, abs=2e-3)
    assert done.control.sd == pytest.approx(expected.sd, rel=1e-2, abs=2e-3)


def test_nineteen_controls_are_drawn_unless_another_number_is_given(gpt2: Family) -> None:
    done = intervene_all(gpt2.model, make_sae(gpt2, "standard"), prompts_of(gpt2), EDITS, **ASKED)
    assert done.control.n == 19 and done.control.p is not None


def fires_on(gpt2: Family, sae: SAE, tokens: Tokens) -> NDArray[np.bool_]:
    """Which features fire at the positions that count."""
    x = flat(gpt2.hf.record(tokens.ids[None], [read_hook(sae)])[read_hook(sae)])
    mask = edited_positions(as_array(tokens.ids), FeatureEdit(0), len(tokens))
    return np.any(NumpySAE(sae).encode(x) * mask[:, None] > 0, axis=0)


def test_prompts_that_the_edit_does_not_touch_are_counted_and_not_averaged(gpt2: Family) -> None:
    sae, prompts = make_sae(gpt2, "topk"), prompts_of(gpt2)
    fires = np.array([fires_on(gpt2, sae, tokens) for tokens in prompts])
    feature = int(np.argmax((fires.sum(axis=0) > 0) & (fires.sum(axis=0) < len(prompts))))
    touched = fires[:, feature]
    assert 0 < touched.sum() < len(prompts)
    edits = [FeatureEdit(feature, mode="ablate")]
    done = intervene_all(gpt2.model, sae, prompts, edits, **ASKED)
    assert [row.touched for row in done.on_prompts] == touched.tolist()
    assert done.n_touched == touched.sum() and done.touched
    pairs = [by_hand(gpt2, sae, each, edits) for each, t in zip(prompts, touched, strict=True) if t]
    effects = [after - before for before, after in pairs]
    assert done.effect == pytest.approx(np.mean(effects), rel=5e-3, abs=2e-4)
    signs = done.sign_test
    assert signs.n_up + signs.n_down + signs.n_ties == touched.sum()


def test_an_edit_that_touches_no_prompt_has_no_effect_and_says_so(gpt2: Family) -> None:
    sae, prompts = make_sae(gpt2, "topk"), prompts_of(gpt2)
    fires = np.array([fires_on(gpt2, sae, tokens) for tokens in prompts])
    silent = int(np.argmin(fires.any(axis=0)))
    done = intervene_all(gpt2.model, sae, prompts, [FeatureEdit(silent, mode="ablate")], **ASKED)
    assert (done.effect, done.n_touched, done.touched, done.interval) == (0.0, 0, False, None)
    assert done.control.n == 0 and done.sign_test.p is None
    assert f"Feature {silent} does not fire" in done.warnings[0]


def test_few_prompts_have_no_interval(gpt2: Family) -> None:
    sae, prompts = make_sae(gpt2, "standard"), prompts_of(gpt2)
    for n, there in ((4, False), (5, True)):
        done = intervene_all(gpt2.model, sae, prompts[:n], EDITS, **ASKED, n_controls=0)
        assert (done.interval is not None) == there and done.control.p is None


def test_a_prompt_alone_gives_what_intervene_gives(gpt2: Family) -> None:
    sae, tokens = make_sae(gpt2, "standard"), prompts_of(gpt2)[0]
    one = intervene(gpt2.model, sae, tokens, EDITS, target=TARGET)
    (many,) = intervene_all(gpt2.model, sae, [tokens], EDITS, target=TARGET).on_prompts
    assert many.effect == pytest.approx(one.effect, rel=1e-6)


def test_without_a_target_each_prompt_has_its_own(gpt2: Family) -> None:
    sae, prompts = make_sae(gpt2, "standard"), prompts_of(gpt2)
    done = intervene_all(gpt2.model, sae, prompts, EDITS, unit="raw", n_controls=0)
    best = [int(as_array(gpt2.hf.logits(each.ids[None]))[0, -1].argmax()) for each in prompts]
    assert [row.target for row in done.on_prompts] == [gpt2.model.token_text(i) for i in best]


def test_a_prompt_that_is_given_again_is_no_new_evidence(gpt2: Family) -> None:
    sae, prompts = make_sae(gpt2, "standard"), prompts_of(gpt2)
    once = intervene_all(gpt2.model, sae, prompts, EDITS, **ASKED)
    copies = [prompts[0], *prompts, prompts[2]]
    again = intervene_all(gpt2.model, sae, copies, EDITS, **ASKED)
    assert again.interval == once.interval and again.sign_test == once.sign_test
    assert (again.effect, again.control, again.shares) == (once.effect, once.control, once.shares)
    assert again.n_distinct == len(TEXTS) and once.n_distinct == len(TEXTS)
    assert again.on_prompts == [once.on_prompts[0], *once.on_prompts, once.on_prompts[2]]
    assert again.warnings == [
        "2 of the 8 prompts repeat another: each counts once.",
        *once.warnings,
    ]
    alone = intervene_all(gpt2.model, sae, [prompts[0]] * 8, EDITS, **ASKED)
    assert alone.interval is None and alone.sign_test.p == 1.0


def test_no_prompt_is_refused(gpt2: Family) -> None:
    with pytest.raises(ArgumentError, match="no prompt"):
        intervene_all(gpt2.model, make_sae(gpt2, "standard"), [], EDITS)


def test_cancelling_between_prompts_leaves_the_model_as_before(gpt2: Family) -> None:
    sae, prompts = make_sae(gpt2, "standard"), prompts_of(gpt2)
    clean, event = gpt2.model.forward(prompts[0].ids[None])[0], threading.Event()
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            event.set()

    with cancellable(event), pytest.raises(Cancelled):
        intervene_all(gpt2.model, sae, prompts, EDITS, **ASKED, progress=progress)
    assert seen == [(1, 6), (2, 6)]
    assert not any(point.fwd_hooks for point in gpt2.model.bridge.hook_dict.values())
    assert torch.equal(gpt2.model.forward(prompts[0].ids[None])[0], clean)


# One of several edits.

SETS = {
    "two": EDITS,
    "three": [*EDITS, FeatureEdit(9, 0.5, "clamp")],
    "a direction removed": [*EDITS, FeatureEdit(6, mode="project_out")],
    "at places": [FeatureEdit(5, 2.0, positions=(2,)), FeatureEdit(5, -1.0, positions=(3,))],
}


@pytest.mark.parametrize("name", SETS)
def test_alone_and_all_but_this_are_runs_of_the_plain_model_with_those_edits(
    gpt2: Family, name: str
) -> None:
    sae, tokens, edits = make_sae(gpt2, "standard"), prompts_of(gpt2)[0], SETS[name]
    done = intervene(gpt2.model, sae, tokens, edits, **ASKED, n_controls=2)
    assert [share.feature for share in done.shares] == [edit.feature for edit in edits]
    for n, share in enumerate(done.shares):
        for ours, kept in (
            (share.alone, [edits[n]]),
            (share.all_but_this, [*edits[:n], *edits[n + 1 :]]),
        ):
            before, after = by_hand(gpt2, sae, tokens, kept)
            assert ours == pytest.approx(after - before, rel=2e-3, abs=2e-3)


def test_one_edit_has_no_shares(gpt2: Family) -> None:
    done = intervene(gpt2.model, make_sae(gpt2, "standard"), prompts_of(gpt2)[0], EDITS[:1])
    assert done.shares == [] and done.control.n == 19


def writing(gpt2: Family, features: Sequence[int]) -> SAE:
    """An SAE of which these features write the target's unembedding."""
    sae = make_sae(gpt2, "standard")
    rows = sae.tensors()["W_dec"].clone()
    towards = gpt2.hf.unembed.weight[TARGET].detach()
    for feature in features:
        rows[feature] = towards / towards.norm() * rows[feature].norm()
    return type(sae)(sae.cfg, sae.tensors() | {"W_dec": rows})


def test_of_a_redundant_pair_either_is_enough_and_leaving_one_out_costs_nothing(
    gpt2: Family,
) -> None:
    sae, edits = writing(gpt2, [5, 6]), [FeatureEdit(5, 400.0), FeatureEdit(6, 400.0)]
    done = intervene(gpt2.model, sae, prompts_of(gpt2)[0], edits, **ASKED)
    assert done.effect > 1
    for share in done.shares:
        assert share.alone > 0.9 * done.effect
        assert done.effect - share.all_but_this < 0.1 * done.effect


def test_of_an_additive_pair_each_adds_its_own(gpt2: Family) -> None:
    sae, edits = writing(gpt2, [5, 6]), [FeatureEdit(5, 0.02), FeatureEdit(6, 0.04)]
    asked: dict[str, Any] = {**ASKED, "measure": "logit"}
    done = intervene(gpt2.model, sae, prompts_of(gpt2)[0], edits, **asked)
    alone = [share.alone for share in done.shares]
    assert sum(alone) == pytest.approx(done.effect, rel=0.02)
    for share in done.shares:
        assert done.effect - share.all_but_this == pytest.approx(share.alone, rel=0.05)


def test_shares_of_several_prompts_are_means(gpt2: Family) -> None:
    sae, prompts = make_sae(gpt2, "standard"), prompts_of(gpt2)
    done = intervene_all(gpt2.model, sae, prompts, EDITS, **ASKED, n_controls=0)
    each = [intervene(gpt2.model, sae, one, EDITS, **ASKED, n_controls=0) for one in prompts]
    for n, share in enumerate(done.shares):
        assert share.alone == pytest.approx(
            np.mean([one.shares[n].alone for one in each]), abs=1e-4
        )
        others = np.mean([one.shares[n].all_but_this for one in each])
        assert share.all_but_this == pytest.approx(others, abs=1e-4)


# What several prompts say together.


@pytest.mark.parametrize(
    ("values", "n_up", "n_down", "n_ties", "p"),
    [
        ([1, 2, 3, 4, 5], 5, 0, 0, 2 / 32),
        ([1, 1, 1, 1, 1, 1, 1, -1], 7, 1, 0, 2 * 9 / 256),
        ([0, 1, 1, 1, 1, 1, 1], 6, 0, 1, 2 / 64),
        ([1, -1], 1, 1, 0, 1.0),
        ([0, 0], 0, 0, 2, None),
        ([], 0, 0, 0, None),
    ],
)
def test_the_sign_test_is_the_exact_binomial_one(
    values: list[float], n_up: int, n_down: int, n_ties: int, p: float | None
) -> None:
    test = sign_test(values)
    assert (test.n_up, test.n_down, test.n_ties) == (n_up, n_down, n_ties)
    assert test.p == (None if p is None else pytest.approx(p))


def test_an_interval_needs_as_many_values_as_it_is_told() -> None:
    assert t_interval([1.0, 2.0, 3.0], least=4) is None
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))
