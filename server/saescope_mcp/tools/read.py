"""encode_text and top_features."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from mcp.types import ToolAnnotations

from saescope_mcp.binding import next_call
from saescope_mcp.groups import Group
from saescope_mcp.replies import RESULT_APP, Tool
from saescope_mcp.replies.corpus import densities_of_stack
from saescope_mcp.replies.facts import (
    brief,
    brief_all,
    left_out,
    many_sinks_of,
    nothing_left,
    provenance,
    read_on,
)
from saescope_mcp.replies.labels import labels_of_stack
from saescope_mcp.replies.rows import extended, names_of
from saescope_mcp.schemas.read import (
    Activation,
    CountedBy,
    EncodedBy,
    EncodeText,
    EncodeTextReply,
    FeatureRow,
    TokenRow,
    TopFeatures,
    TopFeaturesReply,
)
from saescope_mcp.state import (
    AppState,
    Given,
    LoadedStack,
    check_contrast_room,
    given_texts,
    void_quizzes,
)
from saescope_mcp.tools.firings import places_of
from saescope_mcp.tools.lens import readings_of

if TYPE_CHECKING:
    from saescope.features import Encoded, Ranking
    from saescope.models import Tokens
    from saescope.progress import Progress

READ_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, open_world_hint=False)


async def encode_text(state: AppState, request: EncodeText) -> EncodeTextReply:
    """The strongest features at each token of a text, and how well the SAE reconstructs it.
    With features: where and how strongly these fire, and how well that agrees with a pattern.
    Position 0 and special tokens are left out unless asked for."""
    state.require_all(request.handles)
    if request.features:
        return await places_of(state, request)
    if request.lens:
        return await readings_of(state, request)
    given = await given_texts(
        state, request
    )  # before the model's turn: a slow disk keeps nobody waiting
    async with state.use_all(request.handles) as stack:
        tokens, encoded = await _encode(stack, request, given)
    total, most = sum(each.n_tokens for each in encoded), max(encoded, key=lambda e: e.n_tokens)
    several = len(encoded) > 1
    unknown = dict.fromkeys(("l0_mean", "explained_variance", "cosine")) if several else {}
    end = request.offset + request.limit
    more = end < total
    omitted = left_out(most.n_left_out, tokens, named=bool(request.positions), n_sinks=most.n_sinks)
    return extended(
        EncodeTextReply,
        most,
        summary=f"{given.about}{most.n_tokens} tokens: {_means(stack, encoded)}{omitted}",
        warnings=[
            *nothing_left(most.n_tokens),
            *many_sinks_of(stack, encoded),
            *stack.disagreement(),
        ],
        next=[
            *([read_on("encode_text", request, end)] if more else []),
            next_call("top_features", **request.named, **_texts(request)),
        ],
        evidence="observed",
        provenance=provenance(stack, files=given.files),
        tokens=[
            _token_row(stack, encoded, place, request.top_k)
            for place in islice(_places(encoded), request.offset, end)
        ],
        by_sae=[
            extended(EncodedBy, each, sae=entry.handle)
            for entry, each in zip(stack.entries, encoded, strict=True)
            if several
        ],
        total=total,
        truncated=more,
        next_offset=end if more else None,
        bos_prepended=tokens[0].bos_prepended,
        **unknown,
    )


async def top_features(state: AppState, request: TopFeatures) -> TopFeaturesReply:
    """Which features fire on a text, strongest first; the start of most questions. Each comes with
    where it fires most and the tokens that it promotes."""
    state.require_all(request.handles)
    given = await given_texts(state, request)
    async with state.use_all(request.handles) as stack:
        tokens, ranking = await _rank(state, stack, request, given)
    named = [(row.sae, row.feature) for row in ranking.features]
    labels, corpus = await labels_of_stack(stack, named), await densities_of_stack(stack, named)
    end = request.offset + len(ranking.features)
    more = end < ranking.total
    steps = [
        next_call("describe_feature", sae=stack.entries[row.sae].handle, feature=row.feature)
        for row in ranking.features[:1]
    ]
    return extended(
        TopFeaturesReply,
        ranking,
        summary=f"{given.about}{_ranked(ranking, request)}"
        + left_out(ranking.n_left_out, tokens, n_sinks=ranking.n_sinks),
        warnings=[
            *nothing_left(ranking.n_tokens),
            *many_sinks_of(stack, ranking.by_sae),
            *stack.disagreement(),
            *ranking.warnings,
            *labels.warnings,
            *corpus.warnings,
        ],
        next=[*steps, *([read_on("top_features", request, end)] if more else [])],
        evidence="correlational" if given.against else "observed",
        provenance=provenance(stack, files=given.files),
        features=[
            extended(
                FeatureRow,
                row,
                density=corpus.by_feature.get((row.sae, row.feature)),
                **names_of(stack, labels, row.sae, row.feature),
            )
            for row in ranking.features
        ],
        by_sae=[
            extended(CountedBy, each, sae=handle)
            for each in ranking.by_sae
            if (handle := stack.handle(each.sae))
        ],
        truncated=more,
        next_offset=end if more else None,
        bos_prepended=tokens[0].bos_prepended,
    )


def _ranked(ranking: "Ranking", request: TopFeatures) -> str:
    if request.rank_by != "contrast":
        return (
            f"{ranking.total} features fire on {ranking.n_tokens} tokens; "
            f"listed by {request.rank_by}. "
        )
    return f"{ranking.total} features fire more on the texts than on against; {ranking.score_is}. "


async def _encode(
    stack: LoadedStack, request: EncodeText, given: Given
) -> "tuple[list[Tokens], list[Encoded]]":
    from saescope.features import encode_stack
    from saescope.progress import counting
    from saescope.stack import as_stack

    long = stack.long()
    tokens = await stack.reader.tokenize(given.texts, from_file=given.from_file, long=long)
    await stack.slot.run(void_quizzes, given.texts)
    encoded = await stack.slot.run(
        encode_stack,
        await stack.slot.run(as_stack, stack.model, stack.saes),
        tokens,
        positions=request.positions,
        include_special=request.include_special,
        advance=counting(_told(stack), sum(map(len, tokens))),
    )
    return tokens, encoded


def _told(stack: LoadedStack) -> "Progress":
    """What waits for the model hears how much of it is read."""
    return lambda done, total: stack.slot.done(done / total)


async def _rank(
    state: AppState, stack: LoadedStack, request: TopFeatures, given: Given
) -> "tuple[list[Tokens], Ranking]":
    from saescope.features import rank_features

    long = stack.long()
    tokens = await stack.reader.tokenize(given.texts, from_file=given.from_file, long=long)
    against = (
        await stack.reader.tokenize(given.against, from_file=given.from_file, long=long)
        if given.against
        else []
    )
    for entry in stack.entries if given.against else ():
        check_contrast_room(state, entry, len(given.all))
    await stack.slot.run(void_quizzes, given.all)
    ranking = await stack.slot.run(
        rank_features,
        stack.model,
        stack.saes,
        tokens,
        against=against,
        rank_by=request.rank_by,
        k=request.k,
        offset=request.offset,
        include_special=request.include_special,
        progress=_told(stack),
    )
    return tokens, ranking


def _places(encoded: "Sequence[Encoded]") -> Iterator[tuple[int, int, int]]:
    """Text, position and SAE of every row, in reading order."""
    for i, text in enumerate(encoded[0].texts):
        counted = [each.texts[i].counted.tolist() for each in encoded]
        for pos in range(len(text.tokens)):
            yield from ((i, pos, n) for n, mask in enumerate(counted) if mask[pos])


def _means(stack: LoadedStack, encoded: "Sequence[Encoded]") -> str:
    text = ""
    for n, each in enumerate(encoded):
        if each.l0_mean is None:
            continue
        quality = _quality(each)
        whose = f"{handle}: " if (handle := stack.handle(n)) else ""
        text += f"{whose}{each.l0_mean:.1f} features fire per token{quality}. "
    return text


def _quality(each: "Encoded") -> str:
    from saescope.metrics import LEAST_POSITIONS

    if each.explained_variance is not None:
        return f", explained variance {each.explained_variance:.2f}"
    few = each.n_tokens < LEAST_POSITIONS
    return f" (explained variance takes {LEAST_POSITIONS} tokens or more)" if few else ""


def _texts(request: EncodeText | TopFeatures) -> dict[str, object]:
    if request.texts_file:
        return request.model_dump(include={"texts_file", "texts_column"}, exclude_defaults=True)
    return {"texts": brief_all(request.texts)} if request.texts else {"text": brief(request.text)}


def _token_row(
    stack: LoadedStack, encoded: "Sequence[Encoded]", place: tuple[int, int, int], top_k: int
) -> TokenRow:
    text_index, pos, sae = place
    text = encoded[sae].texts[text_index]
    features = [
        Activation(feature=feature, activation=activation)
        for feature, activation in text.at(pos, top_k)
    ]
    return TokenRow(
        sae=stack.handle(sae),
        text_index=text_index,
        pos=pos,
        token=text.tokens.strings[pos],
        l0=text.l0(pos),
        features=features,
    )


TOOLS = [
    Tool(
        encode_text,
        EncodeText,
        READ_ONLY.model_copy(update={"title": "Features per token"}),
        group=Group.READ,
        app=RESULT_APP,
    ),
    Tool(
        top_features,
        TopFeatures,
        READ_ONLY.model_copy(update={"title": "Top features of a text"}),
        group=Group.READ,
    ),
]
