"""steer_search."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mcp.types import ToolAnnotations

from saescope.verdicts import Steerability
from saescope_mcp.binding import next_call
from saescope_mcp.groups import Group
from saescope_mcp.jobs import Job
from saescope_mcp.replies import Tool
from saescope_mcp.replies.corpus import activations_of
from saescope_mcp.replies.facts import brief, provenance
from saescope_mcp.replies.labels import labels_of_stack
from saescope_mcp.replies.rows import extended, names_of
from saescope_mcp.replies.waiting import result_or_job, still_running
from saescope_mcp.schemas.common import Evidence
from saescope_mcp.schemas.steer import Named, SteeringFeature
from saescope_mcp.schemas.strength import LostRow, SteerSearch, SteerSearchReply
from saescope_mcp.state import AppState, LoadedStack, void_quizzes

if TYPE_CHECKING:
    from saescope.records.search_strength import StrengthSearch
    from saescope.steering import FeatureEdit, IndexedActivations

MOST_TEXT = 300
"""Characters of a text that a reply shows."""


async def steer_search(state: AppState, request: SteerSearch) -> SteerSearchReply:
    """How strongly to push features for a concept: the strength is found on some prompts, within a
    budget of damage, and measured on others, beside random mixes, clamp or add, and on request a
    difference of means and an instruction. Use it before you report a steering; the verdict is of
    one held-out trial."""
    state.require_all(request.handles)
    before = _earlier(state, request)

    async def work(job: Job) -> SteerSearchReply:
        return await _searched(state, request, job, before)

    again = next_call(
        "steer_search", **_named(request), concept=request.concept, features=_features(request)
    )
    done, job = await result_or_job(state, request, work, tool="steer_search", again=again)
    return done or SteerSearchReply(**still_running(job, "The search"))


def _earlier(state: AppState, request: SteerSearch) -> int:
    """How many other searches for the concept this session has seen."""
    asked = {
        job.request.model_copy(
            update={"wait_s": 0.0, "response_format": "concise"}
        ).model_dump_json()
        for job in state.jobs.all()
        if isinstance(job.request, SteerSearch) and {*job.request.concept} == {*request.concept}
    }
    own = request.model_copy(update={"wait_s": 0.0, "response_format": "concise"})
    return len(asked - {own.model_dump_json()})


async def _searched(
    state: AppState, request: SteerSearch, job: Job, before: int
) -> SteerSearchReply:
    async with state.use_all(request.handles, patient=True) as stack:
        given = [*request.prompts, *request.held_out]
        if given:
            await stack.reader.tokenize(given, chat=request.chat)
        if request.texts:
            await stack.reader.tokenize([*request.texts, *request.against])
        await stack.slot.run(void_quizzes, [*given, *request.texts, *request.against])
        indexed = [await activations_of(entry) for entry in stack.entries]
        done = await stack.slot.run(partial(_search, stack, request, job, indexed))
    pairs = [(edit.sae, edit.feature) for edit in _edits(request)]
    labels = await labels_of_stack(stack, dict.fromkeys(pairs))
    level = done.verdict.level
    return SteerSearchReply(
        summary=_summary(done, request),
        warnings=[*done.warnings, *_many(before), *stack.disagreement(chat=request.chat)],
        next=_next(request, done),
        evidence=_evidence(done),
        provenance=provenance(stack, request.seed),
        verdict=level.value,
        **_numbers(done),
        leave_one_out=[
            extended(LostRow, row, sae=stack.handle(row.sae)) for row in done.leave_one_out
        ],
        features=[
            Named(feature=feature, **names_of(stack, labels, sae, feature))
            for sae, feature in dict.fromkeys(pairs)
        ],
    )


_AS_THEY_ARE = (
    *("strength", "steered", "random", "baseline", "controls", "curve", "trials", "n_trials"),
    *("n_calibration", "n_held_out", "budget", "unit_values", "unit_source"),
)


def _numbers(done: "StrengthSearch") -> dict[str, Any]:
    texts = {name: getattr(done, name) for name in ("prompt", "baseline_text", "steered_text")}
    return {name: getattr(done, name) for name in _AS_THEY_ARE} | {
        name: text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 1]}…"
        for name, text in texts.items()
    }


def _search(
    stack: LoadedStack,
    request: SteerSearch,
    job: Job,
    indexed: "list[IndexedActivations | None]",
) -> "StrengthSearch":
    from saescope.search import steer_search as search

    def progress(done: int, total: int) -> None:
        job.say(f"searching: {done / max(1, total):.0%}")
        stack.slot.done(done / max(1, total))

    asked: dict[str, Any] = request.model_dump(
        include={
            *("concept", "prompts", "held_out", "texts", "against", "instruction", "sign"),
            *("chat", "max_kl", "max_perplexity", "unit", "max_new_tokens", "seed"),
        }
    )
    return search(
        stack.model,
        stack.saes,
        _edits(request),
        reference=[entry.check.acts for entry in stack.entries],
        indexed=indexed,
        progress=progress,
        **asked,
    )


def _edits(request: SteerSearch) -> "list[FeatureEdit]":
    from saescope.steering import FeatureEdit

    places = {handle: n for n, handle in enumerate(request.handles)}
    return [
        FeatureEdit(each.feature, each.strength, each.mode, sae=places[each.sae or request.sae])
        for each in request.features
    ]


def _summary(done: "StrengthSearch", request: SteerSearch) -> str:
    nothing = done.verdict.level is Steerability.NONE
    verdict = f"no usable strength: {done.verdict.why}" if nothing else str(done.verdict)
    at = (
        f"Strength {done.strength:.3g} is the best of {done.n_trials} tried on "
        f"{done.n_calibration} prompts"
        if done.strength is not None
        else f"Of {done.n_trials} strengths tried on {done.n_calibration} prompts none will do"
    )
    return (
        f"{verdict[0].upper()}{verdict[1:]}. {at}, at most {request.max_kl:g} nats of KL and "
        f"{request.max_perplexity:g} times the perplexity; measured on {done.n_held_out} others."
    )


def _many(before: int) -> list[str]:
    if not before:
        return []
    return [
        f"{before} other search{'es' * (before > 1)} for this concept in this session: the best of "
        "several is not one trial; measure the one that you keep on prompts of its own (held_out)."
    ]


def _evidence(done: "StrengthSearch") -> Evidence:
    if done.steered is None:
        return "observed"
    return "controlled" if done.random.n else "intervened"


def _next(request: SteerSearch, done: "StrengthSearch") -> list[str]:
    """A text with what was found; where nothing works, a search for a feature that causes it."""
    level = done.verdict.level
    if done.strength is None or level in (Steerability.NONE, Steerability.NOT_BETTER):
        sae = request.handles[0]
        sign = {"sign": request.sign} if request.sign != "raise" else {}
        return [next_call("find_features", sae=sae, causes=request.concept, **sign)]
    features = [
        as_argument(each) | {"strength": float(f"{each.strength * done.strength:.4g}")}
        for each in request.features
    ]
    chat = {"chat": True} if request.chat else {}
    unit = {"unit": request.unit} if request.unit != "typical" else {}
    return [
        next_call(
            "steer_generate",
            **_named(request),
            prompt=brief(done.prompt),
            features=features,
            **chat,
            **unit,
        )
    ]


def _named(request: SteerSearch) -> dict[str, object]:
    return {"sae": request.sae} if request.sae else {}


def as_argument(feature: SteeringFeature) -> dict[str, object]:
    return feature.model_dump(exclude_defaults=True)


def _features(request: SteerSearch) -> Sequence[dict[str, object]]:
    return [as_argument(each) for each in request.features]


TOOLS = [
    Tool(
        steer_search,
        SteerSearch,
        ToolAnnotations(
            title="Find a steering strength",
            read_only_hint=True,
            destructive_hint=False,
            open_world_hint=False,
        ),
        group=Group.BENCH,
    )
]
