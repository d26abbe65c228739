"""publish_sae."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mcp.types import ToolAnnotations

from saescope.errors import ArgumentError, NotFoundError, OfflineError
from saescope.progress import Say
from saescope_mcp.binding import next_call
from saescope_mcp.groups import Group
from saescope_mcp.jobs import Job, Runs
from saescope_mcp.replies import Tool, by_itself
from saescope_mcp.replies.tool import load_named
from saescope_mcp.replies.waiting import result_or_job, still_running
from saescope_mcp.schemas.publish import PublishSae, PublishSaeReply
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState, Source, writable
from saescope_mcp.state.loading import read_sae
from saescope_mcp.state.measured import recall

if TYPE_CHECKING:
    from saescope.evals import Evaluation
    from saescope.publish import Loading, Publication
    from saescope.saes import SAE


async def publish_sae(state: AppState, request: PublishSae) -> PublishSaeReply:
    """Write an SAE, with a model card (metrics, provenance, how to load it), into a new folder or a
    Hugging Face repository, in a layout that sae-lens and saescope load. A dry run unless
    dry_run=false: show the user what would be written where, and ask. Nothing is overwritten. Run
    evaluate_sae before. The token comes from HF_TOKEN. With features: these alone, in
    Neuronpedia's formats (its export, uploads, a list)."""
    if request.repo_id and state.settings.offline:
        raise OfflineError(
            "A repository needs the network, which SAESCOPE_OFFLINE forbids.",
            field="repo_id",
            hint="Call publish_sae again with path, a new folder, in place of repo_id.",
        )
    path = writable(request.path, state.settings, "path") if request.path else ""
    if request.features:
        return await _features(state, request, path)
    given, model = await _given(state, request), await _local_model(state, request)

    async def work(job: Job) -> PublishSaeReply:
        job.say("reading the SAE")
        publishing = partial(_publish, given, request, path=path, model=model)
        return await state.loaders.run(partial(publishing, settings=state.settings, say=job.say))

    again = "Call publish_sae again."
    done, job = await result_or_job(state, request, work, tool="publish_sae", again=again)
    return done or PublishSaeReply(**still_running(job, "The publication"))


async def _prepare(state: AppState, request: PublishSae) -> None:
    """Features are described in the loaded SAE; weights alone are read by the tool itself."""
    await (load_named if request.features else by_itself)(state, request)


async def _features(state: AppState, request: PublishSae, path: str) -> PublishSaeReply:
    """Features of a loaded SAE as files that Neuronpedia reads."""
    async with state.use(request.sae) as loaded:
        from saescope.features import export_features

        done = await loaded.slot.run(
            partial(
                export_features,
                loaded.model,
                loaded.sae,
                request.features,
                folder=path,
                index=(await loaded.indexed()).best,
                dry_run=request.dry_run,
            )
        )
    size = sum(file.n_bytes for file in done.files)
    amount = (
        f"{done.n_features} features, {done.n_examples} examples and {done.n_labels} labels of "
        f"{done.neuronpedia_id} in {len(done.files)} files, {size / 1e3:,.1f} kB"
    )
    shown = f" Neuronpedia shows them side by side: {done.url}"
    hosted = bool(loaded.sae.cfg.metadata.neuronpedia_id)
    return PublishSaeReply(
        summary=f"Written to {done.folder}: {amount}.{shown if hosted else ''}"
        if done.written
        else f"Dry run: {amount} would be written to {done.folder}.",
        warnings=[*done.warnings],
        next=[] if done.written else [_again(request)],
        state="done" if done.written else "planned",
        target=str(done.folder),
        files=[*done.files],
        total_bytes=size,
    )


async def _given(state: AppState, request: PublishSae) -> "Source | SAE":
    """The SAE itself if it is loaded, else where it comes from."""
    if request.job_id:
        run = await state.ask(Runs.get, request.job_id)
        if run.state != "done" or "path" not in run.result:
            raise ArgumentError(
                f"{run.id} has no SAE: it is {run.state}.",
                code="JOB_NOT_DONE",
                field="job_id",
                got=run.id,
                hint=next_call("job_status", job_id=run.id, wait_s=30),
            )
        return Source(path=run.result["path"], model=run.settings["model"])
    if request.sae in state.saes:
        return state.saes[request.sae].sae
    known = state.known.all().get(request.sae)
    if known is None:
        raise NotFoundError(
            f"There is no SAE called {request.sae!r}.",
            code="SAE_NOT_LOADED",
            field="sae",
            got=request.sae,
            allowed=", ".join(state.known.all()) or "none yet",
            hint="Call server_status(): it lists what can be loaded.",
        )
    return known[0]


async def _local_model(state: AppState, request: PublishSae) -> str:
    """The folder or file of the model, which the published name does not tell; empty for a model of
    the hub."""
    if request.job_id:
        model = (await state.ask(Runs.get, request.job_id)).settings["model"]
    else:
        known = state.known.all().get(request.sae)
        model = known[0].model if known else ""
    return model if model and Path(model).exists() else ""


def _publish(
    given: "Source | SAE",
    request: PublishSae,
    *,
    path: str,
    model: str,
    settings: Settings,
    say: Say,
) -> PublishSaeReply:
    from saescope import publish

    sae = read_sae(given, "cpu", "auto", settings, say) if isinstance(given, Source) else given
    evaluation = recall(sae.weights_hash)
    done = publish.publish_sae(
        sae,
        path=path,
        repo_id=request.repo_id,
        sae_id=request.sae_id,
        evaluation=evaluation,
        private=request.private,
        dry_run=request.dry_run,
    )
    return _reply(
        request, replace(done, load=_with_model(done.load, model)) if model else done, evaluation
    )


def _with_model(load: "Loading", model: str) -> "Loading":
    """The calls for this machine, where the model is a folder."""
    quoted = json.dumps(model)
    return load._replace(
        tool=f"{load.tool[:-1]}, model={quoted})", command=f"{load.command} --model {quoted}"
    )


def _reply(
    request: PublishSae, done: "Publication", evaluation: "Evaluation | None"
) -> PublishSaeReply:
    size = sum(file.n_bytes for file in done.files)
    missing = (
        [] if evaluation else ["The model card has no metrics: run evaluate_sae on this SAE first."]
    )
    amount = f"{len(done.files)} files, {size / 1e6:,.1f} MB"
    return PublishSaeReply(
        summary=f"Published to {done.target}: {amount}."
        if done.written
        else f"Dry run: {amount} would be written to {done.target}.",
        warnings=[*done.warnings, *missing],
        next=[done.load.tool] if done.written else [_again(request)],
        state="done" if done.written else "planned",
        target=done.target,
        files=[*done.files],
        total_bytes=size,
        private=done.private,
        load_call=done.load.tool,
        load_command=done.load.command,
        load_python=done.load.saescope,
        load_sae_lens=done.load.sae_lens or None,
        commit=done.commit or None,
        evaluated=evaluation is not None,
    )


def _again(request: PublishSae) -> str:
    given = request.model_dump(include=request.model_fields_set - {"wait_s", "response_format"})
    return next_call("publish_sae", **given | {"dry_run": False})


TOOLS = [
    Tool(
        publish_sae,
        PublishSae,
        ToolAnnotations(
            title="Publish an SAE",
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=False,
            open_world_hint=True,
        ),
        group=Group.PUBLISH,
        prepare=_prepare,
    )
]
