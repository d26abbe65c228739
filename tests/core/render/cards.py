"""Feature cards to render: a full one with hostile text, and an empty one."""

import math
from dataclasses import replace
from typing import Any

from saescope.features.card import (
    CardBin,
    CardCorpus,
    CardExample,
    CardLabel,
    CardNeighbour,
    CardPartner,
    CardToken,
    FeatureCard,
)
from saescope.features.labels.scores import LabelScore
from saescope.verdicts import LabelVerdict

HOSTILE = [
    "<script>parent.pwned=1;window.pwned=1</script>",
    "</script></style></main>",
    "\u202ereversed",
    "x" * 400,
    "&amp;",
    "'\"><img src=x onerror=window.pwned=1>",
    "\n\n",
    "\x00\x1b[31m",
    "\u65e5\u672c",
    "\u05e9\u05dc\u05d5\u05dd",
    "{{7*7}}{% for %}",
    "\u200b\ud83d",
]
WORDS = ["the", "old", "dog", "ran", "over", "a", "hill", "and", "its", "young", "one", "followed"]
GOOD = LabelScore(0.83, 0.62, 0.94, 24, 0.8, 0.86, LabelVerdict.BETTER)
POOR = LabelScore(0.46, 0.3, 0.63, 24, 0.5, 0.4, LabelVerdict.CHANCE)
SITE = "blocks.14.hook_resid_post"


def label(text: str, source: str, score: LabelScore | None) -> CardLabel:
    return CardLabel(
        text, source, score, score.verdict if score else "not tested", "2026-11-21T10:00:00"
    )


def related(feature: int, called: CardLabel | None) -> dict[str, Any]:
    """How another feature is named; a hostile token is where it fires."""
    return {"feature": feature, "label": called, "top_token": HOSTILE[0], "promoted": " wolf"}


def example(band: str, activation: float, *, hostile: bool = False) -> CardExample:
    """64 tokens; the 30th fires as strongly as is said, the one before it with two fifths of
    that."""
    tokens = [f" {WORDS[at % len(WORDS)]}" for at in range(64)]
    if hostile:
        tokens[31 : 31 + len(HOSTILE)] = HOSTILE
    tokens[30] = " puppy"
    activations = [0.0] * 64
    activations[29], activations[30] = 0.4 * activation, activation
    return CardExample(
        start=8,
        token=" puppy",
        activation=activation,
        band=band,
        tokens=tokens,
        activations=activations,
        pos=30,
    )


FULL = FeatureCard(
    feature=1234,
    sae="smollm2-135m/14.resid_post",
    model="HuggingFaceTB/SmolLM2-135M-Instruct",
    hook_name=SITE,
    hook_name_out=SITE,
    architecture="topk",
    d_sae=4608,
    weights_hash="0123456789abcdef" * 4,
    density=0.00886,
    n_fired=1772,
    max_activation=22.735,
    mean_activation=4.21,
    typical_activation=17.2,
    quantiles={"0.5": 3.1, "0.9": 9.7, "0.99": 17.2},
    histogram=[
        CardBin(
            0.1 * 2 ** (n / 4),
            0.1 * 2 ** ((n + 1) / 4),
            int(300 * math.exp(-(((n - 18) / 6) ** 2))),
        )
        for n in range(32)
    ],
    examples=[
        example("top", 22.735),
        example("top", 20.1, hostile=True),
        example("1/2..1 of max", 14.0),
        example("1/8..1/4 of max", 4.0),
    ],
    promotes=[
        CardToken(" puppy", 1, 1.23),
        CardToken("<b>x</b>", 2, 1.1),
        CardToken("\n", 3, 0.7),
        CardToken("$x_$", 4, 0.4),
    ],
    suppresses=[CardToken(" cat", 5, -0.99), CardToken("\u65e5", 6, -0.6)],
    effects_through="Decoder row through the final norm and the unembedding.",
    neighbours=[
        CardNeighbour(**related(77, label("wolves", "agent", GOOD)), cosine=0.61),
        CardNeighbour(
            **related(9, label("<i>cats</i>", "neuronpedia:gpt-4o-mini", None)), cosine=0.41
        ),
        CardNeighbour(**related(1001, None), cosine=0.2),
    ],
    cofiring=[
        CardPartner(**related(5, None), n_together=120, share=0.33, phi=0.21),
        CardPartner(
            **related(66, label("animals", "you", POOR)), n_together=50, share=0.11, phi=0.09
        ),
    ],
    labels=[
        label("young dogs", "agent", GOOD),
        label("pets <script>window.pwned=1</script>", "neuronpedia:gpt-4o-mini", None),
        label("nouns", "you", POOR),
    ],
    corpus=CardCorpus(
        dataset="embedded",
        n_tokens=200000,
        created="2026-11-21T09:00:00",
        n_contexts=1563,
        context_size=128,
        seed=0,
    ),
    url="https://www.neuronpedia.org/gpt2-small/8-res-jb/1234",
    warnings=["The corpus is small: a rare feature may fire elsewhere."],
)

WITHOUT_INDEX = replace(
    FULL,
    density=None,
    n_fired=None,
    max_activation=None,
    mean_activation=None,
    quantiles={},
    histogram=[],
    examples=[],
    promotes=[],
    suppresses=[],
    effects_through="",
    neighbours=[],
    cofiring=[],
    labels=[],
    corpus=None,
    url="",
    warnings=[],
)
NEVER_FIRED = replace(
    FULL,
    density=0.0,
    n_fired=0,
    max_activation=None,
    mean_activation=None,
    quantiles={},
    histogram=[],
    examples=[],
    cofiring=[],
)
CARDS = {"full": FULL, "without an index": WITHOUT_INDEX, "never fired": NEVER_FIRED}
