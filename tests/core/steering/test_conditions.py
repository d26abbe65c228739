"""Edits that act only where another feature fires, against PyTorch hooks on a plain model."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.core.oracle import Array, Family, NumpySAE, as_array, close, flat, make_sae, shifted_by
from tests.core.steering.reference import edited_positions, tokens_of

from saescope.errors import ArgumentError
from saescope.saes import SAE
from saescope.splice import read_hook, write_hook
from saescope.stack import as_stack
from saescope.steering import FeatureEdit, intervene, steer
from saescope.steering.forced import forced_logits
from saescope.steering.prepare import Prepared, prepare
from saescope.steering.units import Controls, Unit

RAW = Unit("raw", [None, None], [None, None])
N_NEW = 8


def pair(family: Family) -> list[SAE]:
    """A condition's SAE one layer below the one that is edited."""
    return [make_sae(family, "standard", layer=1, seed=3), make_sae(family, "topk", layer=1)]


def condition_of(family: Family, saes: Sequence[SAE], ids: torch.Tensor) -> tuple[int, float]:
    """A feature of the first SAE, and what about half of its activations on a text exceed, none of
    them by rounding."""
    acts = clean_acts(family, saes[0], ids)
    feature = int(np.argmax((acts[1:] > 0).sum(0) - 100 * (acts[1:] > 0).all(0)))
    return feature, 1.001 * float(np.median(acts[1:, feature][acts[1:, feature] > 0]))


def clean_acts(family: Family, sae: SAE, ids: torch.Tensor) -> Array:
    found = family.hf.record(ids, [read_hook(sae)])
    return NumpySAE(sae).encode(flat(found[read_hook(sae)]))


def logits_by_hand(
    family: Family, saes: Sequence[SAE], ids: torch.Tensor, edit: FeatureEdit, n_prompt: int
) -> Array:
    """The edit, an addition, where the feature of the SAE below fires."""
    assert edit.when_feature is not None
    fires = clean_acts(family, saes[edit.read_from], ids)[:, edit.when_feature] > edit.when_above
    mask = edited_positions(as_array(ids)[0], edit, n_prompt) & fires
    row = NumpySAE(saes[edit.sae]).rows()[edit.feature]
    change = edit.strength * mask[:, None] * row[None]
    return as_array(family.hf.logits(ids, {write_hook(saes[edit.sae]): shifted_by(change)}))[0]


def prepared(family: Family, saes: Sequence[SAE], edit: FeatureEdit) -> Prepared:
    stack = as_stack(family.model, saes)
    return prepare(stack, tokens_of(family), [edit], unit=RAW, controls=Controls(0, 0))


@pytest.mark.parametrize("same", [False, True])
def test_an_edit_acts_only_where_the_other_feature_fires(family: Family, same: bool) -> None:
    """On a text that is given, at prompt and continuation; the condition below, or at the site."""
    saes, tokens = pair(family), tokens_of(family)
    text = torch.cat([tokens.ids, torch.arange(300, 300 + N_NEW)])[None]
    where = saes[::-1] if same else saes
    feature, above = condition_of(family, where, text)
    edit = FeatureEdit(5, 6.0, sae=1, when_feature=feature, when_above=above)
    edit = edit if same else replace(edit, when_sae=0)
    ready, stack = prepared(family, saes, edit), as_stack(family.model, saes)
    (logits,) = forced_logits(stack, tokens.ids, text[0, len(tokens) :].tolist(), [ready.plans])
    expected = logits_by_hand(family, saes, text, edit, len(tokens))
    close(logits[1], expected[len(tokens) - 1 : -1], 1e-3)
    always = replace(edit, when_feature=None, when_sae=None, when_above=0.0)
    (others,) = forced_logits(
        stack, tokens.ids, text[0, len(tokens) :].tolist(), [prepared(family, saes, always).plans]
    )
    assert not torch.allclose(logits[1], others[1], atol=1e-3)


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_generation_reads_the_condition_anew_at_each_token(
    family: Family, use_cache: bool
) -> None:
    saes, tokens = pair(family), tokens_of(family)
    feature, above = condition_of(family, saes, tokens.ids[None])
    edit = FeatureEdit(5, 6.0, sae=1, when_sae=0, when_feature=feature, when_above=above)
    ids = tokens.ids[None]
    for _ in range(N_NEW):
        chosen = int(logits_by_hand(family, saes, ids, edit, len(tokens))[-1].argmax())
        if chosen == 3:
            break
        ids = torch.cat([ids, torch.tensor([[chosen]])], dim=1)
    done = steer(
        family.model,
        saes,
        tokens,
        [edit],
        unit="raw",
        n_controls=0,
        max_new_tokens=N_NEW,
        use_cache=use_cache,
    )
    written = ids[0, len(tokens) :].tolist()
    assert done.steered[0].text == family.model.tokenizer.join(written)


def test_a_condition_that_never_holds_leaves_the_logits_bit_for_bit(family: Family) -> None:
    saes, tokens = pair(family), tokens_of(family)
    edit = FeatureEdit(5, 50.0, sae=1, when_sae=0, when_feature=2, when_above=1e9)
    ready, stack = prepared(family, saes, edit), as_stack(family.model, saes)
    (logits,) = forced_logits(stack, tokens.ids, [300, 301, 302], [ready.plans])
    assert torch.equal(logits[0], logits[1])
    (plain,) = forced_logits(stack, tokens.ids, [300, 301, 302], [{}])
    assert torch.equal(logits[0], plain[0]) and torch.equal(plain[0], plain[1])
    done = steer(family.model, saes, tokens, [edit], unit="raw", n_controls=0, max_new_tokens=4)
    assert done.steered[0].text == done.baseline.text and done.concept_logprob == 0
    assert any("changed nowhere in the prompt" in warning for warning in done.warnings)


@pytest.mark.parametrize("mode", ["clamp", "scale", "ablate", "project_out"])
def test_every_mode_obeys_its_condition(gpt2: Family, mode: str) -> None:
    """Its own feature above a level: what is edited everywhere else is left as it was."""
    sae, tokens = make_sae(gpt2, "standard"), tokens_of(gpt2)
    acts = clean_acts(gpt2, sae, tokens.ids[None])[1:]
    feature = int(np.argmax((acts > 0).sum(0)))
    above = 1.001 * float(np.median(acts[:, feature][acts[:, feature] > 0]))
    edit = FeatureEdit(feature, 3.0, mode, when_feature=feature, when_above=above)
    ready = prepare(
        as_stack(gpt2.model, sae),
        tokens,
        [edit],
        unit=Unit("raw", [None], [None]),
        controls=Controls(0, 0),
    )
    holds = np.flatnonzero(ready.masks[0].numpy() & (np.r_[0, acts[:, feature]] > above))
    named = replace(edit, when_feature=None, when_above=0.0, positions=tuple(map(int, holds)))
    asked = {"unit": "raw", "n_controls": 0}
    here, there = (
        intervene(gpt2.model, sae, tokens, [each], **asked)  # pyright: ignore[reportArgumentType]
        for each in (edit, named)
    )
    assert len(holds) and here.effect == pytest.approx(there.effect, rel=1e-5)


def test_a_condition_that_is_read_too_late_is_refused(gpt2: Family) -> None:
    saes = [make_sae(gpt2, "standard", layer=2), make_sae(gpt2, "topk", layer=1)]
    edit = FeatureEdit(5, 1.0, sae=0, when_sae=1, when_feature=3)
    steer(gpt2.model, saes, tokens_of(gpt2), [edit], max_new_tokens=1, n_controls=0)
    late = FeatureEdit(5, 1.0, sae=1, when_sae=0, when_feature=3)
    # blocks.2.hook_resid_pre is what blocks.1.hook_resid_post has written: one hook later
    with pytest.raises(ArgumentError, match="read too late") as caught:
        steer(gpt2.model, saes, tokens_of(gpt2), [late], max_new_tokens=1)
    assert caught.value.code == "CONDITION_TOO_LATE" and caught.value.field == "when_sae"


@pytest.mark.parametrize(
    "wrong, field",
    [
        ({"when_above": 1.0}, "when_feature"),
        ({"when_sae": 0}, "when_feature"),
        ({"when_feature": 48}, "when_feature"),
        ({"when_feature": 1, "when_sae": 2}, "when_sae"),
        ({"when_feature": 1, "when_above": -1.0}, "when_above"),
        ({"when_feature": 1, "when_above": float("nan")}, "when_above"),
    ],
)
def test_a_condition_that_cannot_be_is_refused(
    gpt2: Family, wrong: dict[str, float], field: str
) -> None:
    edit = replace(FeatureEdit(5), **wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError) as caught:
        steer(gpt2.model, make_sae(gpt2, "standard"), tokens_of(gpt2), [edit])
    assert caught.value.field == field
