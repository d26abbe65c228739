"""find_features."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mcp.types import ToolAnnotations

from saescope.errors import ArgumentError, ResourceError
from saescope_mcp.binding import next_call
from saescope_mcp.replies import Tool
from saescope_mcp.replies.facts import brief, feature_url, provenance
from saescope_mcp.replies.labels import Labels, labels_of
from saescope_mcp.replies.neuronpedia import search_labels
from saescope_mcp.replies.rows import extended
from saescope_mcp.schemas.features import (
    Contrasted,
    FindFeatures,
    FindFeaturesReply,
    FoundRow,
    Tested,
    Together,
)
from saescope_mcp.state import AppState, Given, LoadedSAE, given_texts, void_quizzes

if TYPE_CHECKING:
    from saescope import features as core


MOST_CONTRASTED = 40
"""Features of a contrast: its half that is held out tests all of them, so they come in one
reply."""
SCORE_BYTES = 24
"""Memory that a contrast takes per text and feature: scores, those of equal length, and ranks."""
SEED = 0
"""The seed of the halves into which texts are split."""


async def find_features(state: AppState, request: FindFeatures) -> FindFeaturesReply:
    """Find features by words of their labels (query), by tokens that they promote (tokens), by
    texts that they fire on (texts), or by what tells these texts from others (against) or two
    models apart (against_sae): chosen on one half, tested on the other. Give 30 texts a side; fewer
    than 8 confirm nothing."""
    entry = state.require(request.sae)
    asked = (
        await search_labels(state, entry, request.query, request.k) if request.neuronpedia else []
    )
    given = await given_texts(state, request)  # before the model's turn
    if request.is_contrast:
        return await _contrast(state, request, given)
    async with state.use(request.sae) as loaded:
        page = await _search(loaded, request, given)
    labels = await labels_of(entry, [row.feature for row in page.features])
    end = request.offset + len(page.features)
    more = end < page.total and bool(page.features)
    by = "label" if request.query else "tokens" if request.tokens else "texts"
    return FindFeaturesReply(
        summary=given.about + _summary(page, by),
        warnings=[*page.warnings, *labels.warnings, *asked],
        next=[
            *_describe(request, [row.feature for row in page.features]),
            *([_read_on(request, end)] if more else []),
        ],
        evidence="correlational" if request.tokens else "observed",
        provenance=provenance(entry, SEED),
        by=f"{by}: {page.score_is}",
        features=[
            extended(
                FoundRow,
                row,
                label=labels.by_feature.get(row.feature),
                url=feature_url(entry, row.feature),
            )
            for row in page.features
        ],
        total=page.total,
        truncated=more,
        next_offset=end if more else None,
    )


async def _search(loaded: LoadedSAE, request: FindFeatures, given: Given) -> "core.FoundFeatures":
    from saescope.features import LabelStore, find_by_label, find_by_texts, find_by_tokens

    page = {"k": request.k, "offset": request.offset}
    if request.query:
        return await loaded.slot.run(
            find_by_label, LabelStore(), loaded.weights_hash, request.query, **page
        )
    if request.tokens:
        return await loaded.slot.run(
            find_by_tokens, loaded.model, loaded.sae, request.tokens, **page
        )
    index = (await loaded.indexed()).best
    tokens = await loaded.tokenize(given.texts, from_file=given.from_file)
    await loaded.slot.run(void_quizzes, given.texts)
    return await loaded.slot.run(
        find_by_texts, loaded.model, loaded.sae, tokens, index=index, **page
    )


async def _contrast(state: AppState, request: FindFeatures, given: Given) -> FindFeaturesReply:
    """Two sets of texts, or one set in two models."""
    async with _both(state, request) as (loaded, other):
        from saescope.features import contrast_models, contrast_texts

        k = min(request.k, MOST_CONTRASTED)
        _check_room(state, loaded, len(given.all))
        texts = await loaded.tokenize(given.texts, from_file=given.from_file)
        await loaded.slot.run(void_quizzes, given.all)
        if other is None:
            against = await loaded.tokenize(given.against, from_file=given.from_file)
            done = await loaded.slot.run(
                contrast_texts, loaded.model, loaded.sae, texts, against=against, k=k, seed=SEED
            )
        else:
            done = await loaded.slot.run(
                contrast_models, loaded.model, loaded.sae, texts, other=other.model, k=k, seed=SEED
            )
    labels = await labels_of(loaded, [row.feature for row in done.features])
    return FindFeaturesReply(
        summary=f"{given.about}{done.verdict} {done.total} features fire on these texts.",
        warnings=[*done.warnings, *labels.warnings],
        next=_describe(request, [row.feature for row in done.features]),
        evidence="correlational",
        provenance=provenance(loaded, SEED),
        by="contrast: Cohen's d on the held-out half"
        if done.n_held_out
        else "contrast: Cohen's d, nothing held out",
        features=[_contrasted(row, loaded, labels) for row in done.features],
        total=len(done.features),
        together=_together(done),
    )


@asynccontextmanager
async def _both(
    state: AppState, request: FindFeatures
) -> "AsyncGenerator[tuple[LoadedSAE, LoadedSAE | None]]":
    """Turns on both models, always in the same order, so that two such calls never wait for each
    other."""
    if not request.against_sae:
        async with state.use(request.sae) as loaded:
            yield loaded, None
        return
    one, other = state.require(request.sae), state.require(request.against_sae)
    if one.slot is other.slot or one.weights_hash != other.weights_hash:
        raise ArgumentError(
            "against_sae must be the same SAE on another model.",
            code="NOT_COMPARABLE",
            field="against_sae",
            got=request.against_sae,
            allowed="a handle of the same weights on another loaded model",
            hint='Load the SAE once per model: load_sae(path="...", model="the other '
            'model", allow_mismatch=true).',
        )
    first, second = sorted([request.sae, request.against_sae])
    async with state.use(first), state.use(second):
        yield one, other


def _contrasted(row: "core.ContrastFeature", loaded: LoadedSAE, labels: Labels) -> Contrasted:
    held = row.held_out
    side = "more on texts" if held.auc > 0.5 else "less on texts"
    confirmed = "confirmed on the held-out half" if row.confirmed else "not confirmed"
    doubt = f"; may reflect {' and '.join(row.confounds)}" if row.confounds else ""
    return extended(
        Contrasted,
        row,
        score=held.d,
        why=f"fires {side}: AUC {held.auc:.2f} ({held.low:.2f} to {held.high:.2f}), q "
        f"{row.q:.2g}, {confirmed}{doubt}",
        label=labels.by_feature.get(row.feature),
        url=feature_url(loaded, row.feature),
        separation=extended(Tested, held, q=row.q),
    )


def _together(done: "core.Contrast") -> Together | None:
    at = done.together
    if at is None:
        return None
    held_out = [*done.n_held_out] if done.n_held_out else None
    return extended(Together, done, auc=at.auc, low=at.low, high=at.high, n_held_out=held_out)


def _summary(page: "core.FoundFeatures", by: str) -> str:
    if not page.features:
        return {
            "label": "No label has these words: labels come from label_feature (or "
            "neuronpedia=true); tokens and texts need none.",
            "tokens": "No feature promotes these tokens.",
            "texts": "No feature fires on these texts more often than usual.",
        }[by]
    best = page.features[0]
    return (
        f"{page.total:,} features by {by}, {len(page.features)} listed; first feature "
        f"{best.feature}: {best.why}."
    )


def _describe(request: FindFeatures, features: Sequence[int]) -> list[str]:
    if features:
        return [next_call("describe_feature", sae=request.sae, feature=features[0])]
    return (
        [next_call("find_features", sae=request.sae, texts=["..."], against=["..."])]
        if request.query
        else []
    )


def _check_room(state: AppState, loaded: LoadedSAE, n_texts: int) -> None:
    """Raises: ResourceError: the scores of so many texts do not fit."""
    free, each = state.room().free, SCORE_BYTES * loaded.sae.cfg.d_sae
    if n_texts * each > free:
        raise ResourceError(
            f"A contrast of {n_texts:,} texts over {loaded.sae.cfg.d_sae:,} features "
            f"needs {n_texts * each / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free.",
            field="texts_file",
            got=n_texts,
            allowed=f"{free // each} texts",
            hint="Give fewer texts, or unload what is not needed.",
        )


def _read_on(request: FindFeatures, offset: int) -> str:
    arguments: dict[str, Any] = request.model_dump(
        exclude_defaults=True, exclude={"neuronpedia"}
    ) | {"offset": offset}
    if "texts" in arguments:
        arguments["texts"] = [brief(text) for text in arguments["texts"]]
    return next_call("find_features", **arguments)


TOOLS = [
    Tool(
        find_features,
        FindFeatures,
        ToolAnnotations(
            title="Find features",
            read_only_hint=True,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=True,
        ),
    )
]
