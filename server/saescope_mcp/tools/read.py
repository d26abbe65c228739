"""encode_text and top_features."""

from itertools import islice
from typing import TYPE_CHECKING

from mcp.types import ToolAnnotations

from saescope_mcp.schemas.read import (
    Activation,
    EncodeText,
    EncodeTextReply,
    FeatureRow,
    TokenRow,
    TopFeatures,
    TopFeaturesReply,
    TopToken,
)
from saescope_mcp.state import AppState, LoadedSAE, given_texts
from saescope_mcp.tool import Tool, next_call
from saescope_mcp.tool.facts import brief, feature_url, left_out, nothing_left, provenance
from saescope_mcp.tool.labels import Labels, labels_of

if TYPE_CHECKING:
    from saescope.features import Encoded, RankedFeature, TextFeatures

_TEXTS = {"text", "texts", "against"}
READ_ONLY = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)


async def encode_text(state: AppState, request: EncodeText) -> EncodeTextReply:
    """Which features fire at each token of a text; use it to see where something happens. Per token: L0 and the strongest features;
    overall: how well the SAE reconstructs this text. Position 0 and special tokens are left out unless asked for."""
    state.require(request.sae)
    given = await given_texts(
        state, request
    )  # before the model's turn: a slow disk keeps nobody waiting
    async with state.use(request.sae) as loaded:
        from saescope.features import encode_texts
        from saescope.sinks import many_sinks

        tokens = await loaded.tokenize(given.texts, from_file=given.from_file)
        await loaded.void_quizzes(given.texts)
        encoded = await loaded.run(
            encode_texts,
            loaded.model,
            loaded.sae,
            tokens,
            positions=request.positions,
            include_special=request.include_special,
        )
    places = (
        (i, text, pos)
        for i, text in enumerate(encoded.texts)
        for pos in text.counted.nonzero()[:, 0].tolist()
    )
    end = request.offset + request.limit
    more = end < encoded.n_tokens
    named, n_sinks = bool(request.positions), encoded.n_sinks
    omitted = left_out(encoded.n_left_out, tokens, named=named, n_sinks=n_sinks)
    return EncodeTextReply(
        summary=f"{given.said}{encoded.n_tokens} tokens: {_means(encoded)}{omitted}",
        warnings=nothing_left(encoded.n_tokens) + many_sinks(n_sinks, encoded.n_tokens),
        next=_read_on(request, end)
        if more
        else [next_call("top_features", sae=request.sae, **_texts(request))],
        evidence="observed",
        provenance=provenance(loaded),
        tokens=[
            _token_row(i, text, pos, request.top_k)
            for i, text, pos in islice(places, request.offset, end)
        ],
        total=encoded.n_tokens,
        truncated=more,
        next_offset=end if more else None,
        l0_mean=encoded.l0_mean,
        explained_variance=encoded.explained_variance,
        cosine=encoded.cosine,
        n_tokens=encoded.n_tokens,
        n_left_out=encoded.n_left_out,
        n_sinks=n_sinks,
        bos_prepended=tokens[0].bos_prepended,
    )


async def top_features(state: AppState, request: TopFeatures) -> TopFeaturesReply:
    """Which features fire on a text, strongest first; the start of most questions about what a model represents. Each comes with where it
    fires most and the tokens that it promotes. rank_by="contrast" with `against` finds what sets the texts apart from others."""
    state.require(request.sae)
    given = await given_texts(state, request)
    async with state.use(request.sae) as loaded:
        from saescope.features import rank_features
        from saescope.sinks import many_sinks

        tokens = await loaded.tokenize(given.texts, from_file=given.from_file)
        against = (
            await loaded.tokenize(given.against, from_file=given.from_file) if given.against else []
        )
        await loaded.void_quizzes(given.all)
        ranking = await loaded.run(
            rank_features,
            loaded.model,
            loaded.sae,
            tokens,
            against=against,
            rank_by=request.rank_by,
            k=request.k,
            offset=request.offset,
            include_special=request.include_special,
        )
    labels = await labels_of(loaded, [row.feature for row in ranking.features])
    end = request.offset + len(ranking.features)
    more = end < ranking.total
    first = ranking.features[0].feature if ranking.features else None
    steps = _about(request.sae, first) if first is not None else []
    return TopFeaturesReply(
        summary=f"{given.said}{ranking.total} features fire on {ranking.n_tokens} tokens; listed by {request.rank_by}. "
        + left_out(ranking.n_left_out, tokens, n_sinks=ranking.n_sinks),
        warnings=[
            *nothing_left(ranking.n_tokens),
            *many_sinks(ranking.n_sinks, ranking.n_tokens),
            *labels.warnings,
        ],
        next=[*steps, *(_read_on(request, end) if more else [])],
        evidence="observed",
        provenance=provenance(loaded),
        features=[_feature_row(row, loaded, labels) for row in ranking.features],
        total=ranking.total,
        truncated=more,
        next_offset=end if more else None,
        n_tokens=ranking.n_tokens,
        n_left_out=ranking.n_left_out,
        n_sinks=ranking.n_sinks,
        bos_prepended=tokens[0].bos_prepended,
    )


def _means(encoded: "Encoded") -> str:
    if encoded.l0_mean is None:
        return ""
    explained = encoded.explained_variance
    quality = "" if explained is None else f", explained variance {explained:.2f}"
    return f"{encoded.l0_mean:.1f} features fire per token{quality}. "


def _about(sae: str, feature: int) -> list[str]:
    """Calls that go on from one feature."""
    edit = {"feature": feature, "strength": 1}
    return [
        next_call("describe_feature", sae=sae, feature=feature),
        next_call("steer_generate", sae=sae, prompt="...", features=[edit]),
    ]


def _texts(request: EncodeText | TopFeatures) -> dict[str, object]:
    if request.texts_file:
        return request.model_dump(include={"texts_file", "texts_column"}, exclude_defaults=True)
    return (
        {"texts": [brief(text) for text in request.texts]}
        if request.texts
        else {"text": brief(request.text)}
    )


def _read_on(request: EncodeText | TopFeatures, offset: int) -> list[str]:
    """The same call, further on."""
    said = request.model_dump(exclude_defaults=True) | {"offset": offset}
    said |= {
        name: brief(said[name]) if name == "text" else [brief(text) for text in said[name]]
        for name in _TEXTS & said.keys()
    }
    return [next_call("encode_text" if isinstance(request, EncodeText) else "top_features", **said)]


def _token_row(text_index: int, text: "TextFeatures", pos: int, top_k: int) -> TokenRow:
    features = [
        Activation(feature=feature, activation=activation)
        for feature, activation in text.at(pos, top_k)
    ]
    return TokenRow(
        text_index=text_index,
        pos=pos,
        token=text.tokens.strings[pos],
        l0=text.l0(pos),
        features=features,
    )


def _feature_row(row: "RankedFeature", loaded: LoadedSAE, labels: Labels) -> FeatureRow:
    return FeatureRow(
        feature=row.feature,
        score=row.score,
        max_activation=row.max_activation,
        mean_activation=row.mean_activation,
        n_tokens=row.n_tokens,
        top_token=TopToken(text_index=row.text_index, pos=row.pos, token=row.token),
        density=row.density,
        promotes=row.promotes,
        label=labels.by_feature.get(row.feature),
        url=feature_url(loaded, row.feature),
    )


TOOLS = [
    Tool(encode_text, EncodeText, READ_ONLY.model_copy(update={"title": "Features per token"})),
    Tool(
        top_features, TopFeatures, READ_ONLY.model_copy(update={"title": "Top features of a text"})
    ),
]
