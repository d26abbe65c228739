"""What Neuronpedia's API takes: features by `POST /api/feature/upload-batch`, and lists by
`POST /api/list/new-with-features`.

Field names and limits as its routes check them (`feature/upload-batch/route.tsx` and
`list/new-with-features/route.tsx` in `apps/webapp/app/api` of github.com/hijohnnylin/neuronpedia,
Apache-2.0, commit ebb8426 of 2026-08-20). Nothing is sent: whoever has a key posts the file.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from saescope.neuronpedia.identity import SITE, HostedSAE
from saescope.neuronpedia.rows import NO_BAND, Exported, Row, band_of
from saescope.records.card import CardExample, CardToken, FeatureCard

MOST_IN_BATCH, MOST_TOKENS, MOST_LOGITS, MOST_LABEL = 128, 1024, 20, 512
MOST_IN_QUICK_LIST = 150
NO_TEXT = "\N{REPLACEMENT CHARACTER}"
"""Stands for a token without text: the route takes none that is empty."""


@dataclass(frozen=True, slots=True)
class FeatureOnList:
    """A feature on a list, of whichever SAE."""

    sae: HostedSAE
    feature: int
    description: str = ""


@dataclass(frozen=True, slots=True)
class FeatureList:
    """A named list of features, with a few words about each."""

    name: str
    description: str
    features: tuple[FeatureOnList, ...]


def list_of(sae: HostedSAE, cards: Sequence[FeatureCard], name: str) -> FeatureList:
    """The list of these features, each called by its best label."""
    return FeatureList(
        name,
        "",
        tuple(
            FeatureOnList(sae, card.feature, card.labels[0].text if card.labels else "")
            for card in cards
        ),
    )


def list_body(features: FeatureList) -> Row:
    """The body of `POST /api/list/new-with-features`."""
    return {
        "name": features.name,
        "description": features.description,
        "features": [
            {
                "modelId": row.sae.model,
                "layer": row.sae.source,
                "index": row.feature,
                "description": row.description,
            }
            for row in features.features
        ],
    }


def quick_list_url(features: FeatureList) -> str:
    """The address at which Neuronpedia shows features that it hosts side by side, without an
    account; the first 150, more it refuses."""
    shown = [
        {"modelId": row.sae.model, "layer": row.sae.source, "index": str(row.feature)}
        for row in features.features[:MOST_IN_QUICK_LIST]
    ]
    asked = {"name": features.name, "features": json.dumps(shown, separators=(",", ":"))}
    return f"{SITE}/quick-list/?{urlencode(asked)}"


def upload_bodies(sae: HostedSAE, features: Sequence[Exported]) -> list[Row]:
    """The bodies of as many `POST /api/feature/upload-batch`; a feature without examples is in
    none, since the route takes no such one."""
    shown = [_uploaded(each.card) for each in features if each.card.examples]
    return [
        {
            "modelId": sae.model.lower(),
            "source": sae.source.lower(),
            "features": shown[start : start + MOST_IN_BATCH],
        }
        for start in range(0, len(shown), MOST_IN_BATCH)
    ]


def _uploaded(card: FeatureCard) -> Row:
    known: Row = {} if card.density is None else {"density": card.density}
    return {
        "index": card.feature,
        **known,
        "topLogits": _logits(card.promotes),
        "bottomLogits": _logits(card.suppresses),
        "explanations": [
            {"text": label.text[:MOST_LABEL], "methodName": None, "modelName": None}
            for label in card.labels
        ],
        "activations": [_activation(card, example) for example in card.examples],
    }


def _logits(tokens: Sequence[CardToken]) -> list[Row]:
    return [{"token": row.token or NO_TEXT, "value": row.effect} for row in tokens[:MOST_LOGITS]]


def _activation(card: FeatureCard, example: CardExample) -> Row:
    first = max(0, min(example.pos - MOST_TOKENS // 2, len(example.tokens) - MOST_TOKENS))
    shown, band = slice(first, first + MOST_TOKENS), band_of(example, card.histogram)
    ends: list[Any] = [None if value == NO_BAND else value for value in band]
    return {
        "tokens": [token or NO_TEXT for token in example.tokens[shown]],
        "values": example.activations[shown],
        "quantileMin": ends[0],
        "quantileMax": ends[1],
        "quantileFraction": ends[2],
    }
