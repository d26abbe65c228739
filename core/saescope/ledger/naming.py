"""What a sentence names by itself: models, numbers and p values; and whether it is English."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from saescope.ledger.words import is_of_size, quoted, without_places

_FAMILIES = (
    r"chatgpt|gpt[- ]?(?:j|neox?|oss|\d)|smollm|gemma|llama|pythia|qwen|olmo|deepseek|mixtral|"
    r"tinystories|(?:opt|phi|bloom|falcon|mistral|granite|yi|claude|gemini|bert)(?=[- ]?\d)"
)
_MODEL = re.compile(
    rf"\b(?:{_FAMILIES})(?:[- .]?v?\d[\w.]*\b|"
    r"-(?:it|instruct|chat|base|pt|small|medium|large|xl))*",
    re.IGNORECASE,
)
_P = re.compile(
    r"\bp(?:[- ]?values?)?\s*"
    r"(?:of|is|was|=|:|<=|<|>=|>|\N{LESS-THAN OR EQUAL TO}|below|under|above)?\s*"
    r"(\d*\.?\d+(?:e-?\d+)?)",
    re.IGNORECASE,
)
_BOUND = re.compile(r"<|\N{LESS-THAN OR EQUAL TO}|below|under", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.,#/-])[-+\N{MINUS SIGN}]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w/])")
_UNIT = re.compile(
    r"\d ?(bits?|db|decibels?|hartleys?|sigmas?|standard deviations?|percentage points?|points|"
    r"orders? of magnitude)\b",
    re.IGNORECASE,
)
_ENGLISH = frozenset(
    re.findall(
        r"\w+",
        "a t s don doesn isn raise lower fire cause boost boosts drives steers writes detects "
        "about activation activations active after against all also an and are as at average "
        "be because before beyond but by can causes change changes controls decreases "
        "difference does effect feature features fewer fires firing for from had has have in "
        "increases is it its layer less likelier likely log logit lowers makes mean model "
        "more nats neutral no not of on one only or other others out over per position "
        "probability prompt prompts raises random reduces removing result results sae same "
        "size text texts than that the their then these they this those to token tokens "
        "typical under up was were what when where which while with without word words",
    )
)
"""Common words of claims."""
LEAST_ENGLISH = 0.3
"""The share of a sentence's words that are among the commonest of claims, from which it counts as
English: of English ones half or more are."""


def other_models(text: str, own: Iterable[str]) -> list[str]:
    """Models that a text names, but for those that results are of."""
    known = [_letters(each) for each in own]
    named = [match[0].strip(" .") for match in _MODEL.finditer(_unquoted(text))]
    return [
        each
        for each in dict.fromkeys(named)
        if known and not any(_letters(each) in name for name in known)
    ]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def wrong_ps(text: str, ps: Sequence[float]) -> list[str]:
    """The p values of a text that are none of these; one that is a bound holds for all of them."""
    wrong = list[str]()
    for match in _P.finditer(_unquoted(text)):
        told, is_bound = float(match[1]), bool(_BOUND.search(match[0]))
        holds = (
            bool(ps) and all(p <= told for p in ps)
            if is_bound
            else told > 0 and _is_p(match[1], ps)
        )
        wrong += [] if holds else [match[0].strip()]
    return wrong


def _is_p(told: str, ps: Sequence[float]) -> bool:
    if "e" in told.lower():
        return any(abs(p - float(told)) <= 0.05 * p for p in ps)
    return is_of_size(told, ps)


def other_units(text: str) -> list[str]:
    """Units that no result of a claim has."""
    return [match[1] for match in _UNIT.finditer(_unquoted(text))]


def unknown_numbers(text: str, documents: Any) -> list[str]:
    """Numbers of a text that stand in none of these, beside those that are judged by what they are
    of: features, layers, prompts, nats, shares and p."""
    left = _P.sub(" ", _MODEL.sub(" ", without_places(_unquoted(text))))
    told = [match[0].rstrip(",") for match in _NUMBER.finditer(left)]
    known = {*_numbers(documents)} if told else set[float]()
    return [each for each in dict.fromkeys(told) if not _is_among(each, known)]


def _is_among(told: str, known: Iterable[float]) -> bool:
    number = told.replace(",", "").replace("\N{MINUS SIGN}", "-")
    wanted, signed = float(number), number[0] in "+-"
    if "e" in number:
        return any(abs(each - wanted) <= 0.05 * abs(wanted) for each in known)
    digits = len(number.partition(".")[2])
    return any(round(each if signed else abs(each), digits) == wanted for each in known)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)


def is_english(text: str) -> bool:
    """Whether the words of a sentence are such as are looked up: common English ones, spelled in
    Latin letters."""
    words = re.findall(r"[^\W\d_]+", _unquoted(text).casefold())
    if any(not char.isascii() for word in words for char in word):
        return False
    return not words or sum(word in _ENGLISH for word in words) >= LEAST_ENGLISH * len(words)


def _unquoted(text: str) -> str:
    for each in quoted(text):
        text = text.replace(each, " ")
    return text
