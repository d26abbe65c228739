"""What find_features says of two SAEs: which features have a partner in the other."""

from typing import TYPE_CHECKING

from saescope.errors import ArgumentError
from saescope.records.pairs import MatchedFeature, MatchedSAEs
from saescope_mcp.binding import next_call
from saescope_mcp.replies.facts import percent, provenance
from saescope_mcp.replies.labels import labels_of
from saescope_mcp.replies.rows import extended
from saescope_mcp.schemas.features import FindFeatures, FindFeaturesReply, MatchedRow
from saescope_mcp.state import AppState, Given, LoadedSAE, void_quizzes

if TYPE_CHECKING:
    from saescope.records.pairs import FeatureMatches

SEED = 0
"""The seed of what is shuffled and resampled."""
N_SAID = 3


async def find_partners(state: AppState, request: FindFeatures, given: Given) -> FindFeaturesReply:
    """One to one, beside chance."""
    one, other = state.require(request.sae), state.require(request.match)
    if one.slot is not other.slot:
        raise ArgumentError(
            "match must be an SAE of the same loaded model.",
            code="DIFFERENT_MODELS",
            field="match",
            got=request.match,
            allowed=f"an SAE of {one.slot.handle}",
            hint="Load an SAE of another layer, or one trained with another seed, on that model.",
        )
    async with state.use(request.sae) as loaded:
        found = await _match(loaded, other, request, given)
    labels = await labels_of(one, [row.feature for row in found.features])
    partners = [row.partner for row in found.features if row.partner is not None]
    others = await labels_of(other, partners)
    end = request.offset + len(found.features)
    more = not request.features and end < found.n_matched
    return FindFeaturesReply(
        summary=f"{given.about}{_summary(found, request)}",
        warnings=[*found.warnings, *labels.warnings],
        next=_next(request, found, end if more else None),
        evidence="correlational",
        provenance=provenance(one, SEED, files=given.files),
        by=f"partners in {request.match}: mean of decoder cosine and correlation of activations",
        features=[
            extended(
                MatchedRow,
                row,
                label=labels.by_feature.get(row.feature),
                partner_label=None if row.partner is None else others.by_feature.get(row.partner),
            )
            for row in found.features
        ],
        total=len(request.features) or found.n_matched,
        truncated=more,
        next_offset=end if more else None,
        match=extended(MatchedSAEs, found),
    )


async def _match(
    loaded: LoadedSAE, other: LoadedSAE, request: FindFeatures, given: Given
) -> "FeatureMatches":
    from saescope.search import match_features

    texts = [text for text in given.texts if text]
    tokens = await loaded.tokenize(texts, from_file=given.from_file) if texts else []
    await loaded.slot.run(void_quizzes, texts)
    return await loaded.slot.run(
        match_features,
        loaded.model,
        loaded.sae,
        other.sae,
        tokens,
        features=request.features,
        k=request.k,
        offset=request.offset,
        seed=SEED,
    )


def _summary(found: "FeatureMatches", request: FindFeatures) -> str:
    share = found.n_matched / max(found.n_features, 1)
    said = "; ".join(_said(row) for row in found.features[:N_SAID])
    return (
        f"{found.n_matched:,} of {found.n_features:,} features ({percent(share)}; 95 % interval "
        f"{percent(found.low)} to {percent(found.high)}) have a partner in {request.match}, one to "
        f"one and above chance (a score of {found.chance:.2g}, which 1 in 100 would reach), over "
        f"{found.n_tokens:,} tokens. {said or 'None is listed'}."
    )


def _said(row: MatchedFeature) -> str:
    if row.partner is None:
        nearest = "" if row.score is None else f" (its nearest has a score of {row.score:.2f})"
        return f"feature {row.feature} has none{nearest}"
    parts = [f"cosine {row.cosine:.2f}"] if row.cosine is not None else []
    if row.correlation is not None:
        interval = "" if row.low is None else f" ({row.low:.2f} to {row.high:.2f})"
        parts.append(f"correlation {row.correlation:.2f}{interval}")
    return f"feature {row.feature} is {row.partner} there ({', '.join(parts)})"


def _next(request: FindFeatures, found: "FeatureMatches", offset: int | None) -> list[str]:
    calls: list[str] = []
    best = next((row for row in found.features if row.partner is not None), None)
    if best:
        calls.append(next_call("describe_feature", sae=request.match, feature=best.partner))
    if offset is not None:
        same = request.model_dump(exclude_defaults=True, exclude={"texts"})
        same |= {"texts": ["..."]} if request.texts else {}
        calls.append(next_call("find_features", **same | {"offset": offset}))
    return calls
