"""server_status and job_status."""

import time
from functools import partial
from pathlib import Path
from typing import Any

from mcp.types import ToolAnnotations

from saescope import __version__
from saescope.errors import SaescopeError
from saescope.progress import duration
from saescope_mcp.binding import kept_document, next_call, nothing
from saescope_mcp.groups import Group
from saescope_mcp.jobs import LIVE, Job, Run, Runs
from saescope_mcp.kinds import ended, kind_of, to_go
from saescope_mcp.replies import RESULT_APP, Tool, refusal
from saescope_mcp.schemas.common import Reply
from saescope_mcp.schemas.status import (
    Cached,
    JobRow,
    JobStatus,
    JobStatusReply,
    Loaded,
    MemoryUse,
    ServerStatus,
    ServerStatusReply,
)
from saescope_mcp.state import AppState, LoadedSet, Placement, Source, load_call
from saescope_mcp.state.warm import put_aside

STALLED_S = 30.0

MOST_CACHED, MOST_JOBS = 15, 25
READ_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, open_world_hint=False)


async def server_status(state: AppState, request: ServerStatus) -> ServerStatusReply:
    """What is loaded, running, cached and allowed here; call it first when unsure, or after an
    error about memory or handles. Lists every handle with the call that loads it, free memory,
    device, jobs and all limits."""
    device = await state.workers.run(_device)
    room, loaded, cached = (
        state.room(device),
        _loaded(state),
        await state.workers.run(partial(cached_saes, state)),
    )
    names = ", ".join(row.handle for row in loaded) or "nothing"
    rows, broken = await _rows_if_readable(state)
    why_offline = await state.workers.run(partial(_why_offline, state))
    return ServerStatusReply(
        summary=f"saescope {__version__} on {device}; loaded: {names}; {room.free / 1e6:,.0f} "
        f"MB of the memory budget are free.{f' Offline: {why_offline}.' if why_offline else ''}"
        f"{f' {state.showing.said}' if state.showing.said else ''}",
        warnings=broken,
        next=[next_call("top_features", sae=handle, text="...") for handle in [*state.saes][:1]]
        or ["load_sae()"],
        version=__version__,
        device=device,
        memory=MemoryUse(total=room.total, budget=room.budget, used=room.used, free=room.free),
        loaded=loaded,
        jobs=_worth_naming(rows, request)[:10],
        limits={
            name: value
            for name, value in state.settings.model_dump().items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        },
        offline=bool(why_offline),
        cached=cached[:MOST_CACHED],
        cached_total=len(cached),
        truncated=len(cached) > MOST_CACHED,
        groups_on=state.offer.groups_on,
        tools_off=state.offer.off,
    )


async def job_status(state: AppState, request: JobStatus) -> JobStatusReply:
    """How a job is doing, after a call that returned a job_id; wait_s waits for its end. A training
    tells step, metrics and time left, when done the handle `sae`; "detailed" adds plan, curve and
    `result`, what the call would have returned. Without job_id: all jobs, of every server on this
    machine."""
    if not request.job_id:
        return _listed(await _rows(state), request.offset)
    if job := state.jobs.find(request.job_id):
        reply = await _task_status(state, job, request)
    else:
        reply = await _run_status(state, request)
    return reply if request.response_format == "detailed" else _brief(reply)


def _brief(reply: JobStatusReply) -> JobStatusReply:
    """Without what does not change from poll to poll: plan and curve, and the result, of which what
    it says and calls next are in the reply."""
    metrics = {"latest": reply.metrics.get("latest")} if reply.metrics else None
    return reply.model_copy(update={"plan": None, "result": None, "metrics": metrics})


def _why_offline(state: AppState) -> str:
    """Why nothing can be fetched from the hub now; "" if it answers. This asks it."""
    from saescope.hub import hub_answers, offline_mode

    if state.settings.offline:
        return "SAESCOPE_OFFLINE is set"
    if offline_mode():
        return "HF_HUB_OFFLINE is set"
    return "" if hub_answers(again=True) else "the Hugging Face hub takes no connection"


def _worth_naming(rows: list[JobRow], request: ServerStatus) -> list[JobRow]:
    """All jobs in a detailed reply, else those that may need somebody."""
    if request.response_format == "detailed":
        return rows
    return [row for row in rows if row.state != "done"]


def _listed(rows: list[JobRow], offset: int) -> JobStatusReply:
    after = offset + MOST_JOBS
    more = after if after < len(rows) else None
    return JobStatusReply(
        summary=f"{len(rows)} {'job' if len(rows) == 1 else 'jobs'}, "
        f"{sum(row.state == 'running' for row in rows)} of them running.",
        next=[next_call("job_status", offset=more)] if more else [],
        jobs=rows[offset:after],
        total=len(rows),
        truncated=more is not None,
        next_offset=more,
    )


async def _task_status(state: AppState, job: Job, request: JobStatus) -> JobStatusReply:
    await state.jobs.watch(job, request.wait_s)
    row, outcome = _row(job), await _outcome(job, state)
    result = outcome.get("result") or {}
    whole = request.response_format == "detailed"  # `result` is there and says the rest itself
    told = "" if whole else result.get("summary", "")
    said = job.message if row.state == "running" else told
    return JobStatusReply(
        summary=f"{job.id} ({job.tool}) is {row.state} after {row.elapsed_s:.0f} s"
        + (f": {said.removesuffix('.')}." if said else "."),
        warnings=[] if whole else result.get("warnings", []),
        next=_task_next(job, row, result, whole=whole),
        sae=result.get("sae"),
        jobs=[],
        total=1,
        **row.model_dump(),
        **outcome,
    )


def _task_next(job: Job, row: JobRow, result: dict[str, Any], *, whole: bool) -> list[str]:
    if row.state == "running":
        return [next_call("job_status", job_id=job.id, wait_s=30)]
    if not result or whole:
        return result.get("next", [])
    more = next_call("job_status", job_id=job.id, response_format="detailed")
    return [more, *result.get("next", [])]


async def _run_status(state: AppState, request: JobStatus) -> JobStatusReply:
    run = await state.ask(Runs.get, request.job_id)
    over = await state.ask(Runs.get, request.over) if request.over else None
    run = await ended(state, run, within_s=lambda _: request.wait_s)
    kind, progress = kind_of(run), run.progress
    reply = kind.reply(run)
    draw = request.picture or over is not None
    pictures = await state.workers.run(partial(kind.pictures, run, over)) if draw else []
    return JobStatusReply(
        summary=reply.summary + _stalled(run),
        warnings=reply.warnings,
        next=reply.next,
        step=progress.get("step"),
        n_steps=progress.get("n_steps"),
        n_tokens=progress.get("n_tokens"),
        metrics=progress.get("metrics"),
        eta_s=to_go(run) if run.live else None,
        checkpoint=run.checkpoint,
        sae=run.result.get("sae"),
        saes=run.result.get("saes", []),
        members=run.result.get("members") or progress.get("members", []),
        pictures=pictures,
        plan=run.plan or None,
        result=await _result(state, run, reply) if run.state == "done" else None,
        error=run.error or None,
        jobs=[],
        total=1,
        **_run_row(run).model_dump(),
    )


async def _result(state: AppState, run: Run, reply: Reply) -> dict[str, Any]:
    request = kind_of(run).request.model_validate(run.request)
    return await kept_document(state, reply, tool=run.tool, request=request)


def _stalled(run: Run) -> str:
    silent = time.time() - run.heartbeat
    return (
        f" Its process has not been heard of for {duration(silent)}: it may be paused."
        if run.live and silent > STALLED_S
        else ""
    )


async def _outcome(job: Job, state: AppState) -> dict[str, Any]:
    """The result or the error of a job that has ended."""
    if not job.task.done() or job.task.cancelled():
        return {}
    error = job.task.exception()
    if isinstance(error, Exception | SystemExit):
        return {"error": refusal(job.tool, error)}
    reply = job.task.result()
    return {"result": await kept_document(state, reply, tool=job.tool, request=job.request)}


async def _rows(state: AppState) -> list[JobRow]:
    """The live ones first, then the newest."""
    runs = await state.ask(Runs.all)
    rows = [_run_row(run) for run in runs] + [_row(job) for job in state.jobs.all()]
    return sorted(rows, key=lambda row: row.state not in LIVE)


async def _rows_if_readable(state: AppState) -> tuple[list[JobRow], list[str]]:
    """The jobs without the trainings, and with a warning, where their table cannot be read: the
    rest of a status is needed then."""
    try:
        return await _rows(state), []
    except SaescopeError as error:
        return [_row(job) for job in state.jobs.all()], [f"{error.message} {error.hint}"]


def _row(job: Job) -> JobRow:
    return JobRow.model_validate(
        {
            "job_id": job.id,
            "tool": job.tool,
            "state": job.state,
            "message": job.message,
            "elapsed_s": job.elapsed_s,
        }
    )


def _run_row(run: Run) -> JobRow:
    row = {
        "job_id": run.id,
        "tool": run.tool,
        "state": run.state,
        "message": run.message,
        "elapsed_s": run.elapsed_s(time.time()),
    }
    return JobRow.model_validate(row)


def _device() -> str:
    """What "auto" means here; this imports torch."""
    with put_aside():
        from saescope.models import pick_device

    return str(pick_device("auto"))


def _loaded(state: AppState) -> list[Loaded]:
    rows: list[Loaded] = []
    for slot in state.models.values():
        place = {
            "device": str(slot.model.device),
            "dtype": str(slot.model.dtype).removeprefix("torch."),
        }
        rows.append(
            Loaded(
                handle=slot.handle,
                kind="model",
                name=slot.model.name,
                weights_bytes=slot.model.weights_bytes,
                **place,
            )
        )
        for entry in [entry for entry in state.saes.values() if entry.slot is slot]:
            name = entry.sae.cfg.metadata.hook_name
            place = {
                "device": str(entry.sae.device),
                "dtype": str(entry.sae.dtype).removeprefix("torch."),
            }
            rows.append(
                Loaded(
                    handle=entry.handle,
                    kind="sae",
                    name=name,
                    weights_bytes=entry.sae.weights_bytes,
                    **place,
                )
            )
        rows += [_loaded_set(entry) for entry in state.sets.values() if entry.slot is slot]
    return rows


def _loaded_set(entry: LoadedSet) -> Loaded:
    """The row of a set, with the bytes that its weights take now."""
    first = entry.sae_set.members[0]
    return Loaded(
        handle=entry.handle,
        kind="set",
        name=f"{first.read_hook} and {len(entry.members) - 1} more",
        device=str(first.storage.device),
        dtype=str(first.storage.dtype).removeprefix("torch."),
        weights_bytes=entry.sae_set.weights_bytes,
    )


def cached_saes(state: AppState) -> list[Cached]:
    """The embedded SAE once its model is on this machine; those loaded before, and all of the
    catalogue, whose files are here."""
    from saescope.catalogue import on_this_machine
    from saescope.embedded import EMBEDDED_MODEL, is_ready

    rows = [Cached(name=f"{EMBEDDED_MODEL} (embedded)", call="load_sae()")] if is_ready() else []
    published = {(entry.release, entry.sae_id) for entry in on_this_machine()}
    known = {
        handle: load for handle, load in state.known.all().items() if _is_here(load[0], published)
    }
    rows += [Cached(name=handle, call=load_call(*load)) for handle, load in known.items()]
    listed = {(source.release, source.sae_id) for source, _ in known.values()}
    fresh = (
        Source(release=release, sae_id=sae_id) for release, sae_id in sorted(published - listed)
    )
    return rows + [
        Cached(name=f"{source.release}/{source.sae_id}", call=load_call(source, Placement()))
        for source in fresh
    ]


def _is_here(source: Source, published: set[tuple[str, str]]) -> bool:
    """Whether the files of an SAE that was loaded before are still there; the embedded one has its
    own row."""
    from saescope.catalogue import is_cached_repository

    if source.path:
        return Path(source.path).exists()
    if "/" in source.release:
        return is_cached_repository(source.release)
    return (source.release, source.sae_id) in published


SERVER_STATUS = Tool(
    server_status,
    ServerStatus,
    READ_ONLY.model_copy(update={"title": "Server status"}),
    group=Group.BASE,
    keeps=nothing,
)
JOB_STATUS = Tool(
    job_status,
    JobStatus,
    READ_ONLY.model_copy(update={"title": "Job status"}),
    group=Group.BASE,
    app=RESULT_APP,
    keeps=nothing,
)
TOOLS = [SERVER_STATUS, JOB_STATUS]
