"""intervene and steer_generate."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

from mcp.types import ToolAnnotations

from saescope.verdicts import Effect
from saescope_mcp.binding import next_call
from saescope_mcp.groups import Group
from saescope_mcp.jobs import Job
from saescope_mcp.replies import RESULT_APP, Tool
from saescope_mcp.replies.corpus import activations_of
from saescope_mcp.replies.facts import (
    beside,
    brief,
    brief_all,
    left_out,
    nothing_left,
    provenance,
    quantity_of,
)
from saescope_mcp.replies.labels import StackLabels, labels_of_stack
from saescope_mcp.replies.rows import extended, names_of
from saescope_mcp.replies.waiting import result_or_job, still_running
from saescope_mcp.schemas.common import Evidence
from saescope_mcp.schemas.steer import (
    ChangingRequest,
    ConditionalFeature,
    Edit,
    Intervene,
    InterveneReply,
    InUnitsReply,
    Named,
    SteerGenerate,
    SteerGenerateReply,
    SteeringFeature,
    SweepRow,
)
from saescope_mcp.state import AppState, LoadedStack, void_quizzes

if TYPE_CHECKING:
    from saescope import steering as core
    from saescope.models import Tokens
    from saescope.ops import SparseActs
    from saescope.progress import Progress


class _Options(TypedDict):
    unit: str
    reference: "list[SparseActs | None]"
    indexed: "list[core.IndexedActivations | None]"
    max_new_tokens: int
    n_samples: int
    temperature: float
    seed: int
    concept_tokens: list[int]


MOST_DOUBLED = 500
"""Strengths beyond this are not proposed to be doubled."""
READ_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, open_world_hint=False)

_NOTHING_YET: Any = {"unit_values": [], "unit_source": "", "concept_logprob": None, "n_sinks": 0}
"""What a generation that is still running says of itself."""
FIRST = "intervene with positions=[0]"
"""What changes position 0 too."""


async def intervene(state: AppState, request: Intervene) -> InterveneReply:
    """What changing features does to the next token: the prediction before and after; tests a claim
    about a feature without generating. Only the named features change; random features edited alike
    are the control. Several edits: each alone and left out, too."""
    async with state.use_all(request.handles) as stack:
        tokens = await stack.reader.tokenize(request.texts, chat=request.chat)
        await stack.slot.run(void_quizzes, request.texts)
        indexed = [await activations_of(entry) for entry in stack.entries]
        done = await stack.slot.run(_intervened, stack, tokens, request=request, indexed=indexed)
    labels = await labels_of_stack(stack, _changed(request))
    named = all(edit.positions for edit in request.edits)
    warnings = [*done.warnings, *stack.disagreement(chat=request.chat), *labels.warnings]
    shown: dict[str, Any] = {**vars(done), "warnings": warnings}
    in_units = any(edit.mode in ("add", "clamp") for edit in request.edits)
    return (InUnitsReply if in_units else InterveneReply)(
        summary=f"{_effect(done, request)}{_apart(done)} "
        f"{_left_out(done, tokens, request, named=named)}",
        **shown,
        next=_after_edit(done, request),
        evidence=_edit_evidence(done),
        provenance=provenance(stack, request.seed),
        unit_value=done.unit_values[0],
        features=_named(request, stack, labels),
        bos_prepended=tokens[0].bos_prepended,
    )


def _left_out(
    done: "core.Intervention | core.Interventions | core.Steering | core.Sweep",
    tokens: "Sequence[Tokens]",
    request: ChangingRequest,
    *,
    named: bool = False,
) -> str:
    """What no edit touches, in words."""
    return left_out(
        done.n_left_out,
        tokens,
        named=named,
        n_sinks=done.n_sinks,
        count_it=FIRST,
        chat=request.chat,
    )


def _intervened(
    stack: LoadedStack,
    tokens: "Sequence[Tokens]",
    *,
    request: Intervene,
    indexed: "list[core.IndexedActivations | None]",
) -> "core.Intervention | core.Interventions":
    """On one prompt, or on several."""
    from saescope.steering import intervene, intervene_all

    asked: core.Measuring = {
        "unit": request.unit,
        "reference": [entry.check.acts for entry in stack.entries],
        "indexed": indexed,
        "target": request.target or None,
        "against": request.against or None,
        "measure": request.measure,
        "n_controls": request.n_controls,
        "seed": request.seed,
    }
    if not request.prompts:
        return intervene(stack.model, stack.saes, tokens[0], _edits(request), **asked)

    def progress(done: int, total: int) -> None:
        stack.slot.done(done / total)

    edits = _edits(request)
    return intervene_all(stack.model, stack.saes, tokens, edits, progress=progress, **asked)


async def steer_generate(state: AppState, request: SteerGenerate) -> SteerGenerateReply:
    """Generate with features changed, next to the unsteered text and the same with random features;
    use it to see what a feature does to behaviour. The verdict rests on the probability of
    concept_tokens."""
    _check(state.require_all(request.handles), request)
    kind = _table if request.is_table else _texts

    async def work(job: Job) -> SteerGenerateReply:
        return await kind(state, request, job)

    named = {"features": [_as_argument(each) for each in request.features]}
    several = {"strengths": request.strengths} if request.strengths else {}
    again = _next_call("steer_generate", request, **named, **several)
    done, job = await result_or_job(state, request, work, tool="steer_generate", again=again)
    return done or SteerGenerateReply(**still_running(job, "The generation"), **_NOTHING_YET)


def _check(stack: LoadedStack, request: SteerGenerate) -> None:
    """Raises what is wrong with the call, before it becomes a job or waits for the model."""
    from saescope.steering import check_strengths

    check_strengths(stack.saes, _edits(request), request.strengths)
    for text in request.concept_tokens:
        stack.model.single_token(text, "concept_tokens")


async def _texts(state: AppState, request: SteerGenerate, job: Job) -> SteerGenerateReply:
    """Unsteered, steered and control texts of one prompt."""
    async with state.use_all(request.handles, patient=True) as stack:
        tokens = await _tokens(stack, request)
        done = await _steer(stack, request, tokens, job)
    labels = await labels_of_stack(stack, _changed(request))
    verdict = str(done.verdict)
    return extended(
        SteerGenerateReply,
        done,
        summary=f"{verdict[0].upper()}{verdict[1:]}. {_left_out(done, [tokens], request)}",
        warnings=[
            *done.warnings,
            *nothing_left(len(tokens) - done.n_left_out),
            *stack.disagreement(chat=request.chat),
            *labels.warnings,
        ],
        next=_next(request, done.verdict.level),
        evidence=_evidence(done),
        provenance=provenance(stack, request.seed),
        controls=[_named_control(arm, stack) for arm in done.controls],
        promoted_tokens=[] if request.concept_tokens else done.concept_tokens,
        concept_control=done.concept_control if done.concept_control.n else None,
        features=_named(request, stack, labels),
        verdict=done.verdict.level.value,
    )


def _evidence(done: "core.Steering") -> Evidence:
    """An edit that touched nothing is only observed, whatever it is compared with."""
    if not done.concept_logprob and not any(text.metrics.kl for text in done.steered):
        return "observed"
    return "controlled" if done.controls or done.concept_control.n else "intervened"


async def _tokens(stack: LoadedStack, request: SteerGenerate) -> "Tokens":
    long = stack.long(n_new=request.max_new_tokens)
    tokens = (await stack.reader.tokenize([request.prompt], chat=request.chat, long=long))[0]
    await stack.slot.run(void_quizzes, [request.prompt])
    return tokens


async def _steer(
    stack: LoadedStack, request: SteerGenerate, tokens: "Tokens", job: Job
) -> "core.Steering":
    from saescope.steering import steer

    return await stack.slot.run(
        steer,
        stack.model,
        stack.saes,
        tokens,
        _edits(request),
        n_controls=request.n_controls,
        progress=_told(stack, job),
        **await _options(stack, request),
    )


def _told(stack: LoadedStack, job: Job) -> "Progress":
    def progress(done: int, total: int) -> None:
        job.say(f"generating: {done / total:.0%}")
        stack.slot.done(done / total)

    return progress


async def _options(stack: LoadedStack, request: SteerGenerate) -> "_Options":
    """What one text and a table are asked alike."""
    concept = [stack.model.single_token(text, "concept_tokens") for text in request.concept_tokens]
    return {
        "unit": request.unit,
        "reference": [entry.check.acts for entry in stack.entries],
        "indexed": [await activations_of(entry) for entry in stack.entries],
        "max_new_tokens": request.max_new_tokens,
        "n_samples": request.n_samples,
        "temperature": request.temperature,
        "seed": request.seed,
        "concept_tokens": concept,
    }


async def _table(state: AppState, request: SteerGenerate, job: Job) -> SteerGenerateReply:
    """Several strengths or prompts against one baseline, or the plain text."""
    async with state.use_all(request.handles, patient=True) as stack:
        from saescope.steering import sweep

        long = stack.long(n_new=request.max_new_tokens)
        texts = await stack.reader.tokenize(request.texts, chat=request.chat, long=long)
        await stack.slot.run(void_quizzes, request.texts)
        done = await stack.slot.run(
            sweep,
            stack.model,
            stack.saes,
            texts,
            _edits(request),
            strengths=request.strengths or [1.0],
            progress=_told(stack, job),
            **await _options(stack, request),
        )
    labels = await labels_of_stack(stack, _changed(request))
    return SteerGenerateReply(
        summary=f"{of_table(done)} {_left_out(done, texts, request)}",
        warnings=[
            *done.warnings,
            *stack.disagreement(chat=request.chat),
            *labels.warnings,
        ],
        evidence=_evidence_of_rows(done),
        provenance=provenance(stack, request.seed),
        baseline=done.baseline,
        table=done.rows,
        promoted_tokens=[] if request.concept_tokens else done.concept_tokens,
        unit_values=done.unit_values,
        unit_source=done.unit_source,
        concept_logprob=None,
        n_sinks=done.n_sinks,
        features=_named(request, stack, labels),
    )


def of_table(done: "core.Sweep") -> str:
    """Say at which strengths the text holds, and at which the concept is beyond controls."""
    if not done.rows:
        return "The plain text: nothing was edited."
    whole = [row for row in done.rows if row.verdict is not Effect.DEGENERATE]
    holds = f"The text stays coherent at {_listed(whole)}" if whole else "No text stays coherent"
    if not any(row.p is not None for row in done.rows):
        return f"{holds}; name concept_tokens to test for a concept."
    same = [row for row in whole if row.verdict is Effect.NONE]
    kept = f"; it is the unsteered one at {_listed(same)}" if same else ""
    return f"{holds}{kept}; {_concept_of(whole)}."


def _concept_of(rows: "list[SweepRow]") -> str:
    """At which strengths there is more of the concept, and at which less, beyond controls."""
    beyond = [(row, row.concept_logprob or 0) for row in rows if row.beyond]
    ways = {
        "more": [row for row, change in beyond if change > 0],
        "less": [row for row, change in beyond if change < 0],
    }
    said = [f"{way} likely at {_listed(found)}" for way, found in ways.items() if found]
    if not said:
        return "the concept changes beyond 19 random features at none of these"
    return f"the concept is {', '.join(said)}, beyond 19 random features"


def _listed(rows: "list[SweepRow]") -> str:
    return "strength " + ", ".join(f"{row.strength:g}" for row in rows)


def _evidence_of_rows(done: "core.Sweep") -> Evidence:
    if not any(row.kl for row in done.rows):
        return "observed"
    return "controlled" if any(row.p is not None for row in done.rows) else "intervened"


def _changed(request: ChangingRequest) -> list[tuple[int, int]]:
    """Place of its SAE and index of each changed feature, each once."""
    places = {handle: n for n, handle in enumerate(request.handles)}
    return [
        *dict.fromkeys((places[each.sae or request.sae], each.feature) for each in request.changed)
    ]


def _named(request: ChangingRequest, stack: LoadedStack, labels: StackLabels) -> list[Named]:
    return [
        Named(feature=feature, **names_of(stack, labels, sae, feature))
        for sae, feature in _changed(request)
    ]


def _edit_evidence(done: "core.Intervention | core.Interventions") -> Evidence:
    """An edit that touches nothing is a look at the prediction."""
    if not done.touched:
        return "observed"
    return "controlled" if done.control.n else "intervened"


def _after_edit(done: "core.Intervention | core.Interventions", request: Intervene) -> list[str]:
    """A generation with the same edits, unless nothing changed, or no more than with random
    features; fewer than enough of these tell nothing."""
    from saescope.controls import ENOUGH

    if not done.touched or (done.control.n >= ENOUGH and not done.control.outside):
        return []
    features = [_as_argument(edit) for edit in request.edits]
    return [_next_call("steer_generate", request, features=features)]


def _effect(done: "core.Intervention | core.Interventions", request: Intervene) -> str:
    """What the edit does: to one prediction, or to several."""
    from saescope.steering import Intervention

    if not isinstance(done, Intervention):
        return _mean_effect(done, request)
    what = quantity_of(done.measure, done.before.target, done.before.against)
    probability = (
        f"probability {100 * done.before.target.prob:.3g}% before, "
        f"{100 * done.after.target.prob:.3g}% after"
    )
    if not done.touched:
        return f"The edit changes nothing here: the {what} stays as it is ({probability})."
    controls = beside(done.control, "random features edited alike")
    return f"The edit causes a change of {done.effect:+.3g} in the {what}{controls}; {probability}."


def _mean_effect(done: "core.Interventions", request: Intervene) -> str:
    """How the predictions move together, and how many go each way."""
    name = {"logprob": "log-probability"}.get(done.measure, "logit")
    whose = repr(request.target) if request.target else "each prompt's most likely token"
    what = f"{name} of {whose}" + (f" minus that of {request.against!r}" if request.against else "")
    n, test = done.n_distinct, done.sign_test
    if not done.touched:
        return f"The edit changes nothing on any of the {n} prompts: the {what} stays as it is."
    controls = beside(done.control, "random features edited alike, means over the same prompts")
    interval = (
        f"95 % interval {done.interval[0]:.3g} to {done.interval[1]:.3g} (Student's t)"
        if done.interval
        else "too few prompts for an interval"
    )
    ties = f", {test.n_ties} stay" if test.n_ties else ""
    p = f" (sign test, p {test.p:.2g})" if test.p is not None else ""
    untouched = (
        f" It touches nothing on {n - done.n_touched} of the {n}: they are not in the mean."
        if done.n_touched < n
        else ""
    )
    return (
        f"The edit causes a mean change of {done.effect:+.3g} in the {what} over "
        f"{done.n_touched} prompt{'s' * (done.n_touched != 1)}{controls}; {interval}; "
        f"{test.n_up} go up, {test.n_down} go down{ties}{p}.{untouched}"
    )


def _apart(done: "core.Intervention | core.Interventions") -> str:
    """What the single edits come to."""
    if not done.shares:
        return ""
    alone, n = sum(share.alone for share in done.shares), len(done.shares)
    return f" Alone the {n} edits add up to {alone:+.3g}, together they do {done.effect:+.3g}."


def _next(request: SteerGenerate, effect: Effect) -> list[str]:
    """Half the strength where the text fell apart, twice where nothing is to be seen, the user's
    concept where only the feature's own tokens are known, else a measured look at one
    prediction."""
    factor = {Effect.DEGENERATE: 0.5, Effect.NONE: 2.0}.get(effect)
    tunable = all(
        feature.mode in ("add", "clamp") and 0 < abs(feature.strength) <= MOST_DOUBLED
        for feature in request.features
    )
    if factor and tunable:
        changed = [
            _as_argument(feature) | {"strength": factor * feature.strength}
            for feature in request.features
        ]
        return [_next_call("steer_generate", request, features=changed)]
    if effect in (Effect.OWN_TOKENS, Effect.CHANGED) and not request.concept_tokens:
        features = [_as_argument(feature) for feature in request.features]
        return [_next_call("steer_generate", request, features=features, concept_tokens=["..."])]
    if any(feature.when_feature >= 0 for feature in request.features):
        return []  # intervene knows no conditions
    return [
        _next_call(
            "intervene", request, edits=[_as_argument(feature) for feature in request.features]
        )
    ]


def _next_call(name: str, request: Intervene | SteerGenerate, **arguments: object) -> str:
    unit = ({"unit": request.unit} if request.unit != "typical" else {}) | (
        {"chat": True} if request.chat else {}
    )
    sae = {"sae": request.sae} if request.sae else {}
    return next_call(name, **sae, **_prompted(request), **arguments, **unit)


def _prompted(request: Intervene | SteerGenerate) -> dict[str, object]:
    """The prompt or prompts as they stand in a suggested call; of those of an intervention, which
    may be more than a generation takes, the first."""
    if isinstance(request, SteerGenerate) and request.prompts:
        return {"prompts": brief_all(request.prompts)}
    return {"prompt": brief(request.texts[0])}


def _edits(request: ChangingRequest) -> "list[core.FeatureEdit]":
    from saescope.steering import FeatureEdit

    places = {handle: n for n, handle in enumerate(request.handles)}
    return [
        FeatureEdit(
            feature=each.feature,
            strength=each.strength,
            mode=each.mode,
            positions=tuple(each.positions) if isinstance(each, Edit) else (),
            sae=places[each.sae or request.sae],
            **_condition(each, places),
        )
        for each in request.changed
    ]


class _Condition(TypedDict, total=False):
    when_feature: int
    when_sae: int | None
    when_above: float


def _condition(each: SteeringFeature, places: Mapping[str, int]) -> _Condition:
    if not isinstance(each, ConditionalFeature) or each.when_feature < 0:
        return {}
    return {
        "when_feature": each.when_feature,
        "when_sae": places[each.when_sae] if each.when_sae else None,
        "when_above": each.when_above,
    }


def _as_argument(feature: SteeringFeature) -> dict[str, object]:
    return feature.model_dump(exclude={"positions"}, exclude_defaults=True)


def _named_control(arm: "core.Arm", stack: LoadedStack) -> "core.Arm":
    """The control, its label naming the SAE of each feature where there are several."""
    named = [
        f"feature {ref.feature} of {handle}"
        for ref in arm.features
        if (handle := stack.handle(ref.sae))
    ]
    return replace(arm, label=f"control: {', '.join(named)}") if named else arm


TOOLS = [
    Tool(
        intervene,
        Intervene,
        READ_ONLY.model_copy(update={"title": "Edit features, read the prediction"}),
        group=Group.EXPLAIN,
        app=RESULT_APP,
    ),
    Tool(
        steer_generate,
        SteerGenerate,
        READ_ONLY.model_copy(update={"title": "Steer generation"}),
        group=Group.STEER,
        app=RESULT_APP,
    ),
]
