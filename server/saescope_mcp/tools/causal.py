"""What find_features does with causes: the search by gradient and by pushes, as a job."""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from saescope.records.search import FoundCauses, Selection
from saescope.verdicts import Choice
from saescope_mcp.binding import next_call
from saescope_mcp.jobs import Job
from saescope_mcp.replies.corpus import activations_of
from saescope_mcp.replies.facts import feature_url, provenance
from saescope_mcp.replies.labels import labels_of
from saescope_mcp.replies.rows import extended
from saescope_mcp.replies.waiting import result_or_job, still_running
from saescope_mcp.schemas.common import Evidence
from saescope_mcp.schemas.features import CauseRow, FindFeatures, FindFeaturesReply, SelectedRow
from saescope_mcp.state import AppState, Given, LoadedSAE, given_texts, void_quizzes

if TYPE_CHECKING:
    from saescope.models import Tokens
    from saescope.progress import Progress
    from saescope.steering import IndexedActivations

MOST_CHOSEN = 8
"""Candidates of a choice: each says why it was not taken."""
SEED = 0
"""Decides the controls."""


async def search_causes(state: AppState, request: FindFeatures) -> FindFeaturesReply:
    """Features that make the texts likelier, at once or as a job."""
    entry = state.require(request.sae)
    over = [] if request.is_selection else request.against
    for text in (*request.causes, *over):
        await state.loaders.run(partial(_check, entry, text))

    given = await given_texts(state, request)

    async def work(job: Job) -> FindFeaturesReply:
        async with state.use(request.sae, patient=True) as loaded:
            prompts = await loaded.tokenize(request.prompts) if request.prompts else []
            await loaded.slot.run(void_quizzes, request.prompts)
            indexed = await activations_of(loaded)
            if request.is_selection:
                asked = _ChoiceTexts(
                    await loaded.tokenize(given.texts, from_file=given.from_file),
                    await loaded.tokenize(given.against, from_file=given.from_file),
                    prompts,
                    indexed,
                )
                await loaded.slot.run(void_quizzes, given.all)
                chosen = await loaded.slot.run(partial(_select, loaded, request, asked, job))
                return await _selection(loaded, request, chosen, given)
            found = await loaded.slot.run(partial(_search, loaded, request, prompts, indexed, job))
        return await _reply(loaded, request, found)

    again = _again(request, offset=0)
    done, job = await result_or_job(state, request, work, tool="find_features", again=again)
    return done or FindFeaturesReply(
        **still_running(job, "The search"), by="", features=[], total=0
    )


def _check(entry: LoadedSAE, text: str) -> None:
    """Raises what is wrong with a text before the call waits for the model."""
    from saescope.search.concept import token_ids

    token_ids(entry.model, text)


class _ChoiceTexts(NamedTuple):
    """What a feature is chosen by."""

    texts: "list[Tokens]"
    against: "list[Tokens]"
    prompts: "list[Tokens]"
    indexed: "IndexedActivations | None"


def _select(loaded: LoadedSAE, request: FindFeatures, asked: _ChoiceTexts, job: Job) -> Selection:
    from saescope.search import select_features

    return select_features(
        loaded.model,
        loaded.sae,
        asked.texts,
        against=asked.against,
        causes=request.causes,
        prompts=asked.prompts,
        reference=loaded.check.acts,
        indexed=asked.indexed,
        k=min(request.k, MOST_CHOSEN),
        seed=SEED,
        progress=_told(loaded, job),
    )


async def _selection(
    loaded: LoadedSAE, request: FindFeatures, chosen: Selection, given: Given
) -> FindFeaturesReply:
    labels = await labels_of(loaded, [row.feature for row in chosen.features])
    return FindFeaturesReply(
        summary=f"{given.about}{chosen.choice.verdict.capitalize()}: {chosen.why}.",
        warnings=[*chosen.choice.faults, *chosen.warnings, *labels.warnings],
        next=_take(loaded, request, chosen),
        evidence="controlled" if chosen.search.random_directions.n else "intervened",
        provenance=provenance(loaded, SEED, files=given.files),
        by=chosen.score_is,
        features=[
            extended(
                SelectedRow,
                row,
                label=labels.by_feature.get(row.feature),
                url=feature_url(loaded, row.feature),
            )
            for row in chosen.features
        ],
        total=chosen.total,
        search=chosen.search,
        choice=chosen.choice,
    )


def _told(loaded: LoadedSAE, job: Job) -> "Progress":
    def progress(done: int, total: int) -> None:
        job.say(f"pushing features: {done / total:.0%}")
        loaded.slot.done(done / total)

    return progress


def _search(
    loaded: LoadedSAE,
    request: FindFeatures,
    prompts: "list[Tokens]",
    indexed: "IndexedActivations | None",
    job: Job,
) -> FoundCauses:
    from saescope.search import find_causes

    return find_causes(
        loaded.model,
        loaded.sae,
        request.causes,
        prompts=prompts,
        over=request.against,
        metric=request.metric,
        sign=request.sign,
        reference=loaded.check.acts,
        indexed=indexed,
        k=request.k,
        offset=request.offset,
        seed=SEED,
        progress=_told(loaded, job),
    )


async def _reply(loaded: LoadedSAE, request: FindFeatures, found: FoundCauses) -> FindFeaturesReply:
    labels = await labels_of(loaded, [row.feature for row in found.features])
    end = request.offset + len(found.features)
    more = end < found.total and bool(found.features)
    return FindFeaturesReply(
        summary=_summary(request, found),
        warnings=[*found.warnings, *labels.warnings],
        next=_next(loaded, request, found, end if more else None),
        evidence=_evidence(found),
        provenance=provenance(loaded, SEED),
        by=found.score_is,
        features=[
            extended(
                CauseRow,
                row,
                label=labels.by_feature.get(row.feature),
                url=feature_url(loaded, row.feature),
            )
            for row in found.features
        ],
        total=found.total,
        truncated=more,
        next_offset=end if more else None,
        search=found.search,
    )


def _evidence(found: FoundCauses) -> Evidence:
    """Rows that were pushed were pushed beside controls."""
    pushed = any(row.causes is not None for row in found.features)
    if not pushed:
        return "correlational"
    return "controlled" if found.search.random_directions.n else "intervened"


def _summary(request: FindFeatures, found: FoundCauses) -> str:
    search = found.search
    goes = "lower" if request.sign == "lower" else "raise"
    what = f"the {search.concept}, over {search.n_prompts} prompts"
    if not found.features:
        return f"No feature moves {what}, to first order."
    first = found.features[0]
    if first.causes is None:
        return f"{found.total:,} features may {goes} {what}: none on this page was pushed."
    said = (
        f"{search.n_causes or 'None'} of the {search.n_measured} best of {found.total:,} features"
    )
    verb = "causes" if search.n_causes < 2 else "cause"
    change = "a fall" if request.sign == "lower" else "a rise"
    return (
        f"{said} {verb} {change} of {what}, beyond random features and the best of random "
        f"directions; first feature {first.feature}: {first.why}."
    )


def _next(
    loaded: LoadedSAE, request: FindFeatures, found: FoundCauses, offset: int | None
) -> list[str]:
    calls: list[str] = []
    first = found.features[0] if found.features else None
    if first and first.causes:
        calls.append(next_call("describe_feature", sae=request.sae, feature=first.feature))
        calls.append(_from_half_to_twice(loaded, request, first.feature, first.strength))
    return [*calls, *([_again(request, offset=offset)] if offset is not None else [])]


def _take(loaded: LoadedSAE, request: FindFeatures, chosen: Selection) -> list[str]:
    """The text with what was chosen, if anything was."""
    group, verdict = chosen.choice.group, chosen.choice.verdict
    if group and verdict == Choice.GROUP:
        pairs = zip(group.features, group.strengths, strict=True)
        rows = [{"feature": i, "strength": float(f"{by:.2g}")} for i, by in pairs]
        return [_steer(loaded, request, features=rows)]
    if verdict == Choice.ONE:
        first = chosen.features[0]
        return [_from_half_to_twice(loaded, request, first.feature, first.strength)]
    return []


def _from_half_to_twice(
    loaded: LoadedSAE, request: FindFeatures, feature: int, strength: float | None
) -> str:
    """The text with one feature, at strengths around that at which it was compared."""
    strengths = [float(f"{factor * (strength or 1):.2g}") for factor in (0.5, 1, 2)]
    return _steer(loaded, request, features=[{"feature": feature}], strengths=strengths)


def _steer(loaded: LoadedSAE, request: FindFeatures, **given: object) -> str:
    from saescope.search.concept import token_ids

    single = [text for text in request.causes if len(token_ids(loaded.model, text)) == 1]
    return next_call(
        "steer_generate",
        sae=request.sae,
        prompt="...",
        **given,
        **({"concept_tokens": single} if single else {}),
    )


def _again(request: FindFeatures, *, offset: int) -> str:
    arguments = request.model_dump(exclude_defaults=True, exclude={"wait_s", "response_format"})
    if request.prompts:
        arguments["prompts"] = ["..."]
    return next_call("find_features", **arguments | ({"offset": offset} if offset else {}))
