"""find_features."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mcp.types import ToolAnnotations

from saescope.errors import ArgumentError
from saescope.records.features import ContrastedSets, Writer
from saescope_mcp.binding import next_call
from saescope_mcp.groups import Group
from saescope_mcp.replies import Tool
from saescope_mcp.replies.corpus import activations_of
from saescope_mcp.replies.facts import brief, feature_url, provenance
from saescope_mcp.replies.labels import Labels, labels_of
from saescope_mcp.replies.neuronpedia import search_labels
from saescope_mcp.replies.rows import extended
from saescope_mcp.schemas.common import Evidence
from saescope_mcp.schemas.features import (
    Contrasted,
    FindFeatures,
    FindFeaturesReply,
    FoundRow,
    PlainFindReply,
    WriterRow,
)
from saescope_mcp.state import (
    AppState,
    Given,
    LoadedSAE,
    check_contrast_room,
    given_texts,
    void_quizzes,
)
from saescope_mcp.tools.causal import search_causes
from saescope_mcp.tools.partners import find_partners

if TYPE_CHECKING:
    from saescope import features as core


MOST_CONTRASTED = 40
"""Features of each side of a contrast: they come in one reply."""
_CONTROLS = ("halves", "perturbed")
SEED = 0
"""The seed of the halves into which texts are split."""


async def find_features(state: AppState, request: FindFeatures) -> FindFeaturesReply:
    """Find features by words of their labels (query), tokens that they promote (tokens), texts that
    they fire on (texts), or what tells these from others (against) or two models apart
    (against_sae), tested on held-out texts; by what they do (causes), pushed beside controls; or
    partners in another SAE (match). Give 30 texts a side; fewer than 8 confirm nothing."""
    if request.is_causal:
        return await search_causes(state, request)
    entry = state.require(request.sae)
    asked = (
        await search_labels(state, entry, request.query, request.k) if request.neuronpedia else []
    )
    given = await given_texts(state, request)  # before the model's turn
    if request.match:
        return await find_partners(state, request, given)
    if request.is_contrast:
        return await _contrast(state, request, given)
    async with state.use(request.sae) as loaded:
        page = await _search(loaded, request, given)
    labels = await labels_of(entry, [row.feature for row in page.features])
    end = request.offset + len(page.features)
    more = end < page.total and bool(page.features)
    by = "label" if request.query else "tokens" if request.tokens else "texts"
    reply = FindFeaturesReply if request.tokens else PlainFindReply
    return reply(
        summary=given.about + _summary(page, by),
        warnings=[*page.warnings, *labels.warnings, *asked],
        next=[
            *_describe(request, [row.feature for row in page.features]),
            *([_read_on(request, end)] if more else []),
        ],
        evidence=_evidence(page),
        provenance=provenance(entry, SEED, files=given.files),
        by=f"{by}: {page.score_is}",
        features=[
            extended(
                WriterRow if isinstance(row, Writer) else FoundRow,
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


def _evidence(page: "core.FoundFeatures") -> Evidence:
    """A push that is listed was measured beside controls."""
    tokens = [row for row in page.features if isinstance(row, Writer)]
    if not tokens:
        return "observed"
    return "controlled" if any(row.push is not None for row in tokens) else "correlational"


async def _search(loaded: LoadedSAE, request: FindFeatures, given: Given) -> "core.FoundFeatures":
    from saescope.features import LabelStore, find_by_label, find_by_texts
    from saescope.steering import find_by_tokens

    page = {"k": request.k, "offset": request.offset}
    if request.query:
        return await loaded.slot.run(
            find_by_label, LabelStore(), loaded.weights_hash, request.query, **page
        )
    if request.tokens:
        return await loaded.slot.run(
            find_by_tokens,
            loaded.model,
            loaded.sae,
            request.tokens,
            reference=loaded.check.acts,
            indexed=await activations_of(loaded),
            seed=SEED,
            **page,
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
        check_contrast_room(state, loaded, len(given.all))
        texts = await loaded.tokenize(given.texts, from_file=given.from_file)
        await loaded.slot.run(void_quizzes, given.all)
        asked: dict[str, Any] = {
            "against": await loaded.tokenize(given.against, from_file=given.from_file)
            if given.against
            else [],
            "documents": _documents(request, given),
            "k": k,
            "seed": SEED,
            "unconfirmed": request.unconfirmed,
        }
        if other is None:
            done = await loaded.slot.run(contrast_texts, loaded.model, loaded.sae, texts, **asked)
        else:
            asked["other"] = other.model
            done = await loaded.slot.run(contrast_models, loaded.model, loaded.sae, texts, **asked)
    labels = await labels_of(loaded, [row.feature for row in done.features])
    return FindFeaturesReply(
        summary=f"{given.about}{done.verdict}{_rest(done, request)}{_beside_words(done)}"
        f"{_beside_chance(done)}",
        warnings=[*done.warnings, *labels.warnings],
        next=_after_contrast(request, done),
        evidence="correlational",
        provenance=provenance(loaded, SEED, files=given.files),
        by=done.score_is,
        features=[_contrasted(row, loaded, labels) for row in done.features],
        total=len(done.features),
        contrast=extended(ContrastedSets, done),
    )


def _documents(request: FindFeatures, given: Given) -> list[str]:
    """Raises: ArgumentError: there is not one for each text."""
    n = len(given.all)
    if request.documents and len(request.documents) != n:
        raise ArgumentError(
            f"There are {n} texts and {len(request.documents)} documents.",
            field="documents",
            got=len(request.documents),
            allowed=n,
            hint="Name the document of each text: those of texts, then those of against.",
        )
    return request.documents or given.groups


def _rest(done: "core.Contrast", request: FindFeatures) -> str:
    """What is known and not listed."""
    more = done.n_confirmed - sum(row.confirmed for row in done.features)
    unlisted = f" {more:,} of the confirmed are not listed." if more else ""
    if request.unconfirmed or not done.held_out or not done.n_candidates:
        return unlisted
    return f"{unlisted} {done.n_candidates:,} candidates that are not confirmed are not listed."


def _beside_words(done: "core.Contrast") -> str:
    """What the texts' words alone tell, beside the best feature."""
    areas = {each.name: each.auc for each in done.baselines}
    if "bag_of_words" not in areas:
        return ""
    words, best = areas["bag_of_words"], areas["best_feature"]
    alone = " (the words alone tell the sets apart as well)" if words >= best else ""
    return (
        f" AUC of the best feature {best:.3g}, of a bag of words {words:.3g}{alone}, of a probe on "
        f"the model's activations {areas['mean_activation']:.3g} (0.5 is chance)."
    )


def _beside_chance(done: "core.Contrast") -> str:
    """How many of the listed changes between two models are more than changes that mean nothing."""
    rows = [row.controls for row in done.features if row.controls]
    if not rows:
        return ""
    halves, moved = (sum(getattr(row, name).outside for row in rows) for name in _CONTROLS)
    return (
        f" Of the {len(rows)} listed changes {halves} are larger than the differences between "
        f"random halves of the texts in one model, {moved} larger than what random changes of the "
        "activations of equal norm make (controls)."
    )


def _after_contrast(request: FindFeatures, done: "core.Contrast") -> list[str]:
    if done.features:
        return _describe(request, [row.feature for row in done.features])
    if not done.n_candidates:
        return []
    again = request.model_dump(exclude_defaults=True, exclude={"texts", "against", "k"})
    again |= {"texts": ["..."]} if request.texts else {}
    again |= {"against": ["..."]} if request.against else {}
    return [next_call("find_features", **again, unconfirmed=True)]


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
    confirmed = "confirmed" if row.confirmed else "not confirmed"
    doubt = f"; may reflect {' and '.join(row.confounds)}" if row.confounds else ""
    return extended(
        Contrasted,
        row,
        score=held.auc,
        why=f"fires more on {row.side}: AUC {held.auc:.2f} ({held.low:.2f} to {held.high:.2f}), "
        f"{confirmed}{doubt}",
        label=labels.by_feature.get(row.feature),
        url=feature_url(loaded, row.feature),
    )


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
        f"{page.total:,} features by {by}, {len(page.features)} listed"
        f"{_n_writers(page.features)}; first feature {best.feature}: {best.why}."
    )


def _n_writers(features: "Sequence[core.FoundFeature]") -> str:
    """How many of the rows that were measured write the tokens."""
    writes = [row.writes for row in features if isinstance(row, Writer)]
    measured = [each for each in writes if each is not None]
    if not measured:
        return ", their push not measured" if writes else ""
    n = sum(measured)
    return f", {n or 'none'} of which {'writes' if n < 2 else 'write'} the tokens"


def _describe(request: FindFeatures, features: Sequence[int]) -> list[str]:
    if features:
        return [next_call("describe_feature", sae=request.sae, feature=features[0])]
    return (
        [next_call("find_features", sae=request.sae, texts=["..."], against=["..."])]
        if request.query
        else []
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
            open_world_hint=True,
        ),
        group=Group.KNOW,
    )
]
