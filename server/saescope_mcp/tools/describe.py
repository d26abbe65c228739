"""describe_feature."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mcp.types import ToolAnnotations

from saescope.records.labels import ShortLabel
from saescope_mcp.binding import Link, next_call
from saescope_mcp.groups import Group
from saescope_mcp.replies import Tool
from saescope_mcp.replies.facts import provenance
from saescope_mcp.replies.labels import in_short
from saescope_mcp.replies.neuronpedia import fetch_labels, labels_of_file
from saescope_mcp.replies.pictures import of_feature
from saescope_mcp.replies.rows import extended
from saescope_mcp.schemas.features import (
    BriefRow,
    CardsReply,
    DescribeFeature,
    DescribeFeatureReply,
    ExampleText,
)
from saescope_mcp.state import AppState

if TYPE_CHECKING:
    from saescope.features import CardCorpus, CardExample, FeatureBrief, FeatureCard
    from saescope.records.lens import LensTokens

BEFORE, AFTER = 16, 6
"""Tokens around the marked one in an example's text."""
N_PROMOTED = 8
N_RELATED = 4
N_LABELS = 5
AROUND_SHORT = (8, 4)
ON_SHORT_CARD = 2
"""Examples on each of several cards."""
ON_PAGE = 30
"""Examples on a feature's page."""
PAGE_URI = "sae://feature/{sae}/{feature}"
_NO_CARD: Mapping[str, Any] = {
    **dict.fromkeys(("feature", "density", "n_fired", "max_activation", "mean_activation")),
    **dict.fromkeys(("typical_activation", "label", "url", "page")),
    **{name: [] for name in ("neighbours", "cofiring", "labels", "examples")},
    **{"promotes": [], "suppresses": [], "quantiles": {}, "effects_through": ""},
}
"""What a reply about several features says in their cards alone."""
APP_URI = "ui://saescope/feature.html"


async def describe_feature(state: AppState, request: DescribeFeature) -> DescribeFeatureReply:
    """What a feature is: how often and strongly it fires, examples over its range, promoted and
    suppressed tokens, near and co-firing features, labels with scores. Examples need
    index_features. A label without a score is a guess."""
    entry = state.require(request.sae)
    named = request.features or ([request.feature] if request.feature >= 0 else [])
    warnings: list[str] = []
    if request.labels_file:
        named, warnings = await labels_of_file(state, entry, request.labels_file, named)
    if request.neuronpedia:
        warnings += await fetch_labels(state, entry, named)
    if request.feature < 0:
        return await _cards(state, request, named, warnings)
    card = await card_of(
        state,
        request.sae,
        request.feature,
        n_examples=ON_PAGE if request.picture else request.n_examples,
    )
    files = await state.workers.run(partial(of_feature, asdict(card))) if request.picture else None
    labels: list[ShortLabel] = [*card.labels[:N_LABELS]]
    through, unread = await _through(state, request)
    return extended(
        DescribeFeatureReply,
        card,
        summary=_summary(card, labels),
        warnings=[*card.warnings, *warnings, *unread],
        next=_next(request, card),
        evidence="observed",
        provenance=provenance(entry),
        label=labels[0] if labels else None,
        labels=labels,
        examples=[_example(example) for example in card.examples[: request.n_examples]],
        promotes=[row.token for row in card.promotes[:N_PROMOTED]],
        suppresses=[row.token for row in card.suppresses[:N_PROMOTED]],
        through_lens=through,
        neighbours=[replace(row, label=in_short(row.label)) for row in card.neighbours[:N_RELATED]],
        cofiring=[replace(row, label=in_short(row.label)) for row in card.cofiring[:N_RELATED]],
        url=card.url or None,
        page=PAGE_URI.format(sae=request.sae, feature=request.feature),
        page_path=files.page if files else None,
        pictures=files.pictures if files else [],
    )


_UNCERTAIN = 0.2
"""A matrix of so large a standard error gives other top tokens with other prompts."""


async def _through(
    state: AppState, request: DescribeFeature
) -> "tuple[LensTokens | None, list[str]]":
    """What the feature writes through the Jacobian lens, where asked for; else why not."""
    if not request.through:
        return None, []
    async with state.use(request.sae) as loaded:
        from saescope.lens import find_lens, layer_written, tokens_through

        layer = layer_written(loaded.sae)
        layers = [] if layer is None else [layer]
        lens = await loaded.slot.run(partial(find_lens, loaded.model, layers=layers))
        if lens is None:
            fit = next_call("encode_text", sae=request.sae, text="...", lens="jacobian")
            return None, [f"No Jacobian lens of this model is kept for this layer: {fit} fits one."]
        found = await loaded.slot.run(
            tokens_through, loaded.model, loaded.sae, request.feature, lens
        )
    if found is None:
        return None, ["What this SAE writes cannot be carried through the lens."]
    if found.error is None or found.error <= _UNCERTAIN:
        return found, []
    return found, [
        f"The lens's matrix of layer {found.layer} is uncertain (standard error {found.error:.0%} "
        "of its norm): take no single token of through_lens for granted, or fit more prompts."
    ]


async def _cards(
    state: AppState, request: DescribeFeature, features: Sequence[int], warnings: list[str]
) -> DescribeFeatureReply:
    n = request.n_examples if "n_examples" in request.model_fields_set else ON_SHORT_CARD
    async with state.use(request.sae) as loaded:
        from saescope.features import feature_briefs
        from saescope.features.card import card_corpus, card_warnings

        index = (await loaded.indexed()).best
        briefs = await loaded.slot.run(
            feature_briefs,
            loaded.model,
            loaded.sae,
            features,
            index=index,
            n_examples=n,
        )
    await _void(state, [each for brief in briefs for each in brief.examples])
    first, corpus = briefs[0].feature, card_corpus(index) if index else None
    return CardsReply(
        summary=_of_several(briefs, corpus),
        warnings=[*card_warnings(index), *warnings],
        next=[next_call("describe_feature", sae=request.sae, feature=first)]
        if index
        else [next_call("index_features", sae=request.sae)],
        evidence="observed",
        provenance=provenance(loaded),
        cards=[
            extended(
                BriefRow,
                brief,
                label=in_short(brief.label),
                examples=[_example(each, *AROUND_SHORT) for each in brief.examples],
            )
            for brief in briefs
        ],
        corpus=corpus,
        **_NO_CARD,
    )


def _of_several(briefs: "Sequence[FeatureBrief]", corpus: "CardCorpus | None") -> str:
    labelled = sum(brief.label is not None for brief in briefs)
    silent = [str(brief.feature) for brief in briefs if brief.density == 0]
    said = f"{len(briefs)} features, {labelled} with a label."
    if corpus is None:
        return f"{said} Without an index, where they fire is unknown."
    said += f" Counts are of {corpus.n_tokens:,} tokens of {corpus.dataset}."
    return f"{said} Never fired: {', '.join(silent)}." if silent else said


async def _void(state: AppState, examples: "Sequence[CardExample]") -> None:
    """Another index than the one that a quiz was made from may show its texts."""
    from saescope.features import QuizStore

    shown = ["".join(example.tokens) for example in examples]
    await state.workers.run(lambda: QuizStore().void(shown))


async def card_of(state: AppState, handle: str, feature: int, *, n_examples: int) -> "FeatureCard":
    """All that is known of a feature of a loaded SAE.

    Raises:
        NotFoundError, ResourceError: the SAE is not loaded, or its model is busy.
        ArgumentError: there is no such feature.
    """
    async with state.use(handle) as loaded:
        from saescope.features import feature_card

        index = (await loaded.indexed()).best
        card = await loaded.slot.run(
            feature_card,
            loaded.model,
            loaded.sae,
            feature,
            index=index,
            n_examples=n_examples,
        )
    await _void(state, card.examples)
    return replace(card, sae=handle)


def _summary(card: "FeatureCard", labels: list[ShortLabel]) -> str:
    name = f"Feature {card.feature}"
    if labels:
        score = labels[0].score
        tested = (
            f"balanced accuracy {score.balanced_accuracy:.2f} of {score.n} items, "
            f"{labels[0].verdict}"
            if score
            else "not tested"
        )
        called = f"is called {labels[0].text!r} by {labels[0].source} ({tested})"
    else:
        called = "has no label"
    if card.density is None or card.corpus is None:
        return f"{name} {called}; without an index, where it fires is unknown."
    if card.max_activation is None:
        return (
            f"{name} {called}; it never fired on {card.corpus.n_tokens:,} tokens of "
            f"{card.corpus.dataset}."
        )
    fires = (
        f"fires on {100 * card.density:.3g}% of {card.corpus.n_tokens:,} tokens "
        f"of {card.corpus.dataset}, at most {card.max_activation:.3g}"
    )
    top = f", most of all on {card.examples[0].token!r}" if card.examples else ""
    return f"{name} {called}; it {fires}{top}."


def _next(request: DescribeFeature, card: "FeatureCard") -> list[str]:
    same = {"sae": request.sae, "feature": request.feature}
    if card.corpus is None:
        return [
            next_call("index_features", sae=request.sae),
            next_call("top_features", sae=request.sae, text="..."),
        ]
    if card.max_activation is None:
        return []
    untested = not (card.labels and card.labels[0].score)
    steer = next_call(
        "steer_generate",
        sae=request.sae,
        prompt="...",
        features=[{"feature": request.feature, "strength": 1}],
    )
    return [*([next_call("quiz_feature", **same)] if untested else []), steer]


def _example(example: "CardExample", before: int = BEFORE, after: int = AFTER) -> ExampleText:
    from saescope.features.excerpt import marked

    first, last = max(0, example.pos - before), example.pos + after + 1
    text = marked(
        example.tokens[first:last],
        example.pos - first,
        cut_before=first > 0,
        cut_after=last < len(example.tokens),
    )
    return extended(ExampleText, example, pos=example.start + example.pos, text=text)


TOOLS = [
    Tool(
        describe_feature,
        DescribeFeature,
        ToolAnnotations(
            title="Describe a feature",
            read_only_hint=True,
            destructive_hint=False,
            open_world_hint=True,
        ),
        group=Group.KNOW,
        app=APP_URI,
        links=lambda document: (
            [Link(f"Feature {document['feature']}", document["page"], "text/html")]
            if document["page"]
            else []
        ),
    )
]
