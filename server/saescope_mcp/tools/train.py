"""train_sae."""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from mcp.types import ToolAnnotations

from saescope.embedded import EMBEDDED_HANDLE
from saescope.errors import ConfigError
from saescope.names import home
from saescope_mcp.binding import next_call
from saescope_mcp.groups import Group
from saescope_mcp.jobs import Run, Runs
from saescope_mcp.kinds import TRAINING, ended, error_of
from saescope_mcp.kinds.training import planned, train_reply
from saescope_mcp.replies import RESULT_APP, Tool
from saescope_mcp.schemas.train import TrainPlan, TrainSae, TrainSaeReply
from saescope_mcp.settings import Settings
from saescope_mcp.state import (
    AppState,
    dataset_name,
    model_name,
    said_roots,
    trained_saes,
)
from saescope_mcp.state.slots import ModelSlot
from saescope_mcp.state.warm import put_aside

if TYPE_CHECKING:
    from saescope.catalogue import ModelSize
    from saescope.training import Unseen


async def train_sae(state: AppState, request: TrainSae) -> TrainSaeReply:
    """Train an SAE (with hook_name_out a transcoder), or many in one pass (layers), on your own
    model and text. First
    dry_run=true: it measures for some seconds and says time, memory and disk, and what to change if
    it does not fit; show that to the user. The run is a job in a separate process that survives
    this server: job_status, cancel_job; cut off, it resumes with resume=job_id. Then load it, and
    evaluate_sae. Use a million tokens or more."""
    if request.resume:
        run = await _resume(state, request)
    else:
        prepared = await _prepared(state, request)
        if unseen := await _unseen(state, request):
            return unseen
        run = await state.ask(
            Runs.start,
            tool=TRAINING.tool,
            name=request.name,
            **prepared,
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
            "up_to_site": True,
            "offline": settings.offline,
            "sink_factor": settings.sink_factor,
            "roots": [str(root) for root in settings.read_roots],
            "fence": said_roots(settings),
        },
    }


async def _unseen(state: AppState, request: TrainSae) -> TrainSaeReply | None:
    """What a dry run says of a model that is not here: an estimate, for which nothing is
    fetched."""
    from saescope.catalogue import find_saes, is_model_here, model_size

    name, size = request.model, model_size(request.model) if request.model else None
    if not request.dry_run or size is None or any(name in s.names for s in state.models.values()):
        return None
    if Path(name).expanduser().exists() or is_model_here(name):
        return None
    unseen = await state.loaders.run(partial(_plan_unseen, request, size))
    if unseen is None:
        return None
    cfg, plan = unseen
    said = {name: value for name, value in asdict(plan).items() if name != "warnings"}
    said |= {key: getattr(cfg, key) for key in ("n_steps", "d_in", "d_sae", "context_size")}
    said |= {"lr": cfg.chosen.lr, "device": request.device}
    published = find_saes(model=name, limit=1).total
    return TrainSaeReply(
        summary=f"Dry run: {name} is not on this machine. By known sizes: {planned(said)} "
        f"{published:,} published SAEs fit it. Nothing was downloaded or started.",
        warnings=plan.warnings,
        next=[next_call("train_sae", **request.given)] * plan.fits
        + [next_call("find_saes", model=name)] * bool(published),
        state="planned",
        plan=TrainPlan(**said),
    )


def _plan_unseen(request: TrainSae, size: "ModelSize") -> "Unseen | None":
    from saescope.models import pick_device
    from saescope.training import asked_of, plan_unseen

    said = asked_of(request.run, request.options)
    return plan_unseen(said, size, device=pick_device(request.device), folder=home())


def _idle_slot(state: AppState, model: str) -> ModelSlot | None:
    """The model where it is loaded and no call is at work on it: for a look at its sites nobody
    waits."""
    slot = next((slot for slot in state.models.values() if model in slot.names), None)
    return None if slot is None or slot.lock.locked() else slot


def _look(
    dataset: str, model: str, request: TrainSae, settings: Settings, slot: ModelSlot | None
) -> None:
    """Raises what is wrong with the settings, the sites, the text, or where the SAE is to go."""
    with put_aside():
        from saescope.activations import open_dataset, require_text
        from saescope.checkpoints import require_writable
        from saescope.models import peek_n_layers
        from saescope.training import (
            asked_of,
            check_run,
            check_together,
            mode_of_wandb,
            require_logger,
        )

    asked, roots = asked_of(request.run, request.options), list(settings.read_roots)
    mode = mode_of_wandb(offline=settings.offline)
    require_logger(asked.settings.get("logger", "none"), wandb_mode=mode)
    loaded, n_layers = slot and slot.model, peek_n_layers(model)
    check_run(asked, model=loaded, n_layers=n_layers, device=request.device)
    check_together(asked, request.nproc, request.launcher, device=request.device)
    require_text(
        open_dataset(dataset, text_column=asked.settings.get("text_column", ""), roots=roots)
    )
    require_writable(trained_saes())


async def _resume(state: AppState, request: TrainSae) -> Run:
    run = await state.ask(Runs.get, request.resume)
    if run.dry_run:
        raise ConfigError(
            "A dry run cannot be resumed.",
            field="resume",
            got=run.id,
            hint="Call train_sae again without resume.",
        )
    before = TrainSae.model_validate(run.request).run
    differs = {
        name: before[name]
        for name, value in request.given.items()
        if name in before and before[name] != value
    }
    if differs:
        raise ConfigError(
            f"The run {run.id} was started with other settings: "
            f"{', '.join(f'{name}={value!r}' for name, value in differs.items())}.",
            code="RESUME_MISMATCH",
            field=next(iter(differs)),
            hint=f"Call {next_call('train_sae', resume=run.id)}, or start a new run without "
            "resume.",
        )
    if request.dry_run or run.live or run.state == "done":
        return run
    further = TrainSae.model_validate(run.request | request.processes)
    await state.loaders.run(partial(_look_at_processes, further))
    run = replace(run, request=further.given)
    return await state.ask(Runs.resume, run, most_live=1 + state.settings.max_queued_jobs)


def _look_at_processes(request: TrainSae) -> None:
    from saescope.training import asked_of, check_together

    asked = asked_of(request.run, request.options)
    check_together(asked, request.nproc, request.launcher, device=request.device)


async def _wait(state: AppState, run: Run, request: TrainSae) -> Run:
    """Until the plan is there, then until the end or as long as was asked for."""
    if request.resume and request.dry_run:
        return run
    asked = "wait_s" in request.model_fields_set
    plan_s = request.wait_s if asked else max(request.wait_s, state.settings.plan_wait_s)
    return await ended(state, run, within_s=lambda run: request.wait_s if run.plan else plan_s)


_START = ToolAnnotations(
    title="Train an SAE",
    read_only_hint=False,
    destructive_hint=False,
    idempotent_hint=False,
    open_world_hint=True,
)
TOOLS = [Tool(train_sae, TrainSae, _START, group=Group.TRAIN, app=RESULT_APP)]
