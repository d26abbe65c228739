"""load_sae and unload."""

from functools import partial

from mcp.types import ToolAnnotations

from saescope.errors import Cancelled
from saescope_mcp.jobs import Job
from saescope_mcp.schemas.load import Check, LoadSae, LoadSaeReply, Memory, Unload, UnloadReply
from saescope_mcp.state import AppState, LoadedSAE, Placement, Source, load_call, model_name, readable
from saescope_mcp.tool import Tool, next_call
from saescope_mcp.tool.facts import provenance


async def load_sae(state: AppState, request: LoadSae) -> LoadSaeReply:
    """Load an SAE and its language model, before any other tool; without arguments the embedded SmolLM2-135M SAE (first use
    downloads 93 MB). Returns the handle `sae` that the other tools take, and a check of the SAE on a probe text: read its verdict. A load
    that takes longer than wait_s goes on as a job: call job_status. Loading the same thing twice is free."""
    source = source_of(request, state)
    placement = Placement(request.device, request.dtype, request.allow_mismatch)
    if request.dry_run:
        return await _plan(state, source, placement)
    there = state.loaded_from(source, placement)
    if there:
        return loaded_reply(state, there)

    async def work(job: Job) -> LoadSaeReply:
        return loaded_reply(state, await state.load(source, placement, job))

    job = state.jobs.start("load_sae", source, request, work)
    await state.jobs.wait(job, request.wait_s)
    if job.task.cancelled():
        raise Cancelled(f"The load {job.id} was cancelled.", hint=load_call(source, placement))
    return job.task.result() if job.task.done() else _running(job)


async def unload(state: AppState, request: Unload) -> UnloadReply:
    """Free the memory of an SAE, or of a model with all its SAEs, when a load does not fit or work is done. Waits for a running call.
    Nothing on disk is touched; the handle stays known and loads again."""
    freed, names = await state.unload(request.handle)
    done = f"Unloaded {', '.join(names)}: {freed / 1e6:,.0f} MB freed." if names else f"{request.handle} was not loaded; nothing to free."
    return UnloadReply(summary=done, handle=request.handle, freed_bytes=freed, unloaded=names, next=["server_status()"])


def source_of(request: LoadSae, state: AppState) -> Source:
    """What the request names, with paths resolved and checked."""
    path = readable(request.path, state.settings, "path") if request.path else ""
    return Source(request.release, request.sae_id, path, model_name(request.model, state.settings), request.hook_name)


def loaded_reply(state: AppState, entry: LoadedSAE) -> LoadSaeReply:
    cfg, check = entry.sae.cfg, entry.check
    room = state.room(str(entry.model.device))
    need = entry.sae.weights_bytes + entry.model.weights_bytes
    quality = [f"explained variance {check.explained_variance:.2f}"] if check.explained_variance is not None else []
    quality += [f"CE score {check.ce_score:.2f}"] if check.ce_score is not None else []
    return LoadSaeReply(
        summary=f"{entry.handle} is ready: {cfg.architecture} SAE with {cfg.d_sae} features at {cfg.metadata.hook_name} "
        f"of {entry.model.name}. On the probe text: {', '.join([f'L0 {check.l0:.1f}', *quality])}; {check.verdict}.",
        warnings=[*entry.warnings],
        next=[next_call("top_features", sae=entry.handle, text="..."), next_call("attribute_logit", sae=entry.handle, prompt="...")],
        evidence="observed",
        provenance=provenance(entry),
        state="done",
        sae=entry.handle,
        model=entry.model.name,
        architecture=cfg.architecture,
        hook_name=cfg.metadata.hook_name,
        d_in=cfg.d_in,
        d_sae=cfg.d_sae,
        k=getattr(cfg, "k", None),
        weights_bytes=entry.sae.weights_bytes,
        memory=Memory(need=need, free=room.free, budget=room.budget),
        check=Check(
            n_tokens=check.n_tokens,
            l0=check.l0,
            explained_variance=check.explained_variance,
            ce_score=check.ce_score,
            verdict=check.verdict,
        ),
    )


def _running(job: Job) -> LoadSaeReply:
    return LoadSaeReply(
        summary=f"The load goes on as {job.id}: {job.message}.",
        state="running",
        job_id=job.id,
        next=[next_call("job_status", job_id=job.id, wait_s=30)],
    )


async def _plan(state: AppState, source: Source, placement: Placement) -> LoadSaeReply:
    from saescope_mcp.state.loading import in_memory, model_bytes, model_of, peek

    info = await state.workers.run(partial(peek, source, offline=state.settings.offline))
    model, warnings = model_of(source, info, state)
    there = state.slot_of(model, placement)
    model_size = 0 if there else in_memory(await state.workers.run(partial(model_bytes, model)), placement)
    weights_bytes = in_memory(info.weights_bytes, placement)
    room, cfg = state.room(), info.cfg
    known = next((handle for handle, (other, _) in state.known.all().items() if other == source), None)
    size = f"{(weights_bytes + model_size) / 1e6:,.0f} MB" + (
        "" if there or model_size else " and a model whose size is known only once it is downloaded"
    )
    return LoadSaeReply(
        summary=f"Dry run: loading would take {size}; {room.free / 1e6:,.0f} MB of the budget are free. Nothing was loaded.",
        warnings=warnings,
        next=[load_call(source, placement)],
        state="planned",
        sae=known,
        model=model,
        architecture=cfg.architecture,
        hook_name=source.hook_name or cfg.metadata.hook_name,
        d_in=cfg.d_in,
        d_sae=cfg.d_sae,
        k=getattr(cfg, "k", None),
        weights_bytes=weights_bytes,
        memory=Memory(need=weights_bytes + model_size, free=room.free, budget=room.budget),
    )


TOOLS = [
    Tool(
        load_sae,
        LoadSae,
        ToolAnnotations(title="Load an SAE", read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=True),
    ),
    Tool(
        unload,
        Unload,
        ToolAnnotations(title="Free memory", read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False),
    ),
]
