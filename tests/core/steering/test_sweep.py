"""One table of strengths and prompts against single calls, each written out."""

from typing import Any

import numpy as np
import pytest
from tests.core.oracle import Family, close, make_sae
from tests.core.steering.reference import continuation, tokens_of

from saescope.controls import compare_with
from saescope.errors import ArgumentError
from saescope.models import Tokens
from saescope.splice import read_site
from saescope.steering import FeatureEdit, steer, sweep
from saescope.steering.judge import is_beyond
from saescope.steering.means import t_interval

CONCEPT = [300, 301, 302]
ASKED: dict[str, Any] = {"concept_tokens": CONCEPT, "max_new_tokens": 8, "seed": 3}
EDITS = [FeatureEdit(5, 2.0), FeatureEdit(7, 1.0, "clamp")]


def prompts_of(gpt2: Family) -> list[Tokens]:
    texts = ["The old man saw the little house", "She went to the door and", "A king said to him:"]
    return [gpt2.model.tokenize(text, prepend_bos=True) for text in texts]


def test_a_row_is_what_a_call_with_that_strength_gives(gpt2: Family) -> None:
    sae, tokens = make_sae(gpt2, "standard"), tokens_of(gpt2)
    table = sweep(gpt2.model, sae, [tokens], EDITS, strengths=[0.5, 4.0], unit="raw", **ASKED)
    for row, factor in zip(table.rows, (0.5, 4.0), strict=True):
        edits = [FeatureEdit(5, 2.0 * factor), FeatureEdit(7, factor, "clamp")]
        one = steer(gpt2.model, sae, tokens, edits, unit="raw", n_controls=0, **ASKED)
        assert row.strength == factor and row.text == one.steered[0].text
        assert row.concept_logprob == pytest.approx(one.concept_logprob, rel=1e-3, abs=1e-4)
        assert row.p == one.concept_control.p and row.interval is None
        assert row.beyond == is_beyond(one.concept_logprob, one.concept_control)
        assert row.kl == pytest.approx(one.steered[0].metrics.kl, rel=1e-3, abs=1e-5)
        assert row.repetition == one.steered[0].metrics.repetition
        assert table.baseline.text == one.baseline.text
        assert row.verdict == one.verdict.level or one.verdict.why.startswith("repetition")


def test_several_prompts_give_the_mean_and_its_interval(gpt2: Family) -> None:
    sae, prompts = make_sae(gpt2, "standard"), prompts_of(gpt2)
    table = sweep(gpt2.model, sae, prompts, EDITS, unit="raw", **ASKED)
    each = [
        steer(gpt2.model, sae, tokens, EDITS, unit="raw", n_controls=0, **ASKED)
        for tokens in prompts
    ]
    values = [one.concept_logprob for one in each if one.concept_logprob is not None]
    (row,) = table.rows
    assert row.concept_logprob == pytest.approx(np.mean(values), rel=1e-3, abs=1e-4)
    half = 4.303 * np.std(values, ddof=1) / np.sqrt(3)  # t at 97.5 % with 2 degrees of freedom
    assert row.interval is not None
    close(row.interval, [np.mean(values) - half, np.mean(values) + half], 1e-3)
    assert row.text == each[0].steered[0].text
    assert row.repetition == pytest.approx(
        np.mean([one.steered[0].metrics.repetition for one in each])
    )


def test_a_prompt_that_is_given_again_counts_once(gpt2: Family) -> None:
    sae, prompts = make_sae(gpt2, "standard"), prompts_of(gpt2)[:2]
    once = sweep(gpt2.model, sae, prompts, EDITS, unit="raw", **ASKED)
    again = sweep(gpt2.model, sae, [*prompts, prompts[0]], EDITS, unit="raw", **ASKED)
    assert again.rows == once.rows and again.n_left_out == once.n_left_out
    assert again.warnings[0] == "1 of the 3 prompts repeats another: each counts once."


def test_a_unit_is_one_for_all_prompts(gpt2: Family) -> None:
    sae, prompts = make_sae(gpt2, "standard"), prompts_of(gpt2)
    dense = [read_site(gpt2.model, sae, tokens.ids[None]).acts.to_dense() for tokens in prompts]
    firings = np.concatenate([acts[1:, 5][acts[1:, 5] > 0].numpy() for acts in dense])
    table = sweep(gpt2.model, sae, prompts, [FeatureEdit(5)], **ASKED)
    close(table.unit_values, [np.quantile(firings, 0.99)])
    assert table.unit_source == "99th percentile on these prompts"


def test_without_edits_there_is_the_plain_text_and_no_row(gpt2: Family) -> None:
    tokens = tokens_of(gpt2)
    table = sweep(gpt2.model, make_sae(gpt2, "standard"), [tokens], [], **ASKED)
    plain = continuation(gpt2.hf, None, tokens, 8)
    assert table.baseline.text == gpt2.model.tokenizer.hf.decode(plain)
    assert table.rows == [] and table.warnings == [] and table.unit_values == []


def test_samples_are_averaged_and_come_from_their_seeds(gpt2: Family) -> None:
    sae, tokens = make_sae(gpt2, "standard"), tokens_of(gpt2)
    asked: dict[str, Any] = ASKED | {"n_samples": 3, "temperature": 1.5}
    (row,) = sweep(gpt2.model, sae, [tokens], EDITS, unit="raw", **asked).rows
    one = steer(gpt2.model, sae, tokens, EDITS, unit="raw", n_controls=0, **asked)
    assert row.text == one.steered[0].text
    assert row.perplexity == pytest.approx(
        np.mean([arm.metrics.perplexity or 0.0 for arm in one.steered]), rel=1e-3
    )


def test_strengths_of_an_ablation_are_refused(gpt2: Family) -> None:
    sae = make_sae(gpt2, "standard")
    edits = [FeatureEdit(5, mode="ablate")]
    with pytest.raises(ArgumentError) as caught:
        sweep(gpt2.model, sae, [tokens_of(gpt2)], edits, strengths=[1.0, 2.0])
    assert caught.value.field == "strengths"


def test_the_interval_of_known_numbers() -> None:
    """1, 2, 3: mean 2, sd 1, so 2 -+ 4.303 / sqrt(3)."""
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((-0.484, 4.484), abs=1e-3)
    assert t_interval([1.0]) is None
    assert compare_with(0.0, []).n == 0
