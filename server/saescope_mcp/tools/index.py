"""index_features."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mcp.types import ToolAnnotations

from saescope.errors import ArgumentError
from saescope_mcp.binding import next_call
from saescope_mcp.groups import Group
from saescope_mcp.jobs import RESUMABLE, Run, Runs
from saescope_mcp.kinds import INDEXING, ended, error_of, kind_of
from saescope_mcp.kinds.indexing import index_reply
from saescope_mcp.replies import Tool
from saescope_mcp.schemas.index import IndexFeatures, IndexFeaturesReply
from saescope_mcp.state import AppState, LoadedSAE, dataset_name, said_roots

_SAME = ("saes", "model", "model_fingerprint", "dataset", "text")
"""Settings that decide whether a run is the one that is asked for."""


async def index_features(state: AppState, request: IndexFeatures) -> IndexFeaturesReply:
    """Read a corpus once and keep for every feature of a loaded SAE densities, maxima, examples,
    co-firing partners and quiz texts: what describe_feature, quiz_feature and units rest on.
    Once per SAE and corpus; load_sae finds it. A job: follow it with job_status; the same call
    resumes it where it was cut off."""
    loaded = [state.require(handle) for handle in dict.fromkeys([request.sae, *request.also])]
    _require_one_model(loaded)
    settings = await _settings(state, loaded, request)
    run = await _begun(state, request, settings)
    run = await ended(state, run, within_s=lambda _: request.wait_s)
    if run.state == "failed":
        if not run.checkpoint:
            await state.ask(Runs.forget, run.id)
        raise error_of(run)
    return index_reply(run)


def _require_one_model(loaded: list[LoadedSAE]) -> None:
    other = next((entry for entry in loaded if entry.slot is not loaded[0].slot), None)
    if other:
        raise ArgumentError(
            f"{other.handle} is on another model than {loaded[0].handle}.",
            code="OTHER_MODEL",
            field="also",
            got=other.handle,
            allowed=f"SAEs of {loaded[0].slot.handle}",
            hint=next_call("index_features", sae=other.handle),
        )


async def _settings(
    state: AppState, loaded: list[LoadedSAE], request: IndexFeatures
) -> dict[str, Any]:
    """What the worker needs to load the same again, and everything that can be refused before one
    is started."""
    settings, slot = state.settings, loaded[0].slot
    dataset = dataset_name(request.dataset, settings)
    await state.loaders.run(partial(_look, dataset, request, loaded, list(settings.read_roots)))
    return {
        "model": min(slot.names),
        "model_handle": slot.handle,
        "model_fingerprint": await state.loaders.run(partial(_fingerprint_of, loaded)),
        "up_to": _hooks_of(loaded),
        "device": str(slot.model.device),
        "dtype": str(slot.model.dtype).removeprefix("torch."),
        "saes": [
            {
                "sae": entry.handle,
                "weights_hash": entry.weights_hash,
                "source": asdict(entry.source),
                "dtype": str(entry.sae.dtype).removeprefix("torch."),
            }
            for entry in loaded
        ],
        "dataset": dataset,
        "text": _fingerprint(dataset),
        "offline": settings.offline,
        "sink_factor": settings.sink_factor,
        "allow_pickle": settings.allow_pickle,
        "roots": [str(root) for root in settings.read_roots],
        "fence": said_roots(settings),
    }


def _look(dataset: str, request: IndexFeatures, loaded: list[LoadedSAE], roots: list[Path]) -> None:
    """Raises what is wrong with the text, with the SAEs together, or where the indexes are to
    go."""
    from saescope.activations import open_dataset, require_text
    from saescope.checkpoints import require_writable
    from saescope.features.index import IndexConfig, shared_bos
    from saescope.features.index.store import index_root

    require_text(open_dataset(dataset, text_column=request.text_column, roots=roots))
    shared_bos(loaded[0].model, [entry.sae for entry in loaded], IndexConfig())
    require_writable(index_root())


def _hooks_of(loaded: list[LoadedSAE]) -> list[str]:
    from saescope.splice import site_hooks

    return sorted({hook for entry in loaded for hook in site_hooks(entry.sae)})


def _fingerprint_of(loaded: list[LoadedSAE]) -> str:
    """The fingerprint of the layers that an index of these rests on."""
    from saescope.models import layers_below, model_fingerprint

    return model_fingerprint(loaded[0].model, layers_below(_hooks_of(loaded)))


def _fingerprint(dataset: str) -> list[list[Any]]:
    """Names, sizes and times of local files: text that has changed is indexed anew."""
    path = Path(dataset)
    if dataset == "embedded" or dataset.startswith("hf:") or not path.exists():
        return []
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [
        [file.name, file.stat().st_size, file.stat().st_mtime_ns]
        for file in files
        if file.is_file()
    ]


async def _begun(state: AppState, request: IndexFeatures, settings: dict[str, Any]) -> Run:
    """The run of these arguments: the one that is live or done, one that was cut off and is
    resumed, or a new one."""
    asked = request.model_dump(exclude={"wait_s", "response_format"}, exclude_defaults=True)
    most_live = 1 + state.settings.max_queued_jobs
    for run in await state.ask(Runs.all):
        if (
            kind_of(run) is not INDEXING
            or run.request != asked
            or any(run.settings.get(name) != settings[name] for name in _SAME)
        ):
            continue
        if run.live or (
            run.state == "done" and all(Path(row["path"]).is_dir() for row in run.result["indexes"])
        ):
            return run
        if run.state in RESUMABLE:
            return await state.ask(Runs.resume, run, most_live=most_live)
    return await state.ask(
        Runs.start,
        tool=INDEXING.tool,
        name="",
        most_live=most_live,
        request=asked,
        settings=settings,
        dry_run=False,
    )


TOOLS = [
    Tool(
        index_features,
        IndexFeatures,
        ToolAnnotations(
            title="Index features over a corpus",
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=True,
        ),
        group=Group.KNOW,
    )
]
