"""What Neuronpedia's answers say, cleaned: every text passes `saescope.untrusted`, every number is
finite, lists are capped.

Shapes as its routes give them (snapshot of 2026-08-20); fields that are missing or null are
tolerated, other shapes are not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from saescope.neuronpedia.failures import unreadable
from saescope.neuronpedia.identity import HostedSAE, feature_page
from saescope.untrusted import clean_line, clean_token

MOST_LABELS, MOST_EXAMPLES, MOST_TOKENS, MOST_PROMOTED = 20, 20, 256, 20

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The age of an answer, and the problem for which an old one had to do."""

    age_s: float
    """The age of the answer in seconds; 0 if it came just now."""
    problem: str = ""
    """Code of the error for which an old answer had to do; empty if it is fresh enough."""


class RemoteScore(NamedTuple):
    """How well a label did in a test that Neuronpedia ran."""

    kind: str
    """Such as "recall_alt" or "eleuther_fuzz"."""
    value: float


@dataclass(frozen=True, slots=True)
class RemoteLabel:
    """An explanation, as a model or a person wrote it: untrusted text."""

    text: str
    author: str
    """The model that wrote it; empty if not said."""
    method: str
    scores: tuple[RemoteScore, ...]


@dataclass(frozen=True, slots=True)
class RemoteExample:
    """A text on which the feature fires; untrusted."""

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    pos: int
    """The position of the largest activation."""
    activation: float


@dataclass(frozen=True, slots=True)
class RemoteCard:
    """What Neuronpedia knows of one feature. Density and maximum are over its own corpus."""

    feature: int
    url: str
    density: float | None
    max_activation: float | None
    labels: tuple[RemoteLabel, ...]
    promotes: tuple[tuple[str, float], ...]
    suppresses: tuple[tuple[str, float], ...]
    neighbours: tuple[tuple[int, float], ...]
    """Features of the same SAE by cosine of the decoder."""
    examples: tuple[RemoteExample, ...]
    retrieval: Retrieval


@dataclass(frozen=True, slots=True)
class RemoteHit:
    """A feature whose label resembles a query."""

    feature: int
    url: str
    label: RemoteLabel
    similarity: float | None
    """Cosine of the embeddings of query and label."""


def card(reply: Any, sae: HostedSAE, feature: int, retrieval: Retrieval) -> RemoteCard:
    """Read the card of a feature from a neuron's document."""
    row = _row(reply, "card")
    if index_of(row.get("index")) != feature:
        raise unreadable("card", "is about another feature")
    examples = [example for item in _rows(row, "activations") if (example := example_of(item))]
    return RemoteCard(
        feature=feature,
        url=feature_page(str(sae), feature),
        density=_density(row.get("frac_nonzero")),
        max_activation=_number(row.get("maxActApprox")),
        labels=labels(row),
        promotes=_pairs(row, "pos_str", "pos_values"),
        suppresses=_pairs(row, "neg_str", "neg_values"),
        neighbours=tuple(
            (index, value)
            for name, cosine in zip(
                _list(row, "topkCosSimIndices"), _list(row, "topkCosSimValues"), strict=False
            )
            if (index := index_of(name)) is not None
            and index != feature
            and (value := _number(cosine)) is not None
        ),
        examples=tuple(sorted(examples, key=lambda example: -example.activation)[:MOST_EXAMPLES]),
        retrieval=retrieval,
    )


def labels(row: Row) -> tuple[RemoteLabel, ...]:
    """The explanations in a neuron's document: those with a score first, the best of them
    foremost."""
    labels_ = [label for item in _rows(row, "explanations") if (label := label_of(item))]
    return tuple(
        sorted(
            labels_, key=lambda label: -max((score.value for score in label.scores), default=-1.0)
        )[:MOST_LABELS]
    )


def label_of(row: Row) -> RemoteLabel | None:
    """Read one explanation; None if it has no words."""
    text = clean_line(_text(row, "description"))
    if not text:
        return None
    scores = [
        RemoteScore(clean_line(_text(item, "explanationScoreTypeName"), 40), value)
        for item in _rows(row, "scores")
        if (value := _number(item.get("value"))) is not None
    ]
    author, method = (
        clean_line(_text(row, "explanationModelName"), 60),
        clean_line(_text(row, "typeName"), 60),
    )
    return RemoteLabel(text, author, method, tuple(scores[:MOST_LABELS]))


def hits(reply: Any, sae: HostedSAE) -> list[RemoteHit]:
    """Read the hits of a search in labels."""
    hits_: list[RemoteHit] = []
    for row in _rows(_row(reply, "search"), "results", required=True):
        feature, label = index_of(row.get("index")), label_of(row)
        if feature is not None and label and row.get("layer", sae.source) == sae.source:
            hits_.append(
                RemoteHit(
                    feature,
                    feature_page(str(sae), feature),
                    label,
                    _number(row.get("cosine_similarity")),
                )
            )
    return hits_


def example_of(row: Row) -> RemoteExample | None:
    """Read one activation: a text with a value a token; None where it is none."""
    tokens, values = _list(row, "tokens"), [_number(value) for value in _list(row, "values")]
    if not tokens or len(values) != len(tokens) or None in values:
        return None
    numbers = [float(value) for value in values if value is not None]
    pos = max(range(len(numbers)), key=numbers.__getitem__)
    first = max(0, min(pos - MOST_TOKENS // 2, len(tokens) - MOST_TOKENS))
    shown = slice(first, first + MOST_TOKENS)
    return RemoteExample(
        tuple(clean_token(str(token)) for token in tokens[shown]),
        tuple(numbers[shown]),
        pos - first,
        numbers[pos],
    )


def _pairs(row: Row, names: str, values: str) -> tuple[tuple[str, float], ...]:
    pairs = zip(_list(row, names), _list(row, values), strict=False)
    return tuple(
        (clean_token(str(name)), number)
        for name, value in pairs
        if (number := _number(value)) is not None
    )[:MOST_PROMOTED]


def _row(reply: Any, what: str) -> Row:
    if not isinstance(reply, Mapping):
        raise unreadable(what, "has another shape than its route gives")
    return reply


def _rows(row: Row, name: str, *, required: bool = False) -> list[Row]:
    if required and not isinstance(row.get(name), list):
        raise unreadable(name, "has another shape than its route gives")
    return [item for item in _list(row, name) if isinstance(item, Mapping)]


def _list(row: Row, name: str) -> list[Any]:
    value = row.get(name)
    if value is not None and not isinstance(value, list):
        raise unreadable(name, "has another shape than its route gives")
    return value or []


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _density(value: Any) -> float | None:
    """A share; the site writes -1 where it is unknown."""
    number = _number(value)
    return number if number is not None and 0 <= number <= 1 else None


def index_of(value: Any) -> int | None:
    """A count from 0; the site writes indices as text."""
    text = str(value)
    return (
        int(text)
        if text.isascii() and text.isdigit() and len(text) < 10 and not isinstance(value, bool)
        else None
    )
