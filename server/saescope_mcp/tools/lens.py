"""encode_text through a lens: readers side by side at positions of texts."""

from functools import partial
from typing import TYPE_CHECKING, Any

from saescope.verdicts import Signal
from saescope_mcp.binding import next_call
from saescope_mcp.jobs import IN_LINE, Job
from saescope_mcp.replies.facts import provenance, read_on
from saescope_mcp.replies.rows import extended
from saescope_mcp.schemas.read import EncodeText, LensReply, LensSaid, ReadPosition
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState, Given, LoadedStack, given_texts, void_quizzes

if TYPE_CHECKING:
    from saescope.lens import Lens
    from saescope.models import LanguageModel, Tokens
    from saescope.records.lens import LensReading, ReadLayer, ReadPrediction

FITTED: dict[str, Any] = {"n_prompts": 100, "context_size": 128}
FITTED_ON_CPU: dict[str, Any] = {"n_prompts": 10, "context_size": 64}
"""What a lens is fitted on where none is kept."""
_NOT_READ: dict[str, Any] = {
    "tokens": [],
    "n_tokens": 0,
    "n_left_out": 0,
    "n_sinks": 0,
    **dict.fromkeys(("l0_mean", "explained_variance", "cosine")),
}
"""What a reading through a lens does not measure."""


async def readings_of(state: AppState, request: EncodeText) -> LensReply:
    """What each reader says at the positions; a job where the lens is to be fitted first."""
    given = await given_texts(state, request)
    async with state.use_all(request.handles) as stack:
        # what is too long, and what no lens is called, is refused now
        await stack.reader.tokenize(given.texts, from_file=given.from_file)
        lens = await stack.slot.run(_there, stack.model, request.lens, state.settings)
        if lens is not None:
            return await _read(stack, request, given, lens)

    async def work(job: Job) -> LensReply:
        job.say(IN_LINE)
        async with state.use_all(request.handles, patient=True) as stack:
            fitted = await stack.slot.run(_fitted, stack, job)
            return await _read(stack, request, given, fitted)

    key = request.model_copy(update={"wait_s": 0.0}).model_dump_json()
    job = state.jobs.start("encode_text", key, request, work)
    again = read_on("encode_text", request, request.offset)
    done = await state.jobs.outcome(job, request.wait_s, again=again)
    return done or LensReply(
        summary=f"A Jacobian lens is being fitted, as job {job.id}: {job.message}. Prompts that "
        "are done are kept: the same call goes on where one was cut off.",
        next=[next_call("job_status", job_id=job.id, wait_s=30)],
        state="running",
        job_id=job.id,
        total=0,
        bos_prepended=False,
        **_NOT_READ,
    )


def _there(model: "LanguageModel", name: str, settings: Settings) -> "Lens | None":
    """The lens of that name, of those that need no fitting; None where it is to be fitted."""
    from saescope.formats.pickles import pickles_allowed
    from saescope.hub import Fetch
    from saescope.lens import JACOBIAN, LOGIT, find_lens, logit_lens_of, open_lens

    if name == LOGIT:
        return logit_lens_of(model)
    if name == JACOBIAN:
        return find_lens(model)
    with pickles_allowed(settings.allow_pickle):
        return open_lens(model, name, fetch=Fetch(offline=settings.offline))


def _fitted(stack: LoadedStack, job: Job) -> "Lens":
    from saescope.lens import fit_lens

    def progress(done: int, wanted: int) -> None:
        stack.slot.done(done / wanted)
        job.say(f"fitting a Jacobian lens: {done} of {wanted} prompts")

    job.say("fitting a Jacobian lens")
    size = FITTED_ON_CPU if stack.model.device.type == "cpu" else FITTED
    return fit_lens(stack.model, **size, progress=progress)


async def _read(stack: LoadedStack, request: EncodeText, given: Given, lens: "Lens") -> LensReply:
    from saescope.lens import read_lens

    tokens: list[Tokens] = await stack.reader.tokenize(given.texts, from_file=given.from_file)
    await stack.slot.run(void_quizzes, given.texts)
    reading = await stack.slot.run(
        partial(
            read_lens,
            stack.model,
            tokens,
            lens=lens,
            saes=stack.saes,
            positions=request.positions or [-1],
        )
    )
    end, total = request.offset + request.limit, len(reading.positions)
    return LensReply(
        summary=f"{given.about}{_summary(reading)}",
        warnings=[*reading.warnings, *stack.disagreement()],
        next=_next(request, reading, end if end < total else None),
        evidence="observed",
        provenance=provenance(stack),
        readings=[
            extended(ReadPosition, row, layers=_layers_at(reading, row))
            for row in reading.positions[request.offset : end]
        ],
        lens=LensSaid(facts=reading.lens, agreement=reading.agreement, signal=reading.signal),
        total=total,
        truncated=end < total,
        next_offset=end if end < total else None,
        bos_prepended=tokens[0].bos_prepended,
        **_NOT_READ,
    )


def _layers_at(reading: "LensReading", at: "ReadPrediction") -> "list[ReadLayer]":
    place = (at.text_index, at.pos)
    return [row for row in reading.layers if (row.text_index, row.pos) == place]


def _summary(reading: "LensReading") -> str:
    facts, last = reading.lens, reading.positions[-1]
    fitted = (
        f" of {facts.n_prompts} prompts{f' of {facts.corpus}' if facts.corpus else ''}"
        if facts.n_prompts
        else ""
    )
    return (
        f"Read through the {facts.lens} lens{fitted}. {_prediction(last)} "
        f"Verdict: {reading.signal}: {reading.why}"
    )


def _prediction(row: "ReadPrediction") -> str:
    said = f"After {row.token!r} (position {row.pos}) the model predicts {row.predicts[0]!r}"
    return f"{said}; {row.next!r} comes next, its rank {row.next_rank}." if row.next else f"{said}."


def _next(request: EncodeText, reading: "LensReading", end: int | None) -> list[str]:
    on = [read_on("encode_text", request, end)] if end is not None else []
    found = next((one for row in reading.layers for one in row.features), None)
    if found is None or reading.signal is Signal.NONE:
        return on
    through = {"through": "jlens"} if reading.lens.lens == "jacobian" else {}
    sae = request.handles[found.sae]
    return [*on, next_call("describe_feature", sae=sae, feature=found.feature, **through)]
