"""encode_text through a lens: readers side by side at positions of texts."""

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from saescope.progress import duration
from saescope.verdicts import Signal
from saescope_mcp.binding import next_call
from saescope_mcp.jobs import Job
from saescope_mcp.replies.facts import provenance, read_on
from saescope_mcp.replies.rows import extended
from saescope_mcp.replies.waiting import result_or_job, still_running
from saescope_mcp.schemas.read import EncodeText, LensReply, LensSaid, ReadPosition
from saescope_mcp.state import AppState, Given, LoadedStack, given_texts, void_quizzes

if TYPE_CHECKING:
    from saescope.lens import Lens
    from saescope.models import Tokens
    from saescope.records.lens import LensFacts, LensReading, ReadLayer, ReadPrediction

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
        lens = await stack.slot.run(_there, stack, request.lens)

    async def work(job: Job) -> LensReply:
        async with state.use_all(request.handles, patient=True) as stack:
            there = lens or await stack.slot.run(_fitted, stack, job)
            job.say("reading")
            return await _read(stack, request, given, there)

    again = read_on("encode_text", request, request.offset)
    done, job = await result_or_job(state, request, work, tool="encode_text", again=again)
    if done is not None:
        return done
    running = still_running(job, "The reading" if lens else "The fit of a Jacobian lens")
    if lens is None:
        running["summary"] += " Prompts that are done are kept: the same call goes on where one "
        running["summary"] += "was cut off."
    return LensReply(**running, total=0, bos_prepended=False, **_NOT_READ)


def _there(stack: LoadedStack, name: str) -> "Lens | None":
    """The lens of that name, of those that need no fitting; None where it is to be fitted."""
    from saescope.formats.pickles import pickles_allowed
    from saescope.hub import Fetch
    from saescope.lens import JACOBIAN, LOGIT, find_lens, logit_lens_of, open_lens

    settings = stack.slot.settings
    if name == LOGIT:
        return logit_lens_of(stack.model)
    if name == JACOBIAN:
        return find_lens(stack.model, layers=_written(stack))
    with pickles_allowed(settings.allow_pickle):
        return open_lens(stack.model, name, fetch=Fetch(offline=settings.offline))


def _written(stack: LoadedStack) -> list[int]:
    """The layers that the SAEs write at."""
    from saescope.lens import layer_written

    return [layer for sae in stack.saes if (layer := layer_written(sae)) is not None]


def _fitted(stack: LoadedStack, job: Job) -> "Lens":
    """A lens for the layers of the SAEs and all above; its job says the size and the minutes."""
    from saescope.lens import fit_lens, plan_lens

    model = stack.model
    # At the last layer the model is read itself.
    first = max(0, min([*(_written(stack) or [0]), model.n_layers - 2]))
    plan, begun = plan_lens(model, first_layer=first), list[tuple[int, float]]()

    def progress(done: int, wanted: int) -> None:
        stack.slot.done(done / wanted)
        # What an earlier call has done is no measure of the pace.
        begun.append((done, time.monotonic()))
        (before, since), (_, now) = begun[0], begun[-1]
        to_go = (wanted - done) * (now - since) / (done - before) if done > before else None
        left = "" if to_go is None else f", about {duration(to_go)} left"
        job.say(f"{plan}; {done // model.d_model} of {plan.n_prompts} prompts done{left}")

    job.say(f"{plan}")
    return fit_lens(model, **plan.settings, progress=progress)


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
        provenance=provenance(stack, files=given.files),
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
    return (
        f"Read through the {facts.lens} lens{_fitted_on(facts)}. {_prediction(last, facts)} "
        f"Verdict: {reading.signal}: {reading.why}"
    )


def _fitted_on(facts: "LensFacts") -> str:
    if not facts.n_prompts:
        return ""
    corpus = f" of {facts.corpus}" if facts.corpus else ""
    errors = (
        f" (standard error of its matrices up to {max(facts.errors):.0%})" if facts.errors else ""
    )
    return f" of {facts.n_prompts} prompts{corpus}{errors}"


def _prediction(row: "ReadPrediction", facts: "LensFacts") -> str:
    said = f"After {row.token!r} (position {row.pos}) the model predicts {row.predicts[0]!r}"
    found = [
        f"the {name} lens from layer {layer} on{' (its first)' * (layer == first > 0)}"
        for name, layer, first in (
            ("logit", row.logit_from, 0),
            ("Jacobian", row.jacobian_from, min(facts.layers)),
        )
        if layer is not None
    ]
    said += f", the top token of {' and of '.join(found)}"
    return f"{said}; {row.next!r} comes next, its rank {row.next_rank}." if row.next else f"{said}."


def _next(request: EncodeText, reading: "LensReading", end: int | None) -> list[str]:
    on = [read_on("encode_text", request, end)] if end is not None else []
    found = next((one for row in reading.layers for one in row.features), None)
    if found is None or reading.signal is Signal.NONE:
        return on
    through = {"through": "jlens"} if reading.lens.lens == "jacobian" else {}
    sae = request.handles[found.sae]
    return [*on, next_call("describe_feature", sae=sae, feature=found.feature, **through)]
