"""An indexing as a kind of job."""

from saescope.progress import duration
from saescope_mcp.binding import next_call
from saescope_mcp.jobs import Run
from saescope_mcp.kinds.kind import Kind, provenance_of
from saescope_mcp.schemas.index import IndexFeatures, IndexFeaturesReply, IndexSummary


def index_reply(run: Run) -> IndexFeaturesReply:
    """Say what an indexing has come to."""
    result, progress = run.result, run.progress
    return IndexFeaturesReply(
        summary=_summary(run),
        warnings=run.warnings,
        next=_next(run),
        **provenance_of(run),
        state=run.state,  # type: ignore[arg-type]  # one of JobState's
        job_id=run.id,
        sae=result.get("sae"),
        dataset=result.get("dataset"),
        n_tokens=progress.get("n_tokens"),
        eta_s=progress.get("eta_s") if run.live else None,
        indexes=[IndexSummary(**row) for row in result.get("indexes", [])],
        checkpoint=run.checkpoint,
    )


def _summary(run: Run) -> str:
    n_tokens, saes = (
        run.progress.get("n_tokens", 0),
        ", ".join(row["sae"] for row in run.settings["saes"]),
    )
    match run.state:
        case "done":
            rows = run.result["indexes"]
            parts = [
                f"{row['sae']} ({row['n_fired']:,} of {row['n_features']:,} features fired)"
                for row in rows
            ]
            return (
                f"Indexed {rows[0]['n_tokens']:,} tokens of {run.result['dataset']} for "
                f"{', '.join(parts)}."
            )
        case "queued":
            return f"{run.id}, indexing {saes}, is queued: {run.message}."
        case "running":
            eta_s = run.progress.get("eta_s")
            to_go = f", about {duration(eta_s)} to go" if eta_s else ""
            return f"{run.id} is indexing {saes}: {n_tokens:,} tokens read ({run.message}){to_go}."
        case "failed":
            return f"{run.id} failed at {n_tokens:,} tokens: {run.error.get('message', '')}"
        case _:
            return (
                f"{run.id} is {run.state} at {n_tokens:,} tokens: "
                f"{'a checkpoint is kept' if run.checkpoint else 'nothing is kept'}."
            )


def _next(run: Run) -> list[str]:
    if run.live:
        return [next_call("job_status", job_id=run.id, wait_s=30)]
    if run.state != "done":
        return [_resume(run)]
    return [next_call("describe_feature", sae=run.result["sae"], feature=0)]


def _resume(run: Run) -> str:
    """The call that resumes it where it was cut off."""
    return next_call("index_features", **run.request)


def _progress(run: Run) -> tuple[int, int]:
    return run.progress.get("n_tokens", 0), run.progress.get("n_wanted", 0)


INDEXING = Kind(
    tool="index_features",
    request=IndexFeatures,
    reply=index_reply,
    resume=_resume,
    progress=_progress,
    worker="saescope_mcp.worker.index:IndexWorker",
)
