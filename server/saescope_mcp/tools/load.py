"""load_sae and unload."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mcp.types import ToolAnnotations

from saescope.errors import ArgumentError, OfflineError
from saescope.layers import parse_layers, written
from saescope.progress import silent
from saescope.verdicts import Quality
from saescope_mcp.binding import next_call, nothing
from saescope_mcp.groups import Group
from saescope_mcp.jobs import Job
from saescope_mcp.replies import Tool
from saescope_mcp.replies.facts import provenance
from saescope_mcp.replies.rows import extended
from saescope_mcp.replies.sets import planned_set, set_reply
from saescope_mcp.replies.waiting import still_running
from saescope_mcp.schemas.load import (
    CheckRow,
    IndexFound,
    LoadSae,
    LoadSaeReply,
    Memory,
    ReadyReply,
    Unload,
    UnloadReply,
)
from saescope_mcp.state import (
    AppState,
    Indexed,
    LoadedSAE,
    LoadedSet,
    Placement,
    Source,
    load_call,
    model_name,
    readable,
)
from saescope_mcp.state.loading import (
    Need,
    UnseenSAE,
    by_catalogue,
    load,
    model_of,
    needed,
    peek,
)
from saescope_mcp.state.set_loading import load_set, open_set, set_needed
from saescope_mcp.state.warm import warm

if TYPE_CHECKING:
    from saescope.evals import Check as MeasuredCheck


async def load_sae(state: AppState, request: LoadSae) -> LoadSaeReply:
    """Load an SAE and its language model, before any other tool: a release of find_saes, any
    Hugging Face repository as "owner/name", or a local folder or file in any known format (SAELens,
    Gemma Scope and 15 more); without arguments the embedded SmolLM2-135M SAE (first use downloads
    93 MB). Returns the handle `sae` for the other tools ("smollm2-135m/14.resid_post"), and a
    check on a probe text: read its verdict. Longer than wait_s: call job_status."""
    look_up = partial(source_of, request, state)
    source = (
        await state.loaders.run(look_up) if request.release else look_up()
    )  # the catalogue takes a moment to be read
    placement = Placement(request.device, request.dtype, request.allow_mismatch, request.up_to_site)
    if request.scan and request.up_to_site:
        raise ArgumentError(
            "scan measures every layer, and up_to_site leaves those after the site out.",
            code="CONFLICTING_ARGUMENTS",
            field="scan",
            got=True,
            allowed="false with up_to_site",
            hint="Call load_sae again without one of them.",
        )
    if request.layers:
        return await _load_layers(state, request, source, placement)
    if request.dry_run:
        return await _plan(state, source, placement)
    there = state.loaded_from(source, placement)
    if there and (there.scanned or not request.scan):
        return await loaded_reply(state, there)

    async def work(job: Job) -> LoadSaeReply:
        entry = await load(state, source, placement, job.say)
        if request.scan:
            job.say("measuring every layer")
            await scan(state, entry)
        return await loaded_reply(state, entry)

    job = state.jobs.start("load_sae", (source, request.scan), request, work)
    again = load_call(source, placement)
    done = await state.jobs.outcome(job, request.wait_s, again=again)
    if done is None:
        return _running(job)
    there = state.loaded_from(source, placement)  # a call that named it may have begun the load
    return await loaded_reply(state, there) if there else done


async def unload(state: AppState, request: Unload) -> UnloadReply:
    """Free the memory of an SAE, or of a model with all its SAEs, when a load does not fit or work
    is done. Waits for a running call. Nothing on disk is touched; the handle stays known and loads
    again."""
    freed, names, kept = await state.unload(request.handle)
    done = [f"Unloaded {', '.join(names)}: {freed / 1e6:,.0f} MB freed."] if names else []
    if kept:
        used = f"another client has used {'it' if len(kept) == 1 else 'them'} within half an hour"
        done.append(f"{', '.join(kept)}: let go of for you, but stays in memory, since {used}.")
    return UnloadReply(
        summary=" ".join(done) or f"{request.handle} was not loaded; nothing to free.",
        handle=request.handle,
        freed_bytes=freed,
        unloaded=names,
        next=["server_status()"],
    )


def source_of(request: LoadSae, state: AppState) -> Source:
    """What the request names, with paths resolved and checked, and one name for an SAE that the
    catalogue has under several."""
    from saescope.hub import first_name

    release, sae_id = request.release, request.sae_id
    if release and not request.layers:
        release, sae_id = first_name(release, sae_id)
    return Source(
        release=release,
        sae_id=sae_id,
        path=readable(request.path, state.settings, "path") if request.path else "",
        model=model_name(request.model, state.settings),
        hook_name=request.hook_name,
        revision=request.revision,
        gate=request.gate,
        layers=_layers(request.layers),
    )


def _layers(layers: str) -> str:
    """Write them as everybody does: "0-2,7"."""
    chosen = parse_layers(layers) if layers else frozenset()
    return "all" if chosen is None else written([*chosen])


async def _load_layers(
    state: AppState, request: LoadSae, source: Source, placement: Placement
) -> LoadSaeReply:
    """The SAEs of several layers as one set."""
    for field in ("scan", "up_to_site"):
        if getattr(request, field):
            raise ArgumentError(
                f"{field} is for one SAE; a set has one for each layer.",
                code="INVALID_CHOICE",
                field=field,
                got=True,
                allowed="false with layers",
                hint=f"Call load_sae again without {field}.",
            )
    if request.dry_run:
        return await _plan_layers(state, source, placement)

    def reply(entry: LoadedSet) -> LoadSaeReply:
        state.holds.take(entry.handle)
        return set_reply(entry, state.room(str(entry.model.device)), request)

    if there := state.set_from(source, placement):
        return reply(there)

    async def work(job: Job) -> LoadSaeReply:
        return reply(await load_set(state, source, placement, job.say))

    job = state.jobs.start("load_sae", (source, False), request, work)
    again = load_call(source, placement)
    return await state.jobs.outcome(job, request.wait_s, again=again) or _running(job)


async def scan(state: AppState, entry: LoadedSAE) -> None:
    """Check the SAE once more, with the CE score at every layer."""
    from saescope.evals import check_sae

    published = entry.sae.cfg.metadata.published_l0
    async with state.use(entry.handle) as loaded:
        loaded.check = await loaded.slot.run(
            partial(check_sae, loaded.model, loaded.sae, published_l0=published, scan=True)
        )


async def loaded_reply(state: AppState, entry: LoadedSAE) -> LoadSaeReply:
    from saescope.evals import what_a_score_means

    state.holds.take(entry.handle)
    cfg, check, indexed = entry.sae.cfg, entry.check, await entry.indexed()
    room = state.room(str(entry.model.device))
    need = entry.sae.weights_bytes + entry.model.weights_bytes
    kind = LoadSaeReply if check.verdict.level is Quality.WRONG else ReadyReply
    return kind(
        summary=f"Ready: {cfg.architecture}, {cfg.d_sae} features. Check: "
        f"{_judged(check)}. {_peak(check, cfg.metadata.hook_name)}{_said_of(indexed)}",
        warnings=[
            *entry.warnings,
            *what_a_score_means(check.clean_loss, check.ablation_cost),
            *indexed.passed_over,
            *(indexed.best.warnings if indexed.best else []),
        ],
        next=_after(entry),
        evidence="observed",
        provenance=provenance(entry),
        state="done",
        sae=entry.handle,
        model=entry.model.name,
        dialect=entry.dialect,
        revision=entry.revision or None,
        architecture=cfg.architecture,
        hook_name=cfg.metadata.hook_name,
        d_in=cfg.d_in,
        d_sae=cfg.d_sae,
        k=getattr(cfg, "k", None),
        weights_bytes=entry.sae.weights_bytes,
        memory=Memory(need=need, free=room.free, budget=room.budget),
        check=extended(
            CheckRow,
            check,
            verdict=str(check.verdict),
            layers=check.layers if entry.scanned else (),
        ),
        index=indexed.best and extended(IndexFound, indexed.best.manifest),
    )


def _judged(check: "MeasuredCheck") -> str:
    """The verdict, with its reasons where it is not simply good."""
    level = check.verdict.level
    return level.value if level is Quality.GOOD else str(check.verdict)


def _peak(check: "MeasuredCheck", hook_name: str) -> str:
    """Which layer fits best, where that is another than the SAE's own."""
    if check.peak is None or check.peak.hook_name == hook_name:
        return ""
    return (
        f"Of the site's {len(check.layers)} layers it explains most at {check.peak.hook_name} "
        f"({check.peak.explained_variance:.2f}). "
    )


def _after(entry: LoadedSAE) -> list[str]:
    """What to do with an SAE that fits; one that does not is no good for anything."""
    if entry.check.verdict.level is Quality.WRONG:
        return [
            next_call("unload", handle=entry.handle),
            next_call("find_saes", model=entry.model.name),
        ]
    return [next_call("top_features", sae=entry.handle, text="...")]


def _said_of(indexed: Indexed) -> str:
    if indexed.best is None:
        return "No index yet."
    made = indexed.best.manifest
    return f"Its index of {made.n_tokens:,} tokens of {made.dataset} was found."


def _running(job: Job) -> LoadSaeReply:
    return LoadSaeReply(**still_running(job, "The load"))


async def _plan_layers(state: AppState, source: Source, placement: Placement) -> LoadSaeReply:
    await state.loaders.run(warm)
    opening = partial(open_set, source, placement, state.settings, silent)
    opened = await state.loaders.run(opening)
    model, warnings = model_of(source, opened.model_name, state)
    slot = state.slot_of(model, placement)
    need = await state.loaders.run(partial(set_needed, state, opened, model, placement, slot))
    call = load_call(source, placement)
    return planned_set(opened, need, state.room(need.model.device), model, [*warnings], call)


async def _plan(state: AppState, source: Source, placement: Placement) -> LoadSaeReply:
    try:
        info = await state.loaders.run(partial(peek, source, state.settings))
    except OfflineError:
        if unseen := await state.loaders.run(partial(by_catalogue, source, placement)):
            return _unseen(state, source, placement, unseen)
        raise
    model, warnings = model_of(source, info.cfg.metadata.model_name, state)
    need = await state.loaders.run(
        partial(needed, state, info, model, placement, state.slot_of(model, placement))
    )
    room, cfg = state.room(need.device), info.cfg
    total = need.sae_bytes + (need.model_bytes or 0)
    fits = False if total > room.free else None if need.model_bytes is None else True
    known = next(
        (handle for handle, (other, _) in state.known.all().items() if other == source), None
    )
    return LoadSaeReply(
        summary=f"Dry run: {cfg.architecture} SAE with {cfg.d_sae} features at "
        f"{cfg.metadata.hook_name}, format {info.dialect}. {_size(total, room.free, fits)}"
        + _in_half(need, room.free, fits),
        warnings=[
            *warnings,
            *_foreign(source),
            *([cfg.metadata.note] if cfg.metadata.note else []),
            *_pickles(info.files, state),
        ],
        next=_planned_next(source, placement),
        state="planned",
        sae=known,
        model=model,
        dialect=info.dialect,
        revision=info.revision or None,
        architecture=cfg.architecture,
        hook_name=cfg.metadata.hook_name,
        d_in=cfg.d_in,
        d_sae=cfg.d_sae,
        k=getattr(cfg, "k", None),
        weights_bytes=need.sae_bytes,
        memory=Memory(need=total, free=room.free, budget=room.budget),
        fits=fits,
    )


def _unseen(
    state: AppState, source: Source, placement: Placement, unseen: UnseenSAE
) -> LoadSaeReply:
    """The plan for an SAE whose files cannot be downloaded now."""
    entry, need = unseen.entry, unseen.need
    room = state.room(need.device)
    total = need.sae_bytes + (need.model_bytes or 0)
    fits, disk = total <= room.free, unseen.model.disk_bytes + need.sae_bytes
    return LoadSaeReply(
        summary=f"Dry run: {entry.release}/{entry.sae_id} is published, its files are not here and "
        "cannot be downloaded now. By the catalogue and known sizes: "
        f"{_size(total, room.free, fits)}{_in_half(need, room.free, fits)} "
        f"Its download would take about {disk / 1e9:.2g} GB of disk.",
        # the load itself needs a network: what is here comes first
        next=[next_call("server_status"), load_call(source, placement)],
        state="planned",
        model=unseen.model.name,
        architecture=entry.architecture or None,
        hook_name=entry.hook_name or None,
        d_in=unseen.model.d_model,
        d_sae=entry.d_sae,
        weights_bytes=need.sae_bytes,
        memory=Memory(need=total, free=room.free, budget=room.budget),
        fits=fits,
    )


def _in_half(need: Need, free: int, fits: bool | None) -> str:
    """What half precision would change where float32 does not fit."""
    if fits is not False or need.model_bytes is None or need.device != "cpu":
        return ""
    half = (need.sae_bytes + need.model_bytes) // 2
    does = "fits" if half <= free else "does not fit either"
    return f' With dtype="bfloat16" {half / 1e6:,.0f} MB: that {does}.'


def _is_foreign(source: Source) -> bool:
    """Whether the call names a model and no SAE, so that the embedded SAE is meant, which is of
    another one."""
    from saescope.catalogue.spelling import canonical_model
    from saescope.embedded import EMBEDDED_HANDLE, EMBEDDED_MODEL

    own = {canonical_model(EMBEDDED_MODEL), EMBEDDED_HANDLE}
    named = source.model and not Path(source.model).exists()
    return (
        bool(named)
        and not (source.release or source.path)
        and canonical_model(source.model) not in own
    )


def _foreign(source: Source) -> list[str]:
    if not _is_foreign(source):
        return []
    return [f"The embedded SAE is not of {source.model}: find_saes lists those that are."]


def _planned_next(source: Source, placement: Placement) -> list[str]:
    if _is_foreign(source):
        return [next_call("find_saes", model=source.model)]
    return [load_call(source, placement)]


def _size(total: int, free: int, fits: bool | None) -> str:
    mb, there = (
        f"{total / 1e6:,.0f} MB",
        f"{free / 1e6:,.0f} MB of the budget are free. Nothing was loaded.",
    )
    if fits is None:
        return (
            f"Loading would take {mb} and a model whose size is not known before its "
            f"download; {there}"
        )
    return f"Loading would take {mb}: it {'fits' if fits else 'does not fit'}; {there}"


def _pickles(files: tuple[str, ...], state: AppState) -> list[str]:
    names = [name.rpartition("/")[2] for name in files if name.endswith((".pt", ".pth"))]
    if not names or state.settings.allow_pickle:
        return []
    return [
        f"{names[0]} is a pickle: unless it was converted before, it loads only where "
        "SAESCOPE_ALLOW_PICKLE=1 is set."
    ]


TOOLS = [
    Tool(
        load_sae,
        LoadSae,
        ToolAnnotations(
            title="Load an SAE",
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=True,
        ),
        group=Group.BASE,
    ),
    Tool(
        unload,
        Unload,
        ToolAnnotations(
            title="Free memory",
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=False,
        ),
        group=Group.BASE,
        keeps=nothing,
    ),
]
