"""Which token of one prompt stands for which of another."""

from difflib import SequenceMatcher
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.models import Tokens
from saescope.records.pairs import TextDifference

TEMPLATE = 0.5
"""Prompts of one length with this share of their tokens in the same places fill one template."""


class Stretch(NamedTuple):
    """A stretch that differs: tokens `a[0]:a[1]` of one prompt and `b[0]:b[1]` of the other."""

    a: tuple[int, int]
    b: tuple[int, int]


class Alignment(NamedTuple):
    """Positions that stand for each other, from the first difference on: what comes before it is
    the same run in both prompts."""

    a: Int[Tensor, " n"]
    b: Int[Tensor, " n"]
    spans: list[Stretch]
    n_unaligned: int


def align(a: Tokens, b: Tokens) -> Alignment:
    """Align prompts by their tokens: place by place where they fill one template, else by their
    longest common stretches. Of a stretch that differs in length the ends stand for each other, as
    what follows reads the last token of a name.

    Raises:
        ArgumentError: the prompts are the same.
    """
    ids_a, ids_b = a.ids.tolist(), b.ids.tolist()
    if ids_a == ids_b:
        raise ArgumentError(
            "Both prompts are the same tokens: nothing differs.",
            code="SAME_PROMPTS",
            field="b",
            allowed="a prompt that differs from a",
            hint="Change in b what you ask about, such as one name.",
        )
    spans = _in_place(ids_a, ids_b) if _is_template(ids_a, ids_b) else _by_stretches(ids_a, ids_b)
    pairs = _pairs(spans, len(ids_a), len(ids_b))
    first = spans[0].a[0] + spans[0].b[0]
    n_unaligned = len(ids_a) + len(ids_b) - first - 2 * len(pairs)
    one, other = (torch.tensor([each[i] for each in pairs], dtype=torch.long) for i in (0, 1))
    return Alignment(one, other, spans, n_unaligned)


def _pairs(spans: list[Stretch], n_a: int, n_b: int) -> list[tuple[int, int]]:
    """Positions that stand for each other, from the first stretch that differs on."""
    pairs = list[tuple[int, int]]()
    at_a, at_b = spans[0].a[0], spans[0].b[0]
    for a, b in [*spans, Stretch((n_a, n_a), (n_b, n_b))]:
        pairs += zip(range(at_a, a[0]), range(at_b, b[0]), strict=True)
        n = min(a[1] - a[0], b[1] - b[0])
        pairs += zip(range(a[1] - n, a[1]), range(b[1] - n, b[1]), strict=True)
        at_a, at_b = a[1], b[1]
    return pairs


def in_words(a: Tokens, b: Tokens, spans: list[Stretch]) -> list[TextDifference]:
    """The stretches that differ, as text."""

    def text(tokens: Tokens, span: tuple[int, int]) -> tuple[int | None, str]:
        return (span[0] if span[1] > span[0] else None), "".join(tokens.strings[slice(*span)])

    found: list[TextDifference] = []
    for span in spans:
        (pos_a, text_a), (pos_b, text_b) = text(a, span.a), text(b, span.b)
        found.append(TextDifference(pos_a=pos_a, text_a=text_a, pos_b=pos_b, text_b=text_b))
    return found


def _is_template(a: list[int], b: list[int]) -> bool:
    if len(a) != len(b):
        return False
    # Two names that change places are two tokens replaced, not one taken out and put in again: a
    # common subsequence, which is longer there, would align nobody with nobody.
    return sum(x == y for x, y in zip(a, b, strict=True)) >= TEMPLATE * len(a)


def _in_place(a: list[int], b: list[int]) -> list[Stretch]:
    spans, start = list[Stretch](), -1
    for pos, same in enumerate([*(x == y for x, y in zip(a, b, strict=True)), True]):
        if not same and start < 0:
            start = pos
        if same and start >= 0:
            spans.append(Stretch((start, pos), (start, pos)))
            start = -1
    return spans


def _by_stretches(a: list[int], b: list[int]) -> list[Stretch]:
    # Without autojunk: in a long prompt it would take frequent tokens for noise.
    opcodes = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    return [
        Stretch((a_start, a_end), (b_start, b_end))
        for kind, a_start, a_end, b_start, b_end in opcodes
        if kind != "equal"
    ]
