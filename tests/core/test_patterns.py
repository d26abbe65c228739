"""Patterns that strangers write find what Python's re finds, and never keep anybody waiting."""

import re
import time

import pytest

from saescope import patterns
from saescope.errors import ArgumentError
from saescope.patterns import MOST_CHARS, Pattern

TEXT = "She said: “her été”, then Sheila\nleft. She\tdid (really) 3.14 times."


@pytest.mark.parametrize(
    "pattern",
    [
        r"\b(she|her)\b",
        r"(?i)\bshe\b",
        r"[A-Z]\w+",
        r"\d+\.\d+",
        "é",
        r"\s+",
        r"\(really\)",
        r"(?m)^l",
    ],
)
def test_matches_are_those_of_re(pattern: str) -> None:
    assert Pattern(pattern).spans(TEXT) == [match.span() for match in re.finditer(pattern, TEXT)]


@pytest.mark.parametrize("pattern", ["x*", r"\b", "^", "(?=She)"])
def test_matches_of_nothing_are_none(pattern: str) -> None:
    assert Pattern(pattern).spans("She said") == []


@pytest.mark.parametrize(
    "pattern",
    [
        *("(", "[a", "a{4294967296}", r"\L<x>", "(" * MOST_CHARS, "*a", r"\p{Foo}"),
        *("(?R)", "(?:(?R)|a)", r"(?<a>(?&a))", r"\\(?R)", r"(?P<x>a(?P>x))"),
        *("", "a" * 501),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ArgumentError) as refused:
        Pattern(pattern)
    assert refused.value.code == "INVALID_PATTERN" and refused.value.field == "pattern"


def test_an_escaped_parenthesis_before_a_question_mark_is_no_recursion() -> None:
    assert Pattern(r"\(?Rome").spans("(Rome Rome") == [(0, 5), (6, 10)]


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(?:a{1,1000}){1,1000}b"])
def test_catastrophic_backtracking_is_stopped(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "TEXT_S", 0.1)
    started = time.process_time()
    with pytest.raises(ArgumentError) as refused:
        Pattern(pattern).spans("a" * 5000 + "!")
    assert refused.value.code == "PATTERN_TOO_SLOW"
    assert time.process_time() - started < 5


def test_all_texts_of_a_call_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "CALL_S", 0.0)
    with pytest.raises(ArgumentError) as refused:
        Pattern("(a+)+$").spans("a" * 5000 + "!")
    assert refused.value.code == "PATTERN_TOO_SLOW"
