"""Trainings and other jobs: how far, how good so far, and what is left."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from saescope.progress import duration
from saescope_mcp.cli.cells import text_of
from saescope_mcp.cli.renderers.parts import Document, facts, percent, rows, size, spark
from saescope_mcp.cli.typed import in_shell

CURVES = {
    "loss": "loss",
    "explained_variance": "explained variance",
    "l0": "L0",
    "dead_share": "dead features",
}


def train_sae(document: Document, console: Console) -> None:
    plan(document.get("plan"), console)
    facts(
        console,
        {
            "state": document["state"] if document["state"] != "planned" else None,
            "job": document.get("job_id"),
            "SAE": document.get("sae"),
            "folder": document.get("path"),
            "checkpoint": document.get("checkpoint"),
        },
    )
    curves(document.get("metrics") or {}, console)


def plan(document: Document | None, console: Console) -> None:
    """What a run takes here."""
    if not document:
        return
    facts(
        console,
        {
            "takes": f"{duration(document['eta_s'])} at {document['tokens_per_s']:.0f} tokens/s"
            if document.get("eta_s")
            else None,
            "steps": text_of(document.get("n_steps")),
            "features": f"{document['d_sae']:,}" if document.get("d_sae") else None,
            "memory": _of(document, "memory"),
            "disk": _of(document, "disk"),
            "learning rate": text_of(document["lr"]) if document.get("lr") else None,
            "device": document.get("device"),
        },
    )
    for change in document.get("change", []):
        console.print(f"to change: {in_shell(text_of(change))}", markup=False)


def _of(document: Document, what: str) -> str | None:
    need, free = document.get(f"{what}_bytes"), document.get(f"{what}_free_bytes")
    return f"{size(need)} of {size(free)} free" if need and free else None


def curves(metrics: Document, console: Console) -> None:
    """The last value of what is watched, with the curve that led to it."""
    latest = metrics.get("latest") or (metrics if "l0" in metrics else {})
    points: Sequence[Mapping[str, Any]] = metrics.get("history") or []
    shown = [(name, said) for name, said in CURVES.items() if latest.get(name) is not None]
    rows(
        console,
        [
            {
                "last step": said,
                "is": percent(latest[name]) if name == "dead_share" else text_of(latest[name]),
                "curve": spark([point.get(name) for point in points]) or None,
            }
            for name, said in shown
        ],
    )


def job_status(document: Document, console: Console) -> None:
    rows(
        console,
        [
            {
                "job": job["job_id"],
                "what": job["tool"].replace("_", "-"),
                "state": job["state"],
                "for": duration(job["elapsed_s"]),
                "message": job["message"],
            }
            for job in document["jobs"]
        ],
    )
    if document["job_id"] is None:
        return
    step, n_steps, eta_s = document["step"], document["n_steps"], document["eta_s"]
    facts(
        console,
        {
            "state": document["state"],
            "doing": document["message"],
            "step": f"{step:,} of {n_steps:,}" if step is not None and n_steps else None,
            "to go": duration(max(1.0, eta_s)) if eta_s else None,
            "checkpoint": document["checkpoint"],
            "picture": next(iter(document.get("pictures", [])), None),
        },
    )
    if error := document["error"]:
        facts(console, {"error": f"{error.get('code', '')} {error.get('message', '')}"})
    if not document["result"]:  # else it has the curves, and its own tool's display
        curves(document["metrics"] or {}, console)


def cancel_job(document: Document, console: Console) -> None:
    facts(
        console,
        {
            "job": document["job_id"],
            "state": document["state"],
            "tokens read": f"{document['n_tokens']:,}" if document.get("n_tokens") else None,
            "checkpoint": document["checkpoint"],
        },
    )
