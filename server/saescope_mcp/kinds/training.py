"""A training as a kind of job."""

from typing import Any

from pydantic import TypeAdapter

from saescope.progress import duration
from saescope_mcp.binding import next_call
from saescope_mcp.jobs import Run
from saescope_mcp.kinds.kind import Kind, provenance_of, to_go
from saescope_mcp.replies.pictures import of_training
from saescope_mcp.schemas.train import TrainPlan, TrainSae, TrainSaeReply
from saescope_mcp.state import Placement, Source, load_call

PLAN = TypeAdapter(TrainPlan)


def train_reply(run: Run) -> TrainSaeReply:
    """Say what a training has come to."""
    latest = run.progress.get("metrics", {}).get("latest")
    state: Any = "planned" if run.dry_run and run.state == "done" else run.state
    return TrainSaeReply(
        summary=_summary(run),
        warnings=run.warnings,
        next=_next(run),
        **provenance_of(run),
        state=state,
        job_id=None if run.dry_run and not run.live else run.id,
        plan=PLAN.validate_python(run.plan) if run.plan else None,
        sae=run.result.get("sae"),
        saes=run.result.get("saes", []),
        members=run.result.get("members") or run.progress.get("members", []),
        path=run.result.get("path") if run.state == "done" else None,
        name=run.name or None,
        n_tokens=run.progress.get("n_tokens"),
        metrics=latest,
        checkpoint=run.checkpoint,
    )


def planned(plan: dict[str, Any]) -> str:
    """Put a plan into a sentence or two."""
    memory, disk = plan["memory_bytes"] / 1e9, plan["disk_bytes"] / 1e9
    takes = f"{memory:.2g} GB of memory and {disk:.2g} GB of disk"
    if not plan["fits"]:
        change = f" It fits with {' or '.join(plan['change'])}." if plan["change"] else ""
        return f"The run needs {takes}: it does not fit.{change}"
    times = f", the text is read {plan['n_passes']} times" * (plan.get("n_passes", 1) > 1)
    for_all = f" for {plan['n_saes']} SAEs{times}" * (plan.get("n_saes", 1) > 1)
    return (
        f"The run takes about {duration(plan['eta_s'])} at {plan['tokens_per_s']:,.0f} "
        f"tokens/s{for_all}{_measured_under(plan.get('load'))}, {takes}."
    )


def _measured_under(load: float | None) -> str:
    """Under what load of the machine a speed was measured: other work slows it."""
    return "" if load is None else f" (measured under a load of {load:.1f} for each processor)"


def _summary(run: Run) -> str:
    plan, step = run.plan, run.progress.get("step", 0)
    at = f"step {step:,} of {run.progress['n_steps']:,}" if run.progress else "the start"
    match run.state:
        case "done" if run.dry_run:
            return f"Dry run: {planned(plan)} Nothing was started."
        case "done":
            latest = run.progress["metrics"]["latest"] or {}
            if saes := run.result.get("saes"):
                n_all = len(run.result["members"])
                return (
                    f"{len(saes)} of {n_all} SAEs are trained{_spread(latest)}. Each loads by its "
                    "handle."
                )
            quality = (
                f": L0 {latest['l0']:.1f}, explained variance "
                f"{latest['explained_variance']:.2f}, {latest['dead_share']:.1%} dead"
            )
            return (
                f"{run.result['sae']} is trained{quality if latest else ''} (on the last "
                "batch). It loads by its handle."
            )
        case "queued":
            return f"{run.id} has not started yet: {run.message}." + (
                f" {planned(plan)}" if plan else ""
            )
        case "running":
            eta_s = to_go(run)
            left = f" About {duration(eta_s)} to go." if eta_s else ""
            latest = run.progress.get("metrics", {}).get("latest") or {}
            return f"{run.id} is running, at {at}{_spread(latest)}: {run.message}.{left}"
        case "failed":
            return f"{run.id} failed at {at}: {run.error.get('message', '')}"
        case _:
            kept = (
                "a complete checkpoint is kept" if run.checkpoint else "there was no checkpoint yet"
            )
            return f"{run.id} is {run.state} at {at}: {kept}."


def _spread(latest: dict[str, Any]) -> str:
    """The explained variance over the SAEs of a set, on the last batch."""
    if "explained_variance_worst" not in latest:
        return ""
    return (
        f" (explained variance {latest['explained_variance']:.2f} in the median, "
        f"{latest['explained_variance_worst']:.2f} at worst)"
    )


def _next(run: Run) -> list[str]:
    if run.dry_run and run.state == "done":
        return [next_call("train_sae", **run.request)] if run.plan["fits"] else []
    if run.live:
        return [next_call("job_status", job_id=run.id, wait_s=30)]
    if saes := run.result.get("saes"):
        one = next_call("evaluate_sae", sae=saes[0])
        model = run.settings["model"]
        whole = load_call(Source(path=run.result["path"], model=model, layers="all"), Placement())
        return [whole, one] if run.request.get("layers") and not _of_kinds(run) else [one]
    if run.state == "done":
        return [
            load_call(Source(path=run.result["path"], model=run.settings["model"]), Placement()),
            next_call("evaluate_sae", sae=run.result["sae"]),
        ]
    return [_resume(run)]


def _of_kinds(run: Run) -> bool:
    """Whether a set has several SAEs at a site: then each kind has its own folder of layers."""
    return any("/" in line.partition(":")[0] for line in run.result["members"])


def _resume(run: Run) -> str:
    return next_call("train_sae", resume=run.id)


def _progress(run: Run) -> tuple[int, int]:
    return run.progress.get("step", 0), run.progress.get("n_steps", 0)


TRAINING = Kind(
    tool="train_sae",
    request=TrainSae,
    reply=train_reply,
    resume=_resume,
    progress=_progress,
    worker="saescope_mcp.worker.train:TrainWorker",
    pictures=of_training,
)
