"""What a summary says of an effect beside its controls, of what is left out, and of shares."""

from typing import Any

import pytest
import torch

from saescope.models import Tokens
from saescope.records.controls import Comparison
from saescope_mcp.replies.facts import beside, left_out, percent

OUTSIDE = Comparison(0.1, 0.2, 19, 0.05, True)


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        (OUTSIDE, " (19 random ones: 0.1 ± 0.2; outside these, p 0.05)"),
        (
            Comparison(0.1, 0.2, 19, 0.4, False),
            " (19 random ones: 0.1 ± 0.2; not outside these, p 0.4)",
        ),
        (
            Comparison(0.1, None, 1, 0.5, False),
            " (1 random ones: 0.1; too few to tell: n_controls=19 is enough)",
        ),
        (Comparison(None, None, 0, None, False), ""),
    ],
)
def test_an_effect_is_told_beside_its_controls(control: Comparison, expected: str) -> None:
    assert beside(control, "random ones") == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "position 0 and special tokens (4 in all)"),
        ({"n_sinks": 1}, "position 0, special tokens and attention sinks (4 in all)"),
        ({"chat": True}, "position 0, special tokens and the chat template (4 in all)"),
        (
            {"chat": True, "n_sinks": 2},
            "position 0, special tokens, the chat template and attention sinks (4 in all)",
        ),
        ({"chat": True, "named": True}, "all positions but those named"),
    ],
)
def test_all_that_is_left_out_is_named(asked: dict[str, Any], expected: str) -> None:
    tokens = Tokens(torch.arange(6), torch.tensor([True] * 4 + [False] * 2), ("a",) * 6, False)
    assert left_out(4, [tokens], **asked) == f"No BOS; left out: {expected}."


def test_a_word_at_position_0_is_named_and_tokens_that_are_not_there_are_not() -> None:
    tokens = Tokens(torch.arange(2), torch.tensor([False, False]), ("The", " sea"), False)
    included = "'The'; to include it: include_special=true"
    assert left_out(2, [tokens] * 2) == f"No BOS; left out: position 0 ({included})."
    with_bos = Tokens(torch.arange(2), torch.tensor([True, False]), ("<s>", " sea"), True)
    assert left_out(1, [with_bos]) == "With BOS; left out: position 0."
    assert left_out(0, [tokens]) == "No BOS; no position is left out."


def test_shares_in_words_have_no_exponent() -> None:
    assert [percent(share) for share in (0.0, 0.0123, 0.3, 1 / 3, 0.996, 1.0)] == [
        *("0%", "1.2%", "30%", "33%", "99.6%", "100%")
    ]
