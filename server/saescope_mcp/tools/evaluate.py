"""evaluate_sae."""

from functools import partial
from typing import TYPE_CHECKING

from mcp.types import ToolAnnotations

from saescope.verdicts import Quality
from saescope_mcp.binding import next_call
from saescope_mcp.groups import Group
from saescope_mcp.jobs import Job
from saescope_mcp.replies import Tool
from saescope_mcp.replies.facts import provenance
from saescope_mcp.replies.pictures import of_evaluation
from saescope_mcp.replies.waiting import result_or_job, still_running
from saescope_mcp.schemas.common import Provenance
from saescope_mcp.schemas.evaluate import KNOWN_LATER, EvaluateSae, EvaluateSaeReply, Judged
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState, LoadedSAE, dataset_name, hash_of
from saescope_mcp.state.measured import keep_sparsity, remember

if TYPE_CHECKING:
    from saescope.activations import Dataset
    from saescope.evals import Evaluation
    from saescope.records.evaluation import Interval

DETAILS = ("density", "positions", "saelens")
JUDGED = ("explained_variance", "ce_score", "kl_score", "over_random_sae", "over_pca")
"""What a concise reply gives intervals of."""


async def evaluate_sae(state: AppState, request: EvaluateSae) -> EvaluateSaeReply:
    """How good a loaded SAE is, on held-out text: sparsity, reconstruction, what predictions lose,
    with 95 % intervals, against a random SAE and PCA; a verdict with reasons, what to change. Use
    it after train_sae, or before trusting features."""
    state.require(request.sae)
    dataset = dataset_name(request.dataset, state.settings)
    await state.loaders.run(partial(_look, dataset, request, state.settings))
    files = await hash_of(state, dataset)

    async def work(job: Job) -> EvaluateSaeReply:
        async with state.use(request.sae, patient=True) as loaded:
            job.say("reading the text")
            evaluation = await loaded.slot.run(partial(_evaluate, loaded, request, dataset, job))
            remember(loaded.weights_hash, evaluation)
            name, d_sae = loaded.weights_hash[:12], loaded.sae.cfg.d_sae
            pictures = (
                await loaded.slot.run(partial(of_evaluation, evaluation, name, d_sae=d_sae))
                if request.picture
                else []
            )
            origin = provenance(loaded, request.seed, files=files)
            return _reply(loaded, request, evaluation, pictures=pictures, origin=origin)

    again = next_call("evaluate_sae", sae=request.sae)
    done, job = await result_or_job(
        state, request, work, tool="evaluate_sae", again=again, about=dataset
    )
    return done or EvaluateSaeReply(**still_running(job, "The evaluation"))


def _look(dataset: str, request: EvaluateSae, settings: Settings) -> None:
    """Raises what is wrong with the request, before the call waits for the model."""
    from saescope.activations import require_text

    require_text(_text(dataset, request, settings))


def _text(dataset: str, request: EvaluateSae, settings: Settings) -> "Dataset":
    from saescope.activations import open_dataset

    roots = list(settings.read_roots)
    return open_dataset(dataset, text_column=request.text_column, roots=roots)


def _evaluate(loaded: LoadedSAE, request: EvaluateSae, dataset: str, job: Job) -> "Evaluation":
    from saescope.evals import evaluate

    text = _text(dataset, request, loaded.slot.settings)

    def progress(done: int, total: int) -> None:
        job.say(f"evaluating: {done / max(1, total):.0%}")
        loaded.slot.done(done / max(1, total))

    evaluation = evaluate(
        loaded.model,
        loaded.sae,
        text,
        n_tokens=request.n_tokens,
        baselines=request.baselines,
        seed=request.seed,
        progress=progress,
    )
    keep_sparsity(loaded.source.path, evaluation)
    return evaluation


def _reply(
    loaded: LoadedSAE,
    request: EvaluateSae,
    evaluation: "Evaluation",
    *,
    pictures: list[str],
    origin: Provenance,
) -> EvaluateSaeReply:
    hidden = () if request.response_format == "detailed" else DETAILS
    known = set(KNOWN_LATER.model_fields) - set(Judged.model_fields) - set(hidden)
    numbers = {name: getattr(evaluation, name) for name in known}
    verdict = evaluation.verdict
    return EvaluateSaeReply.model_validate(
        numbers
        | {
            "summary": _summary(loaded, evaluation),
            "warnings": list(evaluation.warnings),
            "next": _next(request, verdict.level),
            "evidence": "intervened" if evaluation.ce else "observed",
            "provenance": origin,
            "state": "done",
            "verdict": f"{verdict.level}: {verdict.summary}",
            "reasons": list(verdict.reasons),
            "intervals": _intervals(evaluation, request),
            "pictures": pictures,
        },
        from_attributes=True,
    )


def _next(request: EvaluateSae, level: Quality) -> list[str]:
    """What to do with an SAE that is worth it."""
    if level is Quality.WRONG:
        return [next_call("unload", handle=request.sae)]
    return [
        next_call("top_features", sae=request.sae, text="..."),
        next_call("publish_sae", sae=request.sae, path="..."),
    ]


def _intervals(evaluation: "Evaluation", request: EvaluateSae) -> "dict[str, Interval]":
    if request.response_format == "detailed":
        return dict(evaluation.intervals)
    return {name: evaluation.intervals[name] for name in JUDGED if name in evaluation.intervals}


def _summary(loaded: LoadedSAE, evaluation: "Evaluation") -> str:
    parts = [f"L0 {evaluation.l0:.1f}"]
    parts += (
        [f"explained variance {evaluation.explained_variance:.2f}"]
        if evaluation.explained_variance is not None
        else []
    )
    if evaluation.ce_score is not None and evaluation.ce is not None:
        own = f"the model's own loss is {evaluation.ce.clean:.2f} nats a token"
        parts.append(f"CE score {evaluation.ce_score:.2f} ({own})")
    parts.append(f"{evaluation.dead_share:.1%} of the features never fire")
    sentence = f"{loaded.handle} on {evaluation.n_tokens:,} held-out tokens: {', '.join(parts)}."
    verdict = evaluation.verdict
    advice = next((f" {reason.advice}" for reason in verdict.reasons[:1] if reason.advice), "")
    return f"{sentence} Verdict: {verdict.level}. {verdict.summary}{advice}"


TOOLS = [
    Tool(
        evaluate_sae,
        EvaluateSae,
        ToolAnnotations(
            title="Evaluate an SAE",
            read_only_hint=True,
            destructive_hint=False,
            open_world_hint=True,
        ),
        group=Group.JUDGE,
    )
]
