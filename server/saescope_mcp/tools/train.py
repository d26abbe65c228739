"""train_sae."""

import time
from functools import partial
from typing import Any

import anyio
from mcp.types import ToolAnnotations

from saescope.embedded import EMBEDDED_HANDLE
from saescope.errors import ConfigError
from saescope_mcp.jobs import Run, Runs
from saescope_mcp.schemas.common import Provenance
from saescope_mcp.schemas.train import TrainPlan, TrainSae, TrainSaeReply
from saescope_mcp.settings import Settings
from saescope_mcp.state import (
    AppState,
    Placement,
    Source,
    dataset_name,
    load_call,
    model_name,
    said_roots,
    trained_saes,
)
from saescope_mcp.state.slots import ModelSlot
from saescope_mcp.tool import Tool, next_call
from saescope_mcp.tools.runs import LOOK_S, duration, error_of


async def train_sae(state: AppState, request: TrainSae) -> TrainSaeReply:
    """Train an SAE (with hook_name_out a transcoder) on your own model and text. First dry_run=true: it measures for some seconds and says
    time, memory and disk, and what to change if it does not fit; show that to the user. The run is a job in a process of its own that
    survives this server: job_status, cancel_job; cut off, it goes on with resume=job_id. Then load it, and evaluate_sae. Use a million
    tokens or more."""
    if request.resume:
        run = await _resume(state, request)
    else:
        run = await state.ask(
            Runs.start,
            tool="train_sae",
            name=request.name,
            **await _prepared(state, request),
            dry_run=request.dry_run,
        )
    try:
        run = await _wait(state, run, request)
    except anyio.get_cancelled_exc_class():
        if request.dry_run:
            with anyio.CancelScope(shield=True):
                await state.ask(Runs.cancel, run.id)
        raise
    never_began = run.state == "failed" and not run.checkpoint and not request.resume
    if never_began or (run.dry_run and not run.live):
        await state.ask(Runs.forget, run.id)
    if run.state == "failed":
        raise error_of(run)
    return train_reply(run)


def train_reply(run: Run) -> TrainSaeReply:
    """What a run has come to; the same from train_sae, job_status and the command line."""
    latest = run.progress.get("metrics", {}).get("latest")
    provenance = run.result.get("provenance")
    return TrainSaeReply(
        summary=_summary(run),
        warnings=run.warnings,
        next=_next(run),
        evidence="observed" if provenance else None,
        provenance=Provenance(**provenance) if provenance else None,
        state="planned" if run.dry_run and run.state == "done" else run.state,  # type: ignore[arg-type]
        job_id=None if run.dry_run and not run.live else run.id,
        plan=TrainPlan(**run.plan) if run.plan else None,
        sae=run.result.get("sae"),
        path=run.result.get("path") if run.state == "done" else None,
        name=run.name or None,
        n_tokens=run.progress.get("n_tokens"),
        metrics=latest,
        checkpoint=run.checkpoint,
    )


def planned(plan: dict[str, Any]) -> str:
    """A plan in a sentence or two."""
    memory, disk = plan["memory_bytes"] / 1e9, plan["disk_bytes"] / 1e9
    takes = f"{memory:.2g} GB of memory and {disk:.2g} GB of disk"
    if not plan["fits"]:
        change = f" It fits with {' or '.join(plan['change'])}." if plan["change"] else ""
        return f"The run needs {takes}: it does not fit.{change}"
    return f"The run takes about {duration(plan['eta_s'])} at {plan['tokens_per_s']:,.0f} tokens/s, {takes}."


async def _prepared(state: AppState, request: TrainSae) -> dict[str, Any]:
    """What the worker is given, and everything that can be refused before one is started."""
    settings = state.settings
    dataset = dataset_name(request.dataset, settings)
    model = model_name(request.model, settings) or EMBEDDED_HANDLE
    await state.loaders.run(
        partial(_look, dataset, model, request, settings, _idle_slot(state, model))
    )
    if request.name and (trained_saes() / request.name).exists():
        raise ConfigError(
            f"There is an SAE called {request.name!r} already.",
            code="EXISTS",
            field="name",
            got=request.name,
            hint=f'Call train_sae again with name="{request.name}-2", or without a name.',
        )
    return {
        "most_live": 1 + settings.max_queued_jobs,
        "request": request.given,
        "settings": {
            "model": model,
            "dataset": dataset,
            "device": request.device,
            "offline": settings.offline,
            "sink_factor": settings.sink_factor,
            "roots": [str(root) for root in settings.read_roots],
            "fence": said_roots(settings),
        },
    }


def _idle_slot(state: AppState, model: str) -> ModelSlot | None:
    """The model where it is loaded and no call is at work on it: for a look at its sites nobody waits."""
    slot = next((slot for slot in state.models.values() if model in slot.names), None)
    return None if slot is None or slot.lock.locked() else slot


def _look(
    dataset: str, model: str, request: TrainSae, settings: Settings, slot: ModelSlot | None
) -> None:
    """Raises what is wrong with the settings, the sites, the text, or where the SAE is to go."""
    from saescope.activations import open_dataset, require_text
    from saescope.checkpoints import require_writable
    from saescope.models import peek_n_layers
    from saescope.training import check_run, mode_of_wandb, require_logger, run_settings

    said, roots = run_settings(request.run, request.options), list(settings.read_roots)
    mode = mode_of_wandb(offline=settings.offline)
    require_logger(said.get("logger", "none"), wandb_mode=mode)
    loaded, n_layers = slot and slot.model, peek_n_layers(model)
    check_run(said, model=loaded, n_layers=n_layers, device=request.device)
    require_text(open_dataset(dataset, text_column=said.get("text_column", ""), roots=roots))
    require_writable(trained_saes())


async def _resume(state: AppState, request: TrainSae) -> Run:
    run = await state.ask(Runs.get, request.resume)
    if run.dry_run:
        raise ConfigError(
            "A dry run cannot be resumed.",
            field="resume",
            got=run.id,
            hint="Call train_sae without resume.",
        )
    before = TrainSae.model_validate(run.request).run
    differs = {name: before[name] for name, value in request.given.items() if before[name] != value}
    if differs:
        raise ConfigError(
            f"The run {run.id} was started with other settings: {', '.join(f'{name}={value!r}' for name, value in differs.items())}.",
            code="RESUME_MISMATCH",
            field=next(iter(differs)),
            hint=f"{next_call('train_sae', resume=run.id)}, or a new run without resume.",
        )
    if request.dry_run or run.live or run.state == "done":
        return run
    return await state.ask(Runs.resume, run, most_live=1 + state.settings.max_queued_jobs)


async def _wait(state: AppState, run: Run, request: TrainSae) -> Run:
    """Until the plan is there, then until the end or as long as was asked for."""
    if request.resume and request.dry_run:
        return run
    started = time.monotonic()
    while run.live:
        waited = time.monotonic() - started
        if waited >= (
            request.wait_s if run.plan else max(request.wait_s, state.settings.plan_wait_s)
        ):
            break
        await anyio.sleep(LOOK_S)
        run = await state.ask(Runs.get, run.id)
    return run


def _summary(run: Run) -> str:
    plan, step = run.plan, run.progress.get("step", 0)
    at = f"step {step:,} of {run.progress['n_steps']:,}" if run.progress else "the start"
    match run.state:
        case "done" if run.dry_run:
            return f"Dry run: {planned(plan)} Nothing was started."
        case "done":
            latest = run.progress["metrics"]["latest"] or {}
            quality = f": L0 {latest['l0']:.1f}, explained variance {latest['explained_variance']:.2f}, {latest['dead_share']:.1%} dead"
            return f"{run.result['sae']} is trained{quality if latest else ''} (on the last batch). It loads by its handle."
        case "queued":
            return f"{run.id} has not started yet: {run.message}." + (
                f" {planned(plan)}" if plan else ""
            )
        case "running":
            return f"{run.id} is running, at {at}: {run.message}." + (
                f" {planned(plan)}" if plan else ""
            )
        case "failed":
            return f"{run.id} failed at {at}: {run.error.get('message', '')}"
        case _:
            kept = (
                "a complete checkpoint is kept" if run.checkpoint else "there was no checkpoint yet"
            )
            return f"{run.id} is {run.state} at {at}: {kept}."


def _next(run: Run) -> list[str]:
    if run.dry_run and run.state == "done":
        return [next_call("train_sae", **run.request)] if run.plan["fits"] else []
    if run.live:
        return [next_call("job_status", job_id=run.id, wait_s=30)]
    if run.state == "done":
        return [
            load_call(Source(path=run.result["path"], model=run.settings["model"]), Placement()),
            next_call("evaluate_sae", sae=run.result["sae"]),
        ]
    return [next_call("train_sae", resume=run.id)]


_START = ToolAnnotations(
    title="Train an SAE",
    read_only_hint=False,
    destructive_hint=False,
    idempotent_hint=False,
    open_world_hint=True,
)
TOOLS = [Tool(train_sae, TrainSae, _START)]
